package mupdate

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"murder/internal/imapwire"
	"murder/internal/mbox"
)

// The dialogues of testdata/*.txt, one case or a few a file:
//
//	server KEY...         options of the server; without it a voter as configured by default
//	have STATE NAME [LOCATION [ACL]]   a record, STATE active, reserved or transfer
//	on CONN [USER]        go on with a connection, opened and logged in as USER when it is new
//	C: TEXT               send a line; "C- TEXT" sends without the end of line
//	S: TEXT               the next line is exactly this; "S~ REGEXP" matches a whole line
//	closed                the server has closed
//	drop                  close from our side
//	tls, deflate          begin a layer
//	quorum lost|back|unknown
//	left NAME SERVER      what SERVER has of a mailbox is known to be a leftover
//	wait STATE NAME [LOCATION [ACL]]   until the record is so; STATE may be absent
//	is STATE NAME [LOCATION [ACL]]     the record is so now
//	repeat N TEXT         send TEXT N times
//
// In texts \t \r \n \\ and \xHH stand for octets, and ${plain USER} for a PLAIN response. Words of
// have, wait and is are separated by one space, and "_" is an empty word.

const patience = 5 * time.Second

func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			play(t, file)
		})
	}
}

type player struct {
	t     *testing.T
	dir   *memory
	srv   *testServer
	conns map[string]*dialogue
	cur   *dialogue
}

type dialogue struct {
	nc net.Conn
	r  *bufio.Reader
	z  func([]byte) error // deflated writes
}

func play(t *testing.T, file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	p := &player{t: t, dir: newMemory(), conns: map[string]*dialogue{}}
	cfg := testConfig(t, p.dir)
	for i, line := range strings.Split(string(text), "\n") {
		verb, rest, _ := strings.Cut(line, " ")
		if verb == "" || strings.HasPrefix(verb, "#") {
			continue
		}
		if verb == "server" {
			for _, key := range strings.Fields(rest) {
				option(t, &cfg, p.dir, key)
			}
			continue
		}
		if p.srv == nil {
			p.srv = startServer(t, cfg)
		}
		if err := p.step(verb, rest); err != nil {
			t.Fatalf("%s:%d: %s\n%v", file, i+1, line, err)
		}
	}
}

func option(t *testing.T, cfg *Config, dir *memory, key string) {
	switch key, value, _ := strings.Cut(key, "="); key {
	case "learner":
		cfg.Upstream = "cluster.example"
	case "unsynced":
		dir.unsynced = true
	case "tls":
		cfg.TLS = testTLS(t)
	case "no-plaintext":
		cfg.Auth = testAuth(t, "EXTERNAL") // needs TLS and a certificate
	case "full":
		cfg.MaxConnections = 1
	case "strict-rfc":
		cfg.StrictRFC = true
	case "read-only":
		cfg.ReadOnly = true
	case "unified":
		id := cfg.Identities["be-a"]
		id.Unified = true
		cfg.Identities["be-a"] = id
	case "noop-strict":
		cfg.NoopStrict = true
	case "delete-unknown=no", "delete-unknown":
		cfg.DenyUnknownDelete = true
	case "complete-transfer":
		cfg.CompleteTransfer = true
	case "unbound-delete":
		cfg.DenyUnboundDelete = true
	case "permissive":
		for name, id := range cfg.Identities {
			id.Permissive = true
			cfg.Identities[name] = id
		}
	case "order":
		order, err := mbox.ParseOrder(value)
		if err != nil {
			t.Fatal(err)
		}
		for name, id := range cfg.Identities {
			id.Order = order
			cfg.Identities[name] = id
		}
	case "replay":
		cfg.Replay = map[string]ReplayMode{"off": ReplayOff, "all": ReplayAll}[value]
	case "brake":
		cfg.ConflictBrake, _ = strconv.Atoi(value)
	case "domain":
		cfg.DefaultDomain = value
	default:
		t.Fatalf("unknown server option %q", key)
	}
}

var plainVar = regexp.MustCompile(`\$\{plain ([^}]*)\}`)

func expand(s string) string {
	s = plainVar.ReplaceAllStringFunc(s, func(v string) string {
		user := plainVar.FindStringSubmatch(v)[1]
		user, password, ok := strings.Cut(user, ":")
		if !ok {
			password = testPassword
		}
		return base64.StdEncoding.EncodeToString([]byte("\x00" + user + "\x00" + password))
	})
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		switch i++; s[i] {
		case 't':
			b.WriteByte('\t')
		case 'r':
			b.WriteByte('\r')
		case 'n':
			b.WriteByte('\n')
		case 'x':
			n, _ := strconv.ParseUint(s[i+1:i+3], 16, 8)
			b.WriteByte(byte(n))
			i += 2
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

func (p *player) step(verb, rest string) error {
	switch verb {
	case "on":
		name, user, _ := strings.Cut(rest, " ")
		if p.cur = p.conns[name]; p.cur == nil {
			p.cur = dialServer(p.t, p.srv)
			p.conns[name] = p.cur
			if user != "" {
				return p.cur.login(user)
			}
		}
		return nil
	case "have":
		e, err := entryOf(rest)
		p.dir.have(e)
		return err
	case "is", "wait":
		want, err := entryOf(rest)
		if err != nil {
			return err
		}
		return p.check(want, verb == "wait")
	case "left":
		name, server, _ := strings.Cut(rest, " ")
		p.dir.mu.Lock()
		defer p.dir.mu.Unlock()
		p.dir.left[mbox.Name(name)] = mbox.Server(server)
		return nil
	case "quorum":
		p.dir.mu.Lock()
		defer p.dir.mu.Unlock()
		p.dir.writeErr, p.dir.barrierErr = nil, nil
		switch rest {
		case "lost":
			p.dir.writeErr, p.dir.barrierErr = mbox.ErrUnavailable, mbox.ErrUnavailable
		case "unknown":
			p.dir.writeErr = mbox.ErrUnknownOutcome
		}
		return nil
	}
	d := p.cur
	if d == nil {
		return errors.New("no connection")
	}
	d.nc.SetDeadline(time.Now().Add(patience))
	switch verb {
	case "C:":
		return d.send(expand(rest) + "\r\n")
	case "C-":
		return d.send(expand(rest))
	case "repeat":
		n, text, _ := strings.Cut(rest, " ")
		count, _ := strconv.Atoi(n)
		return d.send(strings.Repeat(expand(text), count))
	case "S:":
		got, err := d.line()
		if err == nil && got != expand(rest) {
			err = fmt.Errorf("got %q", got)
		}
		return err
	case "S~":
		got, err := d.line()
		if err == nil && !regexp.MustCompile(`^(?:`+rest+`)$`).MatchString(got) {
			err = fmt.Errorf("got %q", got)
		}
		return err
	case "closed":
		if got, err := d.line(); err == nil {
			return fmt.Errorf("got %q", got)
		} else if ne, ok := err.(net.Error); ok && ne.Timeout() {
			return errors.New("still open")
		}
		return nil
	case "drop":
		return d.nc.Close()
	case "tls":
		tc := tls.Client(d.nc, &tls.Config{InsecureSkipVerify: true})
		d.nc, d.r = tc, bufio.NewReader(tc)
		return tc.Handshake()
	case "deflate":
		in, out := input{r: d.r}, output{w: d.nc}
		deflateLayer(&in, &out)
		d.r, d.z = bufio.NewReader(in.r), func(b []byte) error { _, err := out.w.Write(b); return err }
		return nil
	}
	return fmt.Errorf("unknown verb %q", verb)
}

func (d *dialogue) send(s string) error {
	if d.z != nil {
		return d.z([]byte(s))
	}
	_, err := d.nc.Write([]byte(s))
	return err
}

func (d *dialogue) line() (string, error) {
	b, err := imapwire.ReadLine(d.r, nil, 1<<20)
	return string(b), err
}

func (d *dialogue) login(user string) error {
	d.nc.SetDeadline(time.Now().Add(patience))
	if err := d.until("* OK"); err != nil {
		return err
	}
	if err := d.send(expand(`A01 AUTHENTICATE "PLAIN" "${plain ` + user + `}"` + "\r\n")); err != nil {
		return err
	}
	return d.until("A01 OK")
}

func (d *dialogue) until(prefix string) error {
	for {
		got, err := d.line()
		if err != nil || strings.HasPrefix(got, prefix) {
			return err
		}
		if !strings.HasPrefix(got, "* ") {
			return fmt.Errorf("got %q", got)
		}
	}
}

func entryOf(s string) (mbox.Entry, error) {
	words := strings.SplitN(s, " ", 4)
	for i := range words {
		if words[i] == "_" {
			words[i] = ""
		}
	}
	words = append(words, "", "")
	e := mbox.Entry{Name: mbox.Name(expand(words[1])), Location: mbox.Location(words[2]), ACL: mbox.ACL(expand(words[3]))}
	switch words[0] {
	case "absent":
	case "transfer":
		e.Transfer = true
		fallthrough
	case "reserved":
		e.State = mbox.Reserved
	case "active":
		e.State = mbox.Active
	default:
		return e, fmt.Errorf("unknown state %q", words[0])
	}
	return e, nil
}

func (p *player) check(want mbox.Entry, wait bool) error {
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	for {
		v := p.dir.View()
		got, _ := v.Get(want.Name)
		got.Name, got.Index = want.Name, 0
		if got == want {
			return nil
		}
		if !wait {
			return fmt.Errorf("it is %+v", got)
		}
		if _, _, err := p.dir.Changes(ctx, v.Index()); err != nil {
			return fmt.Errorf("it is still %+v", got)
		}
	}
}
