package socketmap

import (
	"bufio"
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
)

const (
	maxRequest = 10000  // octets of a socketmap request; Postfix sends no more
	maxReply   = 100000 // octets of a socketmap reply; Postfix reads no more
)

// errProtocol means a peer that does not speak the protocol; it is disconnected.
var errProtocol = errors.New("malformed request")

// readNetstring reads "LENGTH:OCTETS,". A length has no sign and no leading zeros.
func readNetstring(r *bufio.Reader, buf []byte) ([]byte, error) {
	n, digits := 0, 0
	for {
		c, err := r.ReadByte()
		if err != nil {
			if digits > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		if c == ':' && digits > 0 {
			break
		}
		if c < '0' || c > '9' || digits > 0 && n == 0 {
			return nil, errProtocol
		}
		n, digits = n*10+int(c-'0'), digits+1
		if n > maxRequest {
			return nil, errProtocol
		}
	}
	if cap(buf) <= n {
		buf = make([]byte, n+1)
	}
	buf = buf[:n+1]
	if _, err := io.ReadFull(r, buf); err != nil {
		return nil, io.ErrUnexpectedEOF
	}
	if buf[n] != ',' {
		return nil, errProtocol
	}
	return buf[:n], nil
}

func appendNetstring(dst []byte, payload string) []byte {
	dst = strconv.AppendInt(dst, int64(len(payload)), 10)
	dst = append(dst, ':')
	dst = append(dst, payload...)
	return append(dst, ',')
}

// socketmap serves one request of "MAP KEY".
func (s *Server) socketmap(ctx context.Context, c *conn) error {
	request, err := readNetstring(c.in, c.buf)
	if err != nil {
		return err
	}
	c.buf = request
	table, key, _ := strings.Cut(string(request), " ")
	a := s.ask(ctx, table, key)
	s.count("socketmap", a)
	c.out = appendNetstring(c.out, a.socketmap())
	return nil
}

// socketmap renders the answer. Postfix takes everything but OK and NOTFOUND for a temporary failure.
func (a answer) socketmap() string {
	word := [...]string{"OK", "NOTFOUND", "TEMP", "PERM"}[a.kind]
	if len(a.text) > maxReply-len("NOTFOUND ") {
		return "TEMP answer too long"
	}
	return word + " " + a.text
}
