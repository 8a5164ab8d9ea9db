package pop3

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"sync"

	"murder/proxy/login"
)

const (
	chunk      = 32 << 10
	maxPending = 1024
)

var chunks = sync.Pool{New: func() any { return new([chunk]byte) }}

// dialogue follows what passes after login just far enough to know whether the backend stands
// between two answers: only there may a line of our own be put when it is lost.
type dialogue struct {
	mu      sync.Mutex
	pending []bool // answers owed, oldest first: true if many lines follow a +OK
	lost    bool   // too many were owed to keep count
	over    bool   // the client said QUIT or is gone, or the backend spoke unasked

	command [16]byte // beginning of the client's current line
	length  int      // of that line so far

	answer [4]byte // beginning of the backend's current line
	have   int     // length of that line so far
	body   bool    // within the lines that follow a +OK
}

// up carries the client's octets.
func (d *dialogue) up(s *login.Session, b *login.Backend) error {
	err := carry(&s.Reader, func(p []byte) error {
		d.asked(p)
		_, err := b.Write(p)
		return err
	})
	d.mu.Lock()
	defer d.mu.Unlock()
	d.over = true
	return err
}

// down carries the backend's octets.
func (d *dialogue) down(s *login.Session, b *login.Backend) error {
	err := carry(&b.Reader, func(p []byte) error {
		d.answered(p)
		_, err := s.Write(p)
		if err != nil {
			return errClient
		}
		return nil
	})
	if errors.Is(err, errClient) {
		return err
	}
	if d.between() {
		s.Say("-ERR [SYS/TEMP] Backend connection lost\r\n")
	}
	return io.EOF // whatever it was: the client hears the end in good order
}

var errClient = errors.New("client does not read")

func carry(r io.Reader, put func([]byte) error) error {
	buf := chunks.Get().(*[chunk]byte)
	defer chunks.Put(buf)
	for {
		n, err := r.Read(buf[:])
		if n > 0 {
			if err := put(buf[:n]); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
	}
}

// asked looks at octets of the client.
func (d *dialogue) asked(p []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		part := p
		if i >= 0 {
			part = p[:i]
		}
		if d.length < len(d.command) {
			copy(d.command[d.length:], part)
		}
		d.length += len(part)
		if i < 0 {
			return
		}
		d.owe(strings.TrimRight(string(d.command[:min(d.length, len(d.command))]), "\r"))
		d.length = 0
		p = p[i+1:]
	}
}

// owe notes the answer to a command, of which the beginning is enough.
func (d *dialogue) owe(command string) {
	verb, arg, _ := strings.Cut(command, " ")
	many := false
	switch strings.ToUpper(verb) {
	case "RETR", "TOP", "CAPA":
		many = true
	case "LIST", "UIDL":
		many = strings.TrimSpace(arg) == ""
	case "QUIT":
		d.over = true
	}
	if len(d.pending) >= maxPending {
		d.lost = true
		return
	}
	d.pending = append(d.pending, many)
}

// answered looks at octets of the backend.
func (d *dialogue) answered(p []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		part := p
		if i >= 0 {
			part = p[:i]
		}
		if d.have < len(d.answer) {
			copy(d.answer[d.have:], part)
		}
		d.have += len(part)
		if i < 0 {
			return
		}
		line := string(d.answer[:min(d.have, len(d.answer))])
		d.have = 0
		p = p[i+1:]
		switch {
		case d.body:
			d.body = line != ".\r" && line != "."
		case len(d.pending) == 0:
			d.over = true // a farewell of its own
		default:
			d.body = d.pending[0] && line[:min(1, len(line))] == "+"
			d.pending = d.pending[1:]
		}
	}
}

// between reports whether a line of our own may follow what the backend has said.
func (d *dialogue) between() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.lost && !d.over && !d.body && d.have == 0
}
