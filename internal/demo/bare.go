package demo

import (
	"bufio"
	"bytes"
	"net"
	"sync/atomic"
)

// bareListener lets clients name recipients without a domain, as Cyrus's lmtpd does and go-smtp does
// not: it gives them one before go-smtp sees them.
type bareListener struct{ net.Listener }

func (l bareListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &bareConn{Conn: conn, lines: bufio.NewReaderSize(conn, 8192)}, nil
}

// bareConn reads a line at a time. One goroutine reads; another may write.
type bareConn struct {
	net.Conn
	lines   *bufio.Reader
	rest    []byte // of a line that did not fit
	message atomic.Bool
	partial bool // the last piece did not end a line
}

const bareDomain = "@localhost"

func (c *bareConn) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		line, err := c.lines.ReadSlice('\n')
		if len(line) == 0 {
			return 0, err
		}
		c.rest = line
		whole := !c.partial
		c.partial = line[len(line)-1] != '\n'
		switch {
		case !whole || c.partial:
		case c.message.Load():
			if string(bytes.TrimRight(line, "\r\n")) == "." {
				c.message.Store(false)
			}
		default:
			c.rest = complete(line)
		}
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// Write looks for the reply that lets a message begin.
func (c *bareConn) Write(p []byte) (int, error) {
	if bytes.HasPrefix(p, []byte("354")) {
		c.message.Store(true)
	}
	return c.Conn.Write(p)
}

// complete gives the recipient of a RCPT command a domain if it has none.
func complete(line []byte) []byte {
	const verb = "RCPT TO:<"
	if len(line) < len(verb) || !bytes.EqualFold(line[:len(verb)], []byte(verb)) {
		return line
	}
	path, after, ok := bytes.Cut(line[len(verb):], []byte{'>'})
	if !ok || len(path) == 0 || bytes.IndexByte(path, '@') >= 0 {
		return line
	}
	return bytes.Join([][]byte{line[:len(verb)], path, []byte(bareDomain + ">"), after}, nil)
}
