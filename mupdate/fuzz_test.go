package mupdate

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"murder/internal/mbox"
)

// corpus yields, for every connection of the transcripts here and of those of whole clusters, what one end
// sends: "C" the client, "S" the server.
func corpus(f *testing.F, end string) (texts []string) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil {
		f.Fatal(err)
	}
	more, err := filepath.Glob("../test/conformance/testdata/*.txt")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range append(files, more...) {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		said, on := map[string]string{}, ""
		for line := range strings.Lines(string(text)) {
			verb, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
			switch verb {
			case "on":
				on = strings.Fields(rest)[0]
			case end + ":":
				said[on] += expand(rest) + "\r\n"
			case end + "-":
				said[on] += expand(rest)
			}
		}
		for _, on := range slices.Sorted(maps.Keys(said)) {
			texts = append(texts, said[on])
		}
	}
	if len(texts) == 0 {
		f.Fatal("no transcripts")
	}
	return texts
}

// A frame that has been cut is the same however the input arrives, and never reaches beyond it.
func FuzzParse(f *testing.F) {
	for _, s := range append(corpus(f, "C"), corpus(f, "S")...) {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p := parser{literal: maxLiteral}
		frame, n, goAheads, err := p.parse(b)
		if err != nil || n == 0 {
			return
		}
		if n > len(b) || goAheads > maxFragments || len(frame.args) > len(b) {
			t.Fatalf("n %d of %d, %d go-aheads, %d arguments", n, len(b), goAheads, len(frame.args))
		}
		if _, m, _, err := p.parse(b[:n-1]); m != 0 || err != nil {
			t.Fatalf("complete before its end: %d, %v", m, err)
		}
		again, m, _, err := p.parse(b[:n])
		if m != n || err != nil || again.tag != frame.tag || again.word != frame.word || len(again.args) != len(frame.args) {
			t.Fatalf("%+v became %+v, %v", frame, again, err)
		}
		for i, a := range frame.args {
			if a.kind == bad && i != len(frame.args)-1 {
				t.Fatal("arguments behind a bad one")
			}
		}
	})
}

// Whole sessions: whatever is sent, the session ends with its input, without a panic, and all that a
// Cyrus client would have to read is well-formed.
func FuzzSession(f *testing.F) {
	for _, s := range corpus(f, "C") {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := newMemory()
		dir.have(mbox.Entry{Name: "n", State: mbox.Active, Location: "a.example!p1", ACL: "u\tlrs\t"},
			mbox.Entry{Name: "user.t.a-b", State: mbox.Active, Location: "b.example!p1", ACL: "\xff\r\n\"\\"},
			mbox.Entry{Name: "user.t.a.b", State: mbox.Reserved, Transfer: true, Location: "b.example!p2"},
			mbox.Entry{Name: "user.t.a", State: mbox.Reserved, Location: "b.example!"})
		cfg := testConfig(t, dir)
		cfg.Logger = slog.New(panicHandler{t})
		s := New(cfg)
		defer s.Shutdown(context.Background())
		login := expand(`A01 AUTHENTICATE "PLAIN" "${plain any}"` + "\r\n")
		c := newConn(s, &script{in: io.MultiReader(strings.NewReader(login), bytes.NewReader(b))})
		out := c.base.(*script)
		s.wg.Add(1)
		s.metrics.open.Inc()
		s.run(c)
		if bytes.Contains(bytes.ToUpper(b), []byte("COMPRESS")) {
			return
		}
		in := input{r: &out.out, p: parser{literal: maxLiteral}}
		for {
			line, ok, goAheads, err := in.next()
			if err != nil || goAheads != 0 {
				t.Fatalf("malformed output: %v", err)
			}
			if !ok {
				if in.fill() != nil {
					break
				}
				continue
			}
			switch line.word {
			case "OK", "NO", "BAD", "BYE":
				if line.args[len(line.args)-1].kind != str {
					t.Fatalf("a text that is no string: %+v", line)
				}
			case "MAILBOX", "RESERVE", "DELETE":
				if _, _, err := rowOf(&line); err != nil {
					t.Fatal(err)
				}
			case "AUTH", "COMPRESS", "PARTIAL-UPDATE", "go":
			default:
				t.Fatalf("unknown line %+v", line)
			}
		}
		if len(in.buf) != 0 {
			t.Fatalf("cut off: %q", in.buf)
		}
	})
}

// The other end: whatever a server says after its greeting, a client ends with it, without a panic, and passes
// on only what are records.
func FuzzClient(f *testing.F) {
	for _, s := range corpus(f, "S") {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		greeting := "* AUTH \"PLAIN\"\r\n* OK MUPDATE \"s\" \"i\" \"v\" \"(master)\"\r\nA01 OK \"Authenticated\"\r\n"
		nc := &script{in: io.MultiReader(strings.NewReader(greeting), bytes.NewReader(b))}
		c := &Client{cfg: ClientConfig{SASL: Password("any", testPassword)}, base: nc, nc: nc, secured: true}
		c.in, c.out.w = input{r: received{c}, p: parser{literal: 2 * maxLiteral}}, nc
		if err := errors.Join(c.readGreeting(t.Context()), c.login(t.Context())); err != nil {
			t.Fatal(err)
		}
		row := func(e mbox.Entry) error {
			if e.State == mbox.Active && len(e.Name)+len(e.Location)+len(e.ACL) > len(b) || e.State != mbox.Active && e.ACL != "" {
				t.Errorf("%+v", e)
			}
			return nil
		}
		c.List(t.Context(), "a!", row)
		c.Find(t.Context(), "n")
		c.Batch(t.Context(), []mbox.Write{{Kind: mbox.Reserve, Name: "n", Location: "a!p"}, {Kind: mbox.Delete, Name: "n"}})
		if err := c.Update(t.Context(), nil, Events{Row: row}); err == nil {
			t.Error("the stream goes on without a server")
		}
	})
}

// panicHandler fails the test on a panic that the server survived.
type panicHandler struct{ t *testing.T }

func (h panicHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelError }
func (h panicHandler) WithAttrs([]slog.Attr) slog.Handler           { return h }
func (h panicHandler) WithGroup(string) slog.Handler                { return h }
func (h panicHandler) Handle(_ context.Context, r slog.Record) error {
	if strings.Contains(r.Message, "panic") {
		r.Attrs(func(a slog.Attr) bool { h.t.Errorf("%s: %s", r.Message, a); return true })
	}
	return nil
}

// script is a connection whose client has said everything beforehand.
type script struct {
	in  io.Reader
	out bytes.Buffer
}

func (s *script) Read(p []byte) (int, error)       { return s.in.Read(p) }
func (s *script) Write(p []byte) (int, error)      { return s.out.Write(p) }
func (s *script) Close() error                     { return nil }
func (s *script) LocalAddr() net.Addr              { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }
func (s *script) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }
func (s *script) SetDeadline(time.Time) error      { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }
