package socketmap

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"
)

const (
	maxTableLine  = 4096 // octets of a request line
	maxTableReply = 4096 // octets of a reply with its line end
)

// table serves one tcp_table request: "get KEY" with everything unusual as %XX.
func (s *Server) table(ctx context.Context, c *conn, name string) error {
	line, tooLong, err := readTableLine(c.in)
	if err != nil {
		return err
	}
	a := answer{malformed, "malformed request"}
	verb, key, _ := strings.Cut(line, " ")
	switch {
	case tooLong:
		a.text = "request too long"
	case verb == "put":
		c.out = append(c.out, "500 read-only\n"...)
		return nil
	case verb == "get" && key != "":
		if key, ok := decode(key); ok {
			a = s.ask(ctx, name, key)
		}
	}
	s.count("tcp_table", a)
	c.out = append(c.out, a.table()...)
	return nil
}

// readTableLine reads a line; a longer one is consumed.
func readTableLine(r *bufio.Reader) (line string, tooLong bool, err error) {
	part, err := r.ReadSlice('\n')
	if err == nil {
		return strings.TrimRight(string(part), "\r\n"), false, nil
	}
	for n := len(part); errors.Is(err, bufio.ErrBufferFull); n += len(part) {
		if n > 1<<20 {
			return "", false, errProtocol
		}
		part, err = r.ReadSlice('\n')
	}
	return "", true, err
}

// table renders the answer as a line.
func (a answer) table() string {
	code := [...]string{"200", "500", "400", "400"}[a.kind]
	text := a.text
	if a.kind == notFound {
		text = "not found"
	}
	reply := code + " " + encode(text) + "\n"
	if len(reply) > maxTableReply {
		return "400 answer%20too%20long\n"
	}
	return reply
}

func encode(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '%' {
			fmt.Fprintf(&b, "%%%02x", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

func decode(s string) (string, bool) {
	if !strings.Contains(s, "%") {
		return s, true
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b.WriteByte(s[i])
			continue
		}
		if i+2 >= len(s) {
			return "", false
		}
		hi, lo := hexDigit(s[i+1]), hexDigit(s[i+2])
		if hi < 0 || lo < 0 {
			return "", false
		}
		b.WriteByte(byte(hi<<4 | lo))
		i += 2
	}
	return b.String(), true
}

func hexDigit(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}
