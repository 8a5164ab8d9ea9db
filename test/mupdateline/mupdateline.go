// Package mupdateline is a small MUPDATE client for tests (RFC 3656): commands as they are written,
// answers as they come. It shares no code with our own server and client, so that a misreading of
// the protocol cannot hide in both ends.
package mupdateline

import (
	"bufio"
	"encoding/base64"
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
const maxLiteral = 1 << 20

// Conn is one session. It is not safe for concurrent use.
type Conn struct {
	Greeting []string // untagged lines up to and with OK
	conn     net.Conn
	r        *bufio.Reader
	tag      int
}

// Row is one response: a record (MAILBOX, RESERVE, DELETE) or a result (OK, NO, BAD, BYE).
type Row struct {
	Tag, Kind           string
	Name, Location, ACL string // of a record
	Text                string // of a result
}

// Result reports whether the row ends an answer.
func (r Row) Result() bool {
	switch r.Kind {
	case "OK", "NO", "BAD", "BYE":
		return true
	}
	return false
}

// RefusedError is a result other than OK.
type RefusedError struct{ Command, Status, Text string }

func (e *RefusedError) Error() string {
	return fmt.Sprintf("%s: %s %q", e.Command, e.Status, e.Text)
}

// Dial connects and reads the greeting.
func Dial(addr string) (*Conn, error) {
	nc, err := net.DialTimeout("tcp", addr, Timeout)
	if err != nil {
		return nil, err
	}
	c := &Conn{conn: nc, r: bufio.NewReaderSize(nc, 64<<10)}
	nc.SetDeadline(time.Now().Add(Timeout))
	for {
		line, err := c.line()
		if err != nil {
			nc.Close()
			return nil, fmt.Errorf("reading the greeting of %s: %w", addr, err)
		}
		c.Greeting = append(c.Greeting, line)
		if strings.HasPrefix(line, "* OK") {
			return c, nil
		}
		if strings.HasPrefix(line, "* BYE") {
			nc.Close()
			return nil, &RefusedError{"connect", "BYE", line}
		}
	}
}

// Login connects and signs on with PLAIN.
func Login(addr, user, password string) (*Conn, error) {
	c, err := Dial(addr)
	if err != nil {
		return nil, err
	}
	response := base64.StdEncoding.EncodeToString([]byte("\x00" + user + "\x00" + password))
	if _, err := c.Do("AUTHENTICATE", "PLAIN", response); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Send writes one command, every argument as a literal that asks for no continuation, in a single
// segment, and returns its tag.
func (c *Conn) Send(verb string, args ...string) (string, error) {
	c.tag++
	tag := "m" + strconv.Itoa(c.tag)
	var b strings.Builder
	b.WriteString(tag + " " + verb)
	for i, a := range args {
		if verb == "AUTHENTICATE" && i == 0 { // Cyrus: a mechanism in quotes
			b.WriteString(` "` + a + `"`)
			continue
		}
		fmt.Fprintf(&b, " {%d+}\r\n%s", len(a), a)
	}
	b.WriteString("\r\n")
	c.conn.SetDeadline(time.Now().Add(Timeout))
	_, err := io.WriteString(c.conn, b.String())
	return tag, err
}

// Do sends a command and returns the records of its answer. A result other than OK is a
// *RefusedError; any other error means that the outcome is unknown and the session of no more use.
func (c *Conn) Do(verb string, args ...string) ([]Row, error) {
	tag, err := c.Send(verb, args...)
	if err != nil {
		return nil, err
	}
	var rows []Row
	for {
		row, err := c.Next()
		if err != nil {
			return rows, err
		}
		switch {
		case !row.Result():
			rows = append(rows, row)
		case row.Tag != tag && row.Kind != "BYE":
			return rows, fmt.Errorf("answer to %s has the tag %s", tag, row.Tag)
		case row.Kind != "OK":
			return rows, &RefusedError{verb, row.Kind, row.Text}
		default:
			return rows, nil
		}
	}
}

// Find returns the record of a name; Kind is empty if it has none.
func (c *Conn) Find(name string) (Row, error) {
	rows, err := c.Do("FIND", name)
	if err != nil || len(rows) == 0 {
		return Row{}, err
	}
	return rows[0], nil
}

// Next reads one row, waiting up to Timeout.
func (c *Conn) Next() (Row, error) {
	c.conn.SetDeadline(time.Now().Add(Timeout))
	line, err := c.line()
	if err != nil {
		return Row{}, err
	}
	f, err := fields(line)
	if err != nil || len(f) < 2 {
		return Row{}, fmt.Errorf("malformed row %q: %w", line, err)
	}
	row := Row{Tag: f[0], Kind: f[1]}
	want := map[string]int{"MAILBOX": 5, "RESERVE": 4, "DELETE": 3, "OK": 3, "NO": 3, "BAD": 3, "BYE": 3}[row.Kind]
	if len(f) != want {
		return Row{}, fmt.Errorf("row %q has %d words", line, len(f))
	}
	if row.Result() {
		row.Text = f[2]
		return row, nil
	}
	for i, p := range []*string{&row.Name, &row.Location, &row.ACL} {
		if 2+i < len(f) {
			*p = f[2+i]
		}
	}
	return row, nil
}

// Close ends the session.
func (c *Conn) Close() error {
	c.conn.SetDeadline(time.Now().Add(time.Second))
	io.WriteString(c.conn, "bye LOGOUT\r\n")
	return c.conn.Close()
}

// line reads one line; a literal in it follows its announcement after CRLF.
func (c *Conn) line() (string, error) {
	var b strings.Builder
	for {
		s, err := c.r.ReadString('\n')
		if err != nil {
			return "", err
		}
		s = strings.TrimRight(s, "\r\n")
		b.WriteString(s)
		open := strings.LastIndexByte(s, '{')
		if open < 0 || !strings.HasSuffix(s, "+}") {
			return b.String(), nil
		}
		n, err := strconv.Atoi(s[open+1 : len(s)-2])
		if err != nil || n < 0 || n > maxLiteral {
			return b.String(), nil
		}
		b.WriteString("\r\n")
		if _, err := io.CopyN(&b, c.r, int64(n)); err != nil {
			return "", err
		}
	}
}

// fields cuts a line into words, quoted strings and literals.
func fields(line string) ([]string, error) {
	var f []string
	for line != "" {
		switch line[0] {
		case ' ':
			line = line[1:]
		case '"':
			var b strings.Builder
			i := 1
			for ; i < len(line) && line[i] != '"'; i++ {
				if line[i] == '\\' && i+1 < len(line) {
					i++
				}
				b.WriteByte(line[i])
			}
			if i == len(line) {
				return nil, fmt.Errorf("quoted string without an end")
			}
			f, line = append(f, b.String()), line[i+1:]
		case '{':
			head, rest, _ := strings.Cut(line, "\r\n")
			n, err := strconv.Atoi(strings.Trim(head, "{+}"))
			if err != nil || n > len(rest) {
				return nil, fmt.Errorf("literal %q", head)
			}
			f, line = append(f, rest[:n]), rest[n:]
		default:
			word, rest, _ := strings.Cut(line, " ")
			f, line = append(f, word), rest
		}
	}
	return f, nil
}
