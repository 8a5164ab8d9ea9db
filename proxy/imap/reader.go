package imap

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"

	"murder/internal/backend"
	"murder/internal/imapwire"
	"murder/internal/socket"
)

const (
	chunk = 64 << 10 // the pooled buffers, one of which serves a direction while data flow
	small = 256      // what a reader without access to its socket keeps instead while idle
	// tail is how much of an unfinished line stays in the buffer, so that a literal announcement
	// at its end is seen whole.
	tail = 64
	// maxResponseLine bounds a response line without its literals.
	maxResponseLine = 1 << 20
)

var chunks = sync.Pool{New: func() any { return new([chunk]byte) }}

// reader reads one direction of a connection. While it waits for a peer it holds no buffer: on a
// socket in clear it takes one from the pool when octets have arrived, elsewhere it waits with a
// small one of its own.
type reader struct {
	src   io.Reader
	raw   syscall.RawConn // of src, when src is a socket in clear
	buf   []byte          // pooled or first
	pool  *[chunk]byte
	first []byte
	r, w  int
	total int64 // octets read
	left  int64 // of the literal that is being read

	// wait, if not nil, is called when nothing has arrived and the reader is about to wait: the
	// moment to send on what has been gathered.
	wait  func()
	owner owner // nil for none
}

// owner is who has set a reader's deadline.
type owner interface {
	// late is asked when a read has met the deadline; true means that it is to be tried again.
	late() bool
}

// attempt is one read from a socket in clear.
type attempt struct {
	r   *reader
	n   int
	err error
	try func(fd uintptr) bool // bound once, so that waiting does not allocate
}

var attempts = sync.Pool{New: func() any {
	a := &attempt{}
	a.try = a.readSocket
	return a
}}

func newReader(src io.Reader) *reader {
	r := &reader{src: src}
	if conn, ok := src.(net.Conn); ok {
		r.raw = rawConn(conn)
	}
	return r
}

// rawConn returns the socket below conn if nothing between changes or counts the octets.
func rawConn(conn net.Conn) syscall.RawConn {
	var sys syscall.Conn
	switch c := conn.(type) {
	case *socket.Conn:
		sys = c
	case *net.TCPConn:
		sys = c
	case *net.UnixConn:
		sys = c
	default:
		return nil
	}
	raw, err := sys.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// buffered returns the octets that have been read and not consumed.
func (r *reader) buffered() []byte { return r.buf[r.r:r.w] }

func (r *reader) consume(n int) {
	r.r += n
	if r.r == r.w {
		r.release()
	}
}

func (r *reader) release() {
	if r.pool != nil {
		chunks.Put(r.pool)
		r.pool = nil
	}
	r.buf, r.r, r.w = nil, 0, 0
}

// fill reads at least one more octet.
func (r *reader) fill() error {
	for {
		err := r.fillOnce()
		if r.owner == nil || !errors.Is(err, os.ErrDeadlineExceeded) || !r.owner.late() {
			return err
		}
	}
}

// fillOnce is fill for a caller who minds the deadline himself. It fails with bufio.ErrBufferFull's
// meaning never: callers consume before the buffer is full.
func (r *reader) fillOnce() error {
	if r.r < r.w {
		r.grow()
	} else if r.raw == nil {
		return r.fillIdle()
	} else {
		return r.fillSocket()
	}
	if r.w == len(r.buf) {
		return errors.New("imap: reading into a full buffer")
	}
	r.waiting()
	n, err := r.src.Read(r.buf[r.w:])
	return r.got(n, err)
}

// grow makes room behind octets that have been read already.
func (r *reader) grow() {
	if r.pool == nil {
		p := chunks.Get().(*[chunk]byte)
		n := copy(p[:], r.buffered())
		r.pool, r.buf, r.r, r.w = p, p[:], 0, n
		return
	}
	if r.r > 0 {
		r.w = copy(r.buf, r.buffered())
		r.r = 0
	}
}

func (r *reader) fillIdle() error {
	if r.first == nil {
		r.first = make([]byte, small)
	}
	r.release()
	r.waiting()
	n, err := r.src.Read(r.first)
	r.buf = r.first
	if n == small {
		// More is waiting, most likely: the next read takes a large buffer behind these.
		r.r, r.w = 0, 0
		r.total += int64(n)
		r.w = n
		r.grow()
		return nil
	}
	return r.got(n, err)
}

func (r *reader) fillSocket() error {
	r.release()
	a := attempts.Get().(*attempt)
	a.r, a.n, a.err = r, 0, nil
	err := r.raw.Read(a.try)
	if err == nil {
		err = r.got(a.n, a.err)
	}
	a.r, a.err = nil, nil
	attempts.Put(a)
	return err
}

// silent reports whether a socket on which nobody reads has neither data nor an end to tell of.
// Where that cannot be known the answer is true.
func (r *reader) silent() bool {
	if r.r < r.w {
		return false
	}
	if r.raw == nil {
		return true
	}
	silent := false
	err := r.raw.Control(func(fd uintptr) { // whatever the deadline
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		silent = err == syscall.EAGAIN
	})
	return err == nil && silent
}

// readSocket is called when the socket may have data; false means wait until it has.
func (a *attempt) readSocket(fd uintptr) bool {
	r, p := a.r, chunks.Get().(*[chunk]byte)
	n, err := socket.ReadNow(fd, p[:])
	switch {
	case err == syscall.EAGAIN:
		chunks.Put(p)
		r.waiting()
		return false
	case n > 0:
		r.pool, r.buf, r.r, r.w = p, p[:], 0, 0
		a.n = n
	default:
		chunks.Put(p)
		a.err = err
		if err == nil {
			a.err = io.EOF
		}
	}
	return true
}

func (r *reader) waiting() {
	if r.wait != nil {
		r.wait()
	}
}

func (r *reader) got(n int, err error) error {
	r.w += n
	r.total += int64(n)
	if n > 0 {
		return nil
	}
	r.consume(0)
	if err == nil {
		return io.ErrNoProgress
	}
	return err
}

// appendLine appends one line to dst, without its CRLF or LF, and keeps nothing buffered while it
// waits. A line of more than limit octets is imapwire.ErrLineTooLong. With any other error, what
// has come of the line is in the result.
func (r *reader) appendLine(dst []byte, limit int) ([]byte, error) {
	return r.finishLine(dst, len(dst), limit)
}

// finishLine is appendLine for a line of which dst holds a part already, from start on.
func (r *reader) finishLine(dst []byte, start, limit int) ([]byte, error) {
	for {
		data := r.buffered()
		i := bytes.IndexByte(data, '\n')
		n := i + 1
		if i < 0 {
			n = len(data)
		}
		if len(dst)-start+n > limit+2 {
			return dst[:start], imapwire.ErrLineTooLong
		}
		dst = append(dst, data[:n]...)
		r.consume(n)
		if i >= 0 {
			end := len(dst) - 1
			if end > start && dst[end-1] == '\r' {
				end--
			}
			if end-start > limit {
				return dst[:start], imapwire.ErrLineTooLong
			}
			return dst[:end], nil
		}
		if err := r.fill(); err != nil {
			if err == io.EOF && len(dst) > start {
				err = io.ErrUnexpectedEOF
			}
			return dst, err
		}
	}
}

// quickAck acknowledges what has come from nc. In the middle of a long literal that would only make more and smaller packets
// of it.
func quickAck(r *reader, nc *backend.Conn) {
	if r.left <= chunk {
		nc.Acknowledge()
	}
}

// copyN passes the next n octets to put in pieces.
func (r *reader) copyN(n int64, put func([]byte) error) error {
	defer func() { r.left = 0 }()
	for n > 0 {
		r.left = n
		if len(r.buffered()) == 0 {
			if err := r.fill(); err != nil {
				return unexpected(err)
			}
		}
		data := r.buffered()
		data = data[:min(int64(len(data)), n)]
		if err := put(data); err != nil {
			return err
		}
		n -= int64(len(data))
		r.consume(len(data))
	}
	return nil
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// head waits for the next response line and returns its first octets, at least tail of them or the
// whole line, without consuming them.
func (r *reader) head() ([]byte, error) {
	for {
		data := r.buffered()
		if i := bytes.IndexByte(data, '\n'); i >= 0 {
			return data[:i+1], nil
		}
		if len(data) >= tail {
			return data, nil
		}
		if err := r.fill(); err != nil {
			if len(data) > 0 {
				err = unexpected(err)
			}
			return nil, err
		}
	}
}

// copyResponse passes one response line with its literals to put, octet for octet, in pieces
// (RFC 9051 section 4.3: a literal may stand anywhere in a line).
func (r *reader) copyResponse(put func([]byte) error) error {
	text := 0    // octets of text in this line
	cut := false // the buffer starts in the middle of a fragment
	for {
		data := r.buffered()
		i := bytes.IndexByte(data, '\n')
		if i < 0 {
			if n := len(data) - tail; n > 0 {
				if err := put(data[:n]); err != nil {
					return err
				}
				r.consume(n)
				text += n
				cut = true
			}
			if text > maxResponseLine {
				return imapwire.ErrLineTooLong
			}
			if err := r.fill(); err != nil {
				return unexpected(err)
			}
			continue
		}
		line := data[:i+1]
		lit, more, err := imapwire.TrailingLiteral(bytes.TrimSuffix(line[:i], []byte("\r")))
		if err == nil && cut && !more && announcementCut(line[:i]) {
			err = imapwire.ErrBadLiteral
		}
		if err != nil {
			return err
		}
		if err := put(line); err != nil {
			return err
		}
		r.consume(i + 1)
		if !more {
			return nil
		}
		if text += i + 1; text > maxResponseLine {
			return imapwire.ErrLineTooLong
		}
		cut = false
		if err := r.copyN(lit.Size, put); err != nil {
			return err
		}
	}
}

// takeResponse reads one response line with its literals, of at most limit octets, into memory.
func (r *reader) takeResponse(limit int) ([]byte, error) {
	var line []byte
	err := r.copyResponse(func(p []byte) error {
		if len(line)+len(p) > limit {
			return imapwire.ErrLineTooLong
		}
		line = append(line, p...)
		return nil
	})
	return line, err
}

// announcementCut reports whether line, the end of a longer one, may be the end of an announcement
// with more digits than any size has.
func announcementCut(line []byte) bool {
	line = bytes.TrimSuffix(line, []byte("\r"))
	if !bytes.HasSuffix(line, []byte("}")) {
		return false
	}
	return len(bytes.TrimLeft(bytes.TrimSuffix(line[:len(line)-1], []byte("+")), "0123456789")) == 0
}
