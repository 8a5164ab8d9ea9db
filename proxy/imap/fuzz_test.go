package imap

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"murder/internal/backend"
	"murder/internal/imapwire"
	"murder/internal/mbox"
)

// The rule of these tests: what goes in comes out, octet for octet, or the connection ends with what no
// backend takes for a complete command.

// sinkConn is a connection to nobody; it knows whether it has been closed.
type sinkConn struct {
	net.Conn
	closed bool
}

func (c *sinkConn) SetReadDeadline(time.Time) error  { return nil }
func (c *sinkConn) SetWriteDeadline(time.Time) error { return nil }
func (c *sinkConn) SetDeadline(time.Time) error      { return nil }
func (c *sinkConn) Close() error                     { c.closed = true; return nil }

// path is a session whose client sends what is given, and its connection to a backend that takes
// everything and answers nothing.
type path struct {
	s   *session
	b   *conn
	to  *sinkConn
	out bytes.Buffer // for the backend
	say bytes.Buffer // to the client
	x   *exchange
}

// toNobody makes connections to a backend that is not there.
var toNobody = backend.New(backend.Config{
	Servers: map[mbox.Server]backend.Settings{"b1": {Host: "127.0.0.1", TLS: backend.NoTLS}},
	Dial:    func(context.Context, string) (net.Conn, error) { return &sinkConn{}, nil },
})

var nobodysMetrics = newMetrics(nil)

func newPath(t testing.TB, in []byte, slow bool) *path {
	nc, err := toNobody.Dial(context.Background(), "b1", backend.IMAP)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() }) // only so many may be open at a time without a greeting
	p := &path{to: nc.Conn.(*sinkConn)}
	cfg := &Config{Directory: newMemory(), Logger: slog.New(slog.DiscardHandler)}
	cfg.Limits.fill()
	cfg.Limits.Append = 1000
	var src io.Reader = bytes.NewReader(in)
	if slow {
		src = iotest.OneByteReader(src)
	}
	p.s = &session{srv: &Server{cfg: *cfg, metrics: nobodysMetrics}, cfg: cfg, ctx: context.Background(),
		sock: &sinkConn{}, clear: &sinkConn{}, in: newReader(src), view: cfg.Namespace.View("alice", false, false)}
	p.s.out.writer = writer{dst: &p.say, conn: &sinkConn{}, stall: time.Minute}
	p.b = &conn{s: p.s, server: "b1", nc: nc, pumping: true}
	p.b.out = writer{dst: &p.out, conn: p.to, stall: time.Minute}
	// Whatever is asked is granted.
	p.x = &exchange{tag: "x", hold: true, more: make(chan struct{}), done: make(chan struct{})}
	close(p.x.more)
	return p
}

// command reads the first line of a command, as a session does.
func (p *path) command() *command {
	line, err := p.s.in.appendLine(nil, p.s.cfg.Limits.Line)
	if err != nil {
		return nil
	}
	c, err := parseCommand(line)
	if err != nil {
		return nil
	}
	c.verb = &verb{name: c.name, stream: true}
	return c
}

var announcement = regexp.MustCompile(`~?\{([0-9]+)(\+?)\}$`)

// framed is what a command consists of: its octets, with each line ended by CRLF, and how long it is in
// the input; whole is false if it does not end, or has a message beyond 1000 octets.
func framed(in []byte) (octets []byte, used int, whole bool) {
	rest := in
	for first := true; ; first = false {
		i := bytes.IndexByte(rest, '\n')
		if i < 0 {
			return octets, len(in) - len(rest), false
		}
		line := bytes.TrimSuffix(rest[:i], []byte("\r"))
		m := announcement.FindSubmatch(line)
		size := 0
		if m != nil {
			n, err := strconv.ParseUint(string(m[1]), 10, 62)
			if err != nil || !first && n > 1000 {
				return octets, len(in) - len(rest), false
			}
			size = int(min(n, 1<<40))
		}
		octets = append(append(octets, line...), "\r\n"...)
		rest = rest[i+1:]
		if m == nil {
			return octets, len(in) - len(rest), true
		}
		if size > len(rest) {
			return append(octets, rest...), len(in), false
		}
		octets = append(octets, rest[:size]...)
		rest = rest[size:]
	}
}

// commands are the seeds of the fuzz tests.
var commands = []string{
	"a APPEND INBOX {3+}\r\nabc\r\n", "a APPEND INBOX (\\Seen) {3}\r\na\r\n {2+}\r\n}\n\r\nb NOOP\r\n", "a SEARCH TEXT ~{0}\r\n\n",
	"a UID FETCH 1 BODY[HEADER.FIELDS ({5}\r\n{9+}\n)]\n", "a APPEND INBOX {1+}\r\nx {1001+}\r\n", "a APPEND x {9999999999999999999999+}\r\n",
	"a APPEND {5}\r\nINBOX {2+}\r\n\x00\xff", "a STORE 1 FLAGS (x)\r", "a X {5+}{3+}\r\n{1}\r\n", "a X {00003}\r\nabc\r\n",
	"a APPEND INBOX CATENATE (TEXT {3}\r\na)b URL \"/x;UID=1\" TEXT {1+}\r\nz) {2+}\r\nab\r\n", "a APPEND INBOX CATENATE (URL {6+}\r\n/a/;U=)\r\n",
	"a APPEND INBOX CATENATE (TEXT {3}\r\n(\r\n URL x)\r\n", "a APPEND \"IN\\\"BOX\" (\\Seen) \"date\" CATENATE ( TEXT {0+}\r\n  URL x\\y)\r\n",
}

func addCommands(f *testing.F) {
	for _, s := range commands {
		f.Add([]byte(s), false)
		f.Add([]byte(s), true)
	}
}

// newCommand is a path with its command, nil if that is none to relay.
func newCommand(t testing.TB, in []byte, slow bool) (*path, *command) {
	p := newPath(t, in, slow)
	c := p.command()
	if c != nil {
		t.Cleanup(p.s.in.release)
	}
	return p, c
}

// A command that is relayed as it comes.
func FuzzStream(f *testing.F) {
	addCommands(f)
	f.Fuzz(func(t *testing.T, in []byte, slow bool) {
		p, c := newCommand(t, in, slow)
		if c == nil {
			return
		}
		want, used, whole := framed(in)
		err := p.s.streamOn(c, p.b, p.x, c.line)
		p.b.out.flush()
		got := p.out.Bytes()
		switch {
		case err == nil && !whole:
			t.Fatalf("half a command %q is complete: %q", in, got)
		case err == nil:
			if !bytes.Equal(got, want) {
				t.Fatalf("in   %q\nwant %q\ngot  %q", in, want, got)
			}
			if p.s.in.total-int64(len(p.s.in.buffered())) != int64(used) {
				t.Fatalf("%q: %d octets taken, the command has %d", in, p.s.in.total, used)
			}
		case whole:
			t.Fatalf("%q: %v", in, err)
		default:
			if !bytes.HasPrefix(want, got) {
				t.Fatalf("in   %q\nwant %q\ngot  %q", in, want, got)
			}
			if !p.to.closed && err != error(errTooBig) {
				t.Fatalf("%q: the backend waits for the rest: %v", in, err)
			}
		}
	})
}

// A command that is read whole, and sent again in the way that its backend understands.
func FuzzWhole(f *testing.F) {
	addCommands(f)
	f.Fuzz(func(t *testing.T, in []byte, plus bool) {
		p, c := newCommand(t, in, false)
		if c == nil {
			return
		}
		want, _, whole := framed(in)
		err := p.s.readWhole(c)
		if err != nil {
			return // nothing has been sent
		}
		if !whole && !bytes.Contains(in, []byte("100")) { // the size of a message is no matter here
			t.Logf("%q", c.line)
		}
		if plus {
			p.b.caps = parseCaps("LITERAL+")
		}
		p.b.send(p.x, append(bytes.Clone(c.line), "\r\n"...))
		if got := p.out.Bytes(); whole && !bytes.Equal(plainly(got), plainly(want)) {
			t.Fatalf("in   %q\nwant %q\ngot  %q", in, want, got)
		}
	})
}

// plainly takes the "+" out of the announcements of a command.
func plainly(command []byte) (plain []byte) {
	for {
		i := bytes.IndexByte(command, '\n')
		if i < 0 {
			return append(plain, command...)
		}
		line := bytes.TrimSuffix(command[:i+1], []byte("\r\n"))
		command = command[i+1:]
		lit, more, _ := imapwire.TrailingLiteral(line)
		if more && lit.NonSync {
			line = append(bytes.Clone(line[:len(line)-2]), '}')
		}
		plain = append(append(plain, line...), "\r\n"...)
		if more {
			n := min(int(lit.Size), len(command))
			plain = append(plain, command[:n]...)
			command = command[n:]
		}
	}
}

// A message that is put together: the parts arrive as they were, in their order, with what comes behind
// them.
func FuzzCatenate(f *testing.F) {
	addCommands(f)
	f.Fuzz(func(t *testing.T, in []byte, slow bool) {
		p, c := newCommand(t, in, slow)
		if c == nil {
			return
		}
		at, ok := catenateAt(c.line, c.args)
		if !ok {
			return
		}
		octets, _, whole := framed(in)
		k := &catenate{s: p.s, c: c, dst: p.b, x: p.x}
		head := bytes.Clone(c.line)
		p.b.out.put(head[:at])
		err := k.parts(head[at:])
		p.b.out.flush()
		got := p.out.Bytes()
		if err != nil {
			if _, _, ended := framed(got); ended {
				t.Fatalf("%v, but complete: %q", err, got)
			}
			return
		}
		if !whole {
			t.Fatalf("half a command %q is complete: %q", in, got)
		}
		sent, after := partsOf(octets[at:])
		came, behind := partsOf(got[at:])
		if !slices.Equal(sent, came) || !bytes.Equal(plainly(after), plainly(behind)) {
			t.Fatalf("in   %q\nout  %q\nsent %q %q\ncame %q %q", in, got, sent, after, came, behind)
		}
	})
}

// partsOf reads the parts of a message, and what follows them.
func partsOf(octets []byte) (list []string, behind []byte) {
	p := parser{b: octets}
	for {
		for p.eat(' ') {
		}
		if p.eat(')') || p.end() {
			return list, p.rest()
		}
		kind, _ := p.astring(false)
		p.eat(' ')
		value, err := p.astring(false)
		if err != nil {
			return append(list, err.Error()), p.rest()
		}
		list = append(list, strings.ToUpper(kind)+" "+value)
	}
}
