package imap

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/iotest"
)

// What goes in comes out or the connection ends: whatever the framing, the relay neither loses nor
// invents an octet.
func FuzzRelay(f *testing.F) {
	for _, s := range []string{
		"* 1 FETCH (BODY[] {3}\r\nabc)\r\na OK done\r\n", "* OK\n", "{5}\r\n", "* X {3+}\r\nab", "a {99999999999999999999}\r\n",
		"* " + strings.Repeat("x", 70) + "{2}\r\nab\r\n", "+ go\r\n* BYE\r\n", "\xff\x00{0}\r\n\r\n",
		"* " + strings.Repeat("0", 100) + "}\r\n",
	} {
		f.Add([]byte(s), byte(0))
		f.Add([]byte(s), byte(1))
	}
	f.Fuzz(func(t *testing.T, in []byte, slow byte) {
		var src io.Reader = bytes.NewReader(in)
		if slow%2 == 1 {
			src = iotest.OneByteReader(src)
		}
		r := newReader(src)
		defer r.release()
		var out []byte
		for {
			head, err := r.head()
			if err != nil {
				break
			}
			classify(head)
			if !bytes.HasPrefix(in[len(out):], head) {
				t.Fatalf("head %q of %q", head, in[len(out):])
			}
			err = r.copyResponse(func(p []byte) error { out = append(out, p...); return nil })
			if err != nil {
				break
			}
			if len(out) > 0 && out[len(out)-1] != '\n' {
				t.Fatalf("a response ends in %q", out[len(out)-1])
			}
		}
		if !bytes.HasPrefix(in, out) {
			t.Fatalf("in %q\nout %q", in, out)
		}
	})
}

// The commands of a client are read to the same framing, however they arrive.
func FuzzCommand(f *testing.F) {
	for _, s := range []string{
		"a1 SELECT {5}\r\nINBOX\r\n", "a LIST (SUBSCRIBED) \"\" (\"a\" b%) RETURN (STATUS (X Y))\r\n", "x UID FETCH 1 (FLAGS)\r\n",
		"a CREATE x (USE (\\Sent) SERVER b1)\r\n", `a LOGIN "a\"b" {2+}` + "\r\nxx\r\n", "a ID (\"x\" NIL)\r\n",
	} {
		f.Add([]byte(s))
	}
	cfg := new(Config)
	lister := &session{cfg: cfg, view: cfg.Namespace.View("alice", false, false)}
	f.Fuzz(func(t *testing.T, in []byte) {
		r := newReader(bytes.NewReader(in))
		defer r.release()
		line, err := r.appendLine(nil, 1000)
		if err != nil {
			return
		}
		c, err := parseCommand(line)
		if err != nil {
			return
		}
		for _, read := range []func(){
			func() { c.exactly(2) }, func() { c.eat(' '); c.list() }, func() { lister.parseList(c) },
			func() { metadataTarget(c) }, func() { parseSurvey(in) }, func() { parseListLine(in, "LIST") },
		} {
			c.parser = parser{b: in, pos: min(c.args, len(in))}
			read()
		}
		condition(in)
	})
}

func TestReaderLines(t *testing.T) {
	for _, one := range []bool{false, true} {
		var src io.Reader = strings.NewReader("abc\r\nd\n" + strings.Repeat("x", 1000) + "\r\nrest")
		if one {
			src = iotest.OneByteReader(src)
		}
		r := newReader(src)
		for _, want := range []string{"abc", "d", strings.Repeat("x", 1000)} {
			if got, err := r.appendLine(nil, 1000); string(got) != want || err != nil {
				t.Fatalf("got %.20q %v, want %.20q", got, err, want)
			}
		}
		if got, err := r.appendLine(nil, 1000); string(got) != "rest" || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("got %q %v", got, err)
		}
	}
}

// A reader that waits holds no buffer; a pooled one comes with the data and goes with them.
func TestReaderHoldsNothing(t *testing.T) {
	a, b := socketPair(t)
	r := newReader(a)
	for range 3 {
		go b.Write(bytes.Repeat([]byte("* line\r\n"), 1000))
		for range 1000 {
			if line, err := r.appendLine(nil, 100); string(line) != "* line" || err != nil {
				t.Fatalf("got %q %v", line, err)
			}
		}
		if r.pool != nil || r.buf != nil {
			t.Fatal("a buffer is held while there is nothing to read")
		}
	}
	if !r.silent() {
		t.Error("an open connection is not silent")
	}
	b.Close()
	eventually(t, "the end is seen", func() bool { return !r.silent() })
}

func socketPair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if b, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if a, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// One relayed line costs no allocation.
func TestRelayAllocates(t *testing.T) {
	line := []byte("* 12 FETCH (FLAGS (\\Seen) UID 17 BODY[TEXT] {5}\r\nhello)\r\n")
	src := &endless{line: line}
	r := newReader(src)
	put := func([]byte) error { return nil }
	n := testing.AllocsPerRun(1000, func() {
		head, err := r.head()
		if err != nil {
			t.Fatal(err)
		}
		classify(head)
		if err := r.copyResponse(put); err != nil {
			t.Fatal(err)
		}
	})
	if n > 0 {
		t.Errorf("%v allocations for one line", n)
	}
}

type endless struct {
	line []byte
	at   int
}

func (e *endless) Read(p []byte) (n int, err error) {
	for n < len(p) {
		k := copy(p[n:], e.line[e.at:])
		n += k
		e.at = (e.at + k) % len(e.line)
	}
	return n, nil
}

func TestClassify(t *testing.T) {
	for head, want := range map[string]kind{
		"* 12 FETCH (":      kindMailbox,
		"* 3 EXISTS\r\n":    kindMailbox,
		"* FLAGS (x)":       kindMailbox,
		"* VANISHED 3":      kindMailbox,
		"* CAPABILITY X":    kindOwn,
		"* ENABLED\r\n":     kindOwn,
		"* BYE\r\n":         kindBye,
		"* bye x\r\n":       kindBye,
		"* OK [ALERT] x":    kindAlert,
		"* OK [CLOSED]\r\n": kindOther,
		"* LIST () x":       kindOther,
		"+ go\r\n":          kindContinue,
		"+\r\n":             kindContinue,
		"a1 OK":             kindTagged,
	} {
		if got := classify([]byte(head)); got != want {
			t.Errorf("%q: got %d, want %d", head, got, want)
		}
	}
}
