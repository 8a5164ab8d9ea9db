package imapwire

import (
	"bufio"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestTrailingLiteral(t *testing.T) {
	for _, c := range []struct {
		line string
		want Literal
		ok   bool
		err  error
	}{
		{`a FIND {4}`, Literal{Size: 4}, true, nil},
		{`a FIND {4+}`, Literal{Size: 4, NonSync: true}, true, nil},
		{`a APPEND x ~{10}`, Literal{Size: 10, Binary: true}, true, nil},
		{`={0+}`, Literal{NonSync: true}, true, nil},
		{`a NOOP`, Literal{}, false, nil},
		{`a X {}`, Literal{}, false, nil},
		{`a X {+}`, Literal{}, false, nil},
		{`a X {4 }`, Literal{}, false, nil},
		{`a X {-4}`, Literal{}, false, nil},
		{`4}`, Literal{}, false, nil},
		{`a X {99999999999999999999}`, Literal{}, true, ErrBadLiteral},
	} {
		got, ok, err := TrailingLiteral([]byte(c.line))
		if got != c.want || ok != c.ok || !errors.Is(err, c.err) {
			t.Errorf("%q: got %+v %v %v, want %+v %v %v", c.line, got, ok, err, c.want, c.ok, c.err)
		}
	}
}

func TestReadLine(t *testing.T) {
	for _, c := range []struct {
		in, want string
		err      error
	}{
		{"abc\r\n", "abc", nil},
		{"abc\n", "abc", nil},
		{"\r\n", "", nil},
		{"a\rb\r\n", "a\rb", nil},
		{"abc", "", io.ErrUnexpectedEOF},
		{"", "", io.EOF},
		{strings.Repeat("x", 32) + "\r\n", strings.Repeat("x", 32), nil},
		{strings.Repeat("x", 33) + "\r\n", "", ErrLineTooLong},
		{strings.Repeat("x", 500), "", ErrLineTooLong},
	} {
		got, err := ReadLine(bufio.NewReaderSize(strings.NewReader(c.in), 16), nil, 32)
		if string(got) != c.want || !errors.Is(err, c.err) {
			t.Errorf("%.40q: got %q %v, want %q %v", c.in, got, err, c.want, c.err)
		}
	}
}

func TestAppendString(t *testing.T) {
	for in, want := range map[string]string{
		"user.a":   `"user.a"`,
		"":         `""`,
		"a\tlrs\t": "\"a\tlrs\t\"",
		`a"b`:      "{3+}\r\na\"b",
		`a\b`:      "{3+}\r\na\\b",
		"caf\xe9":  "{4+}\r\ncaf\xe9",
	} {
		if got := string(AppendString(nil, in)); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}
