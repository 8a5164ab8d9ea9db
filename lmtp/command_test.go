package lmtp

import (
	"bufio"
	"math"
	"strings"
	"testing"
)

func TestParseMail(t *testing.T) {
	for _, c := range []struct {
		args string
		want envelope
	}{
		{"FROM:<>", envelope{}},
		{"from:<a@x>", envelope{from: "a@x"}},
		{"FROM: <a@x>", envelope{from: "a@x"}},
		{"FROM:<@r,@s:a@x>", envelope{from: "a@x"}},
		{`FROM:<"a> b"@x>`, envelope{from: `"a> b"@x`}},
		{"FROM:<alice>", envelope{from: "alice"}},
		{"FROM:<a@x> SIZE=10 body=8bitmime AUTH=b+2Bc", envelope{from: "a@x", size: 10, body: "8BITMIME", poster: "b+c"}},
		{"FROM:<a@x> SIZE=99999999999999999999", envelope{from: "a@x", size: math.MaxInt64}},
		{"FROM:<a@x> AUTH=<>", envelope{from: "a@x"}},
	} {
		got, refusal := parseMail(c.args)
		if refusal.code != 0 || got != c.want {
			t.Errorf("%s: got %+v %v", c.args, got, refusal)
		}
	}
	for args, want := range map[string]reply{
		"":                          replySyntax,
		"FROM":                      replySyntax,
		"TO:<a@x>":                  replySyntax,
		"FROM:<a@x":                 replySyntax,
		"FROM:<a@x>SIZE=1":          replySyntax,
		"FROM:<a<b@x>":              replySyntax,
		"FROM:<\u00fc@x>":           replySenderPath,
		"FROM:<a@x> SIZE=-1":        replySyntax,
		"FROM:<a@x> AUTH=":          replySyntax,
		"FROM:<a@x> AUTH=a+4g":      replySyntax,
		"FROM:<a@x> AUTH=a+2b":      replySyntax, // xtext is in capitals
		"FROM:<a@x> BODY=BINARY":    replySyntax,
		"FROM:<a@x> X=Y":            replyParameter,
		"FROM:<a@x> SMTPUTF8":       replyNoUTF8,
		"FROM:<a@x> RET=HDRS X":     replyParameter,
		"FROM:<" + long(2000) + ">": replySenderPath,
	} {
		if _, got := parseMail(args); got.String() != want.String() {
			t.Errorf("%.60s: got %v, want %v", args, got, want)
		}
	}
}

func long(n int) string { return strings.Repeat("x", n) }

func TestMailAuth(t *testing.T) {
	for in, want := range map[string]string{"": "<>", "alice": "alice", "alice@x": "alice@x", "a+b": "<>", "a=b": "<>", "a b": "<>", "\u00fc": "<>"} {
		if got := mailAuth(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

// What the parser lets through can be written to a backend as one command.
func FuzzCommand(f *testing.F) {
	for _, seed := range []string{
		"MAIL FROM:<a@x> SIZE=1 AUTH=b+2Bc BODY=7BIT", "RCPT TO:<\"a b\"@x> IGNOREQUOTA", "LHLO x", `MAIL FROM:<"\"">`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		verb, args := splitCommand(line)
		if verb != strings.ToUpper(verb) {
			t.Fatalf("verb %q", verb)
		}
		if e, refusal := parseMail(args); refusal.code == 0 {
			c := &client{capabilities: capabilities{offersSize: true, eightBit: true, offersAuth: true}}
			checkCommand(t, c.mail(&e, 1), e.from)
		}
		if a, _, refusal := parseRcpt(args); refusal.code == 0 {
			checkCommand(t, "RCPT TO:<"+a.Path+">", a.Path)
		}
		validName(args)
	})
}

// checkCommand parses a command as a backend would.
func checkCommand(t *testing.T, command, path string) {
	t.Helper()
	if strings.ContainsAny(command, "\r\n\x00") {
		t.Fatalf("%q holds a line end or NUL", command)
	}
	_, rest, _ := strings.Cut(command, ":")
	if end := pathEnd(rest); end < 0 || rest[1:end] != path {
		t.Fatalf("%q: the path is not %q", command, path)
	}
}

func TestReadReply(t *testing.T) {
	for _, c := range []struct{ in, want, enhanced string }{
		{"250 ok\r\n", "250 ok", ""},
		{"250\r\n", "250 ", ""},
		{"250 2.1.5 Ok\n", "250 2.1.5 Ok", "2.1.5"},
		{"550-a\r\n550-b\r\n550 5.1.1 c\r\n", "550 a / b / 5.1.1 c", "5.1.1"},
		{"250 a\x01b\xff\r\n", "250 a?b?", ""},
		{"250 " + long(5000) + "\r\n", "250 " + long(500), ""},
		{strings.Repeat("250-x\r\n", 50) + "250 2.0.0 end\r\n", "250 " + strings.Repeat("x / ", 9) + "2.0.0 end", "2.0.0"},
	} {
		rep, err := readReply(bufio.NewReader(strings.NewReader(c.in)))
		if err != nil || rep.String() != c.want || rep.enhanced() != c.enhanced {
			t.Errorf("%.40q: got %q %q %v, want %q %q", c.in, rep, rep.enhanced(), err, c.want, c.enhanced)
		}
	}
	for _, in := range []string{"", "25", "25x ok\r\n", "2500 ok\r\n", "150 ok\r\n", "650 ok\r\n", "250-a\r\n251 b\r\n", "250-a\r\n", "hello\r\n",
		strings.Repeat("250-x\r\n", 1000)} {
		if rep, err := readReply(bufio.NewReader(strings.NewReader(in))); err == nil {
			t.Errorf("%.40q: got %v", in, rep)
		}
	}
}

// Whatever a backend says, the client gets whole lines that read as the same reply, within the limits.
func FuzzReply(f *testing.F) {
	for _, seed := range []string{"250 2.1.5 Ok\r\n", "550-5.1.1 a\r\n550 5.1.1 b\r\n", "450 5.0.0 x\r\n", "421 bye\r\n", "250\r\n", "220-\r\n220 x\n", "552 5.2.3\r\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		rep, err := readReply(bufio.NewReaderSize(strings.NewReader(in), 64))
		if err != nil {
			return
		}
		if rep.code/100 == 3 { // never passed on
			return
		}
		out := string(rep.passedOn().appendTo(nil))
		r := bufio.NewReader(strings.NewReader(out))
		again, err := readReply(r)
		if err != nil || again.code != rep.code || len(again.lines) != len(rep.lines) || r.Buffered() != 0 {
			t.Fatalf("%q became %q, which reads as %+v, %v", in, out, again, err)
		}
		if code := again.enhanced(); code == "" || code[0] != out[0] {
			t.Fatalf("%q became %q, with the enhanced code %q", in, out, code)
		}
		for line := range strings.Lines(out) {
			if len(line) > 520 || strings.ContainsAny(strings.TrimSuffix(line, "\r\n"), "\r\n\x00") {
				t.Fatalf("%q became the line %q", in, line)
			}
		}
	})
}
