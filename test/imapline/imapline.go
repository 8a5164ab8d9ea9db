// Package imapline is a small IMAP client for tests: it sends a command as it is written and gives
// back every line of the answer. It knows tags, literals and the end of an answer (RFC 9051
// section 2.2) and nothing else, so that administrators' verbs which client libraries lack (XFER,
// RENAME with a server) and odd input are as easy as SELECT.
package imapline

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// Timeout bounds the connect and every answer.
const Timeout = 30 * time.Second

// maxLiteral bounds what a server may send in one piece.
const maxLiteral = 64 << 20

// Conn is one session. It is not safe for concurrent use.
type Conn struct {
	Greeting string
	conn     net.Conn
	r        *bufio.Reader
	tag      int
}

// Reply is the answer to one command.
type Reply struct {
	Status string   // OK, NO or BAD
	Text   string   // the rest of the tagged line
	Lines  []string // untagged lines; a literal follows its announcement after CRLF
}

// RefusedError is a NO or BAD.
type RefusedError struct{ Command, Status, Text string }

func (e *RefusedError) Error() string {
	return fmt.Sprintf("%s: %s %s", e.Command, e.Status, e.Text)
}

// Dial connects and reads the greeting.
func Dial(addr string) (*Conn, error) { return DialTLS(addr, nil) }

// DialTLS is Dial with TLS from the first octet on, unless cfg is nil.
func DialTLS(addr string, cfg *tls.Config) (*Conn, error) {
	nc, err := net.DialTimeout("tcp", addr, Timeout)
	if err != nil {
		return nil, err
	}
	if cfg != nil {
		nc = tls.Client(nc, cfg)
	}
	c := &Conn{conn: nc, r: bufio.NewReaderSize(nc, 64<<10)}
	nc.SetDeadline(time.Now().Add(Timeout))
	if c.Greeting, err = c.line(); err != nil {
		nc.Close()
		return nil, fmt.Errorf("reading the greeting of %s: %w", addr, err)
	}
	if !strings.HasPrefix(c.Greeting, "* OK") {
		nc.Close()
		return nil, fmt.Errorf("%s greets with %q", addr, c.Greeting)
	}
	return c, nil
}

// Login connects and signs on.
func Login(addr, user, password string) (*Conn, error) {
	c, err := Dial(addr)
	if err != nil {
		return nil, err
	}
	if _, err := c.OK("LOGIN %s %s", Quote(user), Quote(password)); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Quote writes s as a quoted string.
func Quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// Do sends one command and reads its answer. An error means that the session is of no more use.
func (c *Conn) Do(format string, args ...any) (Reply, error) {
	tag, err := c.Send(format, args...)
	if err != nil {
		return Reply{}, err
	}
	return c.Answer(tag)
}

// OK is Do for commands that must succeed: NO and BAD are a *RefusedError.
func (c *Conn) OK(format string, args ...any) (Reply, error) {
	r, err := c.Do(format, args...)
	if err == nil && r.Status != "OK" {
		verb, _, _ := strings.Cut(fmt.Sprintf(format, args...), "\r\n")
		err = &RefusedError{Command: verb, Status: r.Status, Text: r.Text}
	}
	return r, err
}

// Send writes one command, in a single segment, and returns its tag.
func (c *Conn) Send(format string, args ...any) (string, error) {
	c.tag++
	tag := "t" + strconv.Itoa(c.tag)
	c.conn.SetDeadline(time.Now().Add(Timeout))
	_, err := io.WriteString(c.conn, tag+" "+fmt.Sprintf(format, args...)+"\r\n")
	return tag, err
}

// Raw writes what is no command: the end of IDLE, a continued literal.
func (c *Conn) Raw(text string) error {
	c.conn.SetDeadline(time.Now().Add(Timeout))
	_, err := io.WriteString(c.conn, text)
	return err
}

// Answer reads up to the tagged line of tag.
func (c *Conn) Answer(tag string) (Reply, error) {
	var r Reply
	for {
		line, err := c.line()
		if err != nil {
			return r, fmt.Errorf("waiting for %s: %w (read so far: %q)", tag, err, r.Lines)
		}
		if rest, ok := strings.CutPrefix(line, tag+" "); ok {
			r.Status, r.Text, _ = strings.Cut(rest, " ")
			return r, nil
		}
		r.Lines = append(r.Lines, line)
	}
}

// Line reads a line that no command has asked for, as come during IDLE. It must come within limit.
func (c *Conn) Line(limit time.Duration) (string, error) {
	c.conn.SetReadDeadline(time.Now().Add(limit))
	return c.line()
}

// Drain is OK for answers whose content is of no interest, however large: it is only counted off.
func (c *Conn) Drain(format string, args ...any) error {
	tag, err := c.Send(format, args...)
	if err != nil {
		return err
	}
	for {
		line, err := c.r.ReadSlice('\n')
		for errors.Is(err, bufio.ErrBufferFull) {
			line, err = c.r.ReadSlice('\n')
		}
		if err != nil {
			return err
		}
		text := strings.TrimRight(string(line), "\r\n")
		if rest, ok := strings.CutPrefix(text, tag+" "); ok {
			if !strings.HasPrefix(rest, "OK") {
				return fmt.Errorf("%s", rest)
			}
			return nil
		}
		if n, ok := announced(text); ok {
			if _, err := c.r.Discard(n); err != nil {
				return err
			}
		}
	}
}

// Pipeline sends a command n times in one piece, without waiting for answers, and reads these. All must be OK.
func (c *Conn) Pipeline(n int, command string) error {
	var all strings.Builder
	first := c.tag + 1
	for range n {
		c.tag++
		fmt.Fprintf(&all, "t%d %s\r\n", c.tag, command)
	}
	if err := c.Raw(all.String()); err != nil {
		return err
	}
	for i := range n {
		r, err := c.Answer("t" + strconv.Itoa(first+i))
		if err != nil {
			return err
		}
		if r.Status != "OK" {
			return &RefusedError{Command: command, Status: r.Status, Text: r.Text}
		}
	}
	return nil
}

// Append stores one message, with a literal that asks for no continuation (RFC 7888).
func (c *Conn) Append(mailbox, message string) error {
	_, err := c.OK("APPEND %s {%d+}\r\n%s", Quote(mailbox), len(message), message)
	return err
}

// List returns the names of LIST "" pattern, unquoted, in the order of the answer.
func (c *Conn) List(pattern string) ([]string, error) {
	r, err := c.OK("LIST \"\" %s", Quote(pattern))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, l := range r.Lines {
		if name, ok := listName(l); ok {
			names = append(names, name)
		}
	}
	return names, nil
}

// listName cuts the name out of `* LIST (flags) "." name`.
func listName(line string) (string, bool) {
	if !strings.HasPrefix(line, "* LIST ") {
		return "", false
	}
	_, rest, ok := strings.Cut(line, ") ")
	if !ok {
		return "", false
	}
	_, name, ok := strings.Cut(rest, " ")
	if !ok {
		return "", false
	}
	if _, literal, ok := strings.Cut(name, "}\r\n"); ok {
		return literal, true
	}
	if strings.HasPrefix(name, `"`) {
		name = strings.NewReplacer(`\\`, `\`, `\"`, `"`).Replace(name[1 : len(name)-1])
	}
	return name, true
}

// Close ends the session, politely if the server still listens.
func (c *Conn) Close() error {
	c.conn.SetDeadline(time.Now().Add(time.Second))
	io.WriteString(c.conn, "bye LOGOUT\r\n")
	return c.conn.Close()
}

// line reads one line and the literals in it.
func (c *Conn) line() (string, error) {
	var b strings.Builder
	for {
		s, err := c.r.ReadString('\n')
		if err != nil {
			return "", err
		}
		s = strings.TrimRight(s, "\r\n")
		b.WriteString(s)
		n, ok := announced(s)
		if !ok {
			return b.String(), nil
		}
		b.WriteString("\r\n")
		if _, err := io.CopyN(&b, c.r, int64(n)); err != nil {
			return "", err
		}
	}
}

func announced(s string) (int, bool) {
	open := strings.LastIndexByte(s, '{')
	if open < 0 || !strings.HasSuffix(s, "}") {
		return 0, false
	}
	n, err := strconv.Atoi(strings.TrimSuffix(s[open+1:len(s)-1], "+"))
	return n, err == nil && n >= 0 && n <= maxLiteral
}
