package lmtp

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// normalise runs the normaliser over input cut into pieces. ok is false if the data did not end.
func normalise(input []byte, n *normaliser, cut func(rest int) int) (out, rest []byte, ok bool) {
	for len(input) > 0 {
		k := min(max(cut(len(input)), 1), len(input))
		var used int
		var done bool
		out, used, done = n.feed(out, input[:k])
		input = input[used:]
		if done {
			return out, input, true
		}
	}
	return out, nil, false
}

func whole(rest int) int { return rest }

// reference says the same in the words of the rule: end of data, unstuffing, lone CR and LF, stuffing.
func reference(input []byte) (out, rest []byte, ok bool) {
	const eol = "\r\n"
	s := eol + string(input)
	end := strings.Index(s, "\r\n.\r\n")
	if end < 0 {
		return nil, nil, false
	}
	rest = []byte(s[end+len("\r\n.\r\n"):])
	if end == 0 {
		return []byte{}, rest, true
	}
	lines := strings.Split(s[len(eol):end], eol)
	for i, line := range lines {
		lines[i] = strings.TrimPrefix(line, ".")
	}
	text := strings.Join(lines, "\n") // CRLF and lone LF are the same from here on
	text = strings.ReplaceAll(text, "\r", "")
	lines = strings.Split(text, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, ".") {
			lines[i] = "." + line
		}
	}
	return []byte(strings.Join(lines, eol) + eol), rest, true
}

// backendEnd is where a Cyrus backend would take the data to end: it reads lines in pieces of 8189
// octets, drops lone CR, and accepts LF as a line end.
func backendEnd(data []byte) int {
	for at := 0; at < len(data); {
		n := bytes.IndexByte(data[at:], '\n') + 1
		if n == 0 || n > 8189 {
			n = min(8189, len(data)-at)
		}
		piece := bytes.ReplaceAll(data[at:at+n], []byte("\r"), nil)
		at += n
		if string(piece) == ".\n" {
			return at
		}
	}
	return -1
}

func TestNormalise(t *testing.T) {
	for _, c := range []struct{ name, in, want, rest string }{
		{"plain", "a: b\r\n\r\nhi\r\n.\r\n", "a: b\r\n\r\nhi\r\n", ""},
		{"empty", ".\r\n", "", ""},
		{"one empty line", "\r\n.\r\n", "\r\n", ""},
		{"what follows", "x\r\n.\r\nRSET\r\n", "x\r\n", "RSET\r\n"},
		{"LF . LF", "x\n.\nRSET\r\n.\r\n", "x\r\n..\r\nRSET\r\n", ""},
		{"LF . CRLF", "x\n.\r\nRSET\r\n.\r\n", "x\r\n..\r\nRSET\r\n", ""},
		{"CRLF . LF", "x\r\n.\nRSET\r\n.\r\n", "x\r\n\r\nRSET\r\n", ""},
		{"LF CR . CRLF", "x\n\r.\r\nRSET\r\n.\r\n", "x\r\n..\r\nRSET\r\n", ""},
		{"CRLF . CR CRLF", "x\r\n.\r\r\nRSET\r\n.\r\n", "x\r\n\r\nRSET\r\n", ""},
		{"CRLF CR . CRLF", "x\r\n\r.\r\nRSET\r\n.\r\n", "x\r\n..\r\nRSET\r\n", ""},
		{"CR CRLF . CRLF", "x\r\r\n.\r\nRSET\r\n", "x\r\n", "RSET\r\n"},
		{"CR . CRLF", "x\r.\r\nRSET\r\n.\r\n", "x.\r\nRSET\r\n", ""},
		{"dots", ".a\r\n..b\r\n...c\r\n.\r\n", "a\r\n..b\r\n...c\r\n", ""},
		{"dot and CR in text", ".\rx\r\n.\r\n", "x\r\n", ""},
		{"dot CR dot", ".\r.\r\n.\r\n", "..\r\n", ""},
	} {
		for _, cut := range []func(int) int{whole, func(int) int { return 1 }} {
			n := normaliser{maxLine: hazardLine}
			out, rest, ok := normalise([]byte(c.in), &n, cut)
			if !ok || string(out) != c.want || string(rest) != c.rest {
				t.Errorf("%s: got %q, rest %q, %v; want %q, rest %q", c.name, out, rest, ok, c.want, c.rest)
			}
			if sent := append(out, ".\r\n"...); backendEnd(sent) != len(sent) {
				t.Errorf("%s: a backend would stop at %d of %q", c.name, backendEnd(sent), sent)
			}
		}
	}
}

func TestNormaliseNotes(t *testing.T) {
	n := normaliser{maxLine: 100}
	in := "Received: a\r\nRECEIVED: b\r\n continued\r\nmessage-id: <x>\r\n\r\nReceived: no field\r\n.dot\r\n.\r\n"
	out, _, _ := normalise([]byte(in), &n, whole)
	if n.received != 2 || !n.messageID || n.nul || n.long {
		t.Errorf("got %+v", n)
	}
	if want := int64(len(out)); n.size != want {
		t.Errorf("size %d, want %d", n.size, want)
	}
	n = normaliser{maxLine: 100}
	normalise([]byte("a\x00b\r\n.\r\n"), &n, whole)
	if !n.nul {
		t.Error("NUL not noticed")
	}
	for length, long := range map[int]bool{100: false, 101: true} {
		n = normaliser{maxLine: 100}
		normalise([]byte(strings.Repeat("x", length)+"\r\n.\r\n"), &n, func(int) int { return 7 })
		if n.long != long {
			t.Errorf("%d octets: long is %v", length, n.long)
		}
	}
	n = normaliser{maxLine: 100}
	if normalise([]byte("..x\r\n.\r\n"), &n, whole); n.size != 4 {
		t.Errorf("size with a stuffed dot is %d", n.size)
	}
}

func TestFold(t *testing.T) {
	n := normaliser{maxLine: hazardLine, fold: true}
	in := strings.Repeat("x", 8189) + ".\r\nRSET\r\n.\r\n"
	out, _, _ := normalise([]byte(in), &n, func(int) int { return 500 })
	if n.long || n.size != int64(len(out)) {
		t.Errorf("long %v, size %d of %d", n.long, n.size, len(out))
	}
	for line := range strings.SplitSeq(string(out), "\r\n") {
		if len(line) > foldAt {
			t.Errorf("line of %d octets", len(line))
		}
	}
	if got := strings.ReplaceAll(string(out), "\r\n ", ""); got != strings.Repeat("x", 8189)+".\r\nRSET\r\n" {
		t.Errorf("content changed: %.60q", got)
	}
}

// Whatever comes in, and however it is cut, what goes out is what the rule says.
func TestNormaliseIsTheReference(t *testing.T) {
	octets := rapid.SampledFrom([]byte("\r\n\r\n..\x00ab"))
	rapid.Check(t, func(t *rapid.T) {
		input := rapid.SliceOf(octets).Draw(t, "input")
		if rapid.Bool().Draw(t, "ended") {
			input = append(input, "\r\n.\r\n"...)
		}
		size := rapid.IntRange(1, 5).Draw(t, "size")
		checkNormalised(t, input, func(int) int { return size })
	})
}

func FuzzNormalise(f *testing.F) {
	for _, seed := range []string{"x\n.\nRSET\r\n.\r\n", "x\r\n.\r\r\nRSET\r\n.\r\n", ".\r.\n.\r\n", "\r\r\n.\r\n"} {
		f.Add([]byte(seed), uint64(1))
	}
	f.Fuzz(func(t *testing.T, input []byte, seed uint64) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		checkNormalised(t, append(input, "\r\n.\r\n"...), func(rest int) int { return 1 + rnd.IntN(rest) })
	})
}

type failer interface {
	Fatalf(format string, args ...any)
}

func checkNormalised(t failer, input []byte, cut func(int) int) {
	n := normaliser{maxLine: hazardLine}
	out, rest, ok := normalise(input, &n, cut)
	want, wantRest, wantOK := reference(input)
	if ok != wantOK {
		t.Fatalf("ended %v, want %v", ok, wantOK)
	}
	if !ok {
		return
	}
	if !bytes.Equal(out, want) || !bytes.Equal(rest, wantRest) {
		t.Fatalf("got %q rest %q, want %q rest %q", out, rest, want, wantRest)
	}
	if sent := append(out, ".\r\n"...); !n.long && backendEnd(sent) != len(sent) {
		t.Fatalf("a backend would stop at %d of %q", backendEnd(sent), sent)
	}
}

func BenchmarkNormalise(b *testing.B) {
	in := []byte(strings.Repeat("The quick brown fox jumps over the lazy dog, and again and again.\r\n", 1000) + ".\r\n")
	b.SetBytes(int64(len(in)))
	var out []byte
	for b.Loop() {
		n := normaliser{maxLine: hazardLine}
		out, _, _ = n.feed(out[:0], in)
	}
}
