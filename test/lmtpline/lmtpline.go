// Package lmtpline is a small LMTP client for tests (RFC 2033): it delivers messages and gives back
// the reply for every recipient.
package lmtpline

import (
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"strings"
	"time"
)

// Timeout bounds the connect and every transaction.
const Timeout = 60 * time.Second

// Conn is one session. It is not safe for concurrent use.
type Conn struct {
	text *textproto.Conn
	net  net.Conn
}

// Reply is a server's answer: its code, and its text with the enhanced status code.
type Reply struct {
	Code int
	Text string
	Sent bool // it came after the message, not to RCPT
}

// ErrUncertain means that the session ended after the final dot and before all replies: the message may
// have been delivered.
var ErrUncertain = errors.New("outcome unknown")

func (r Reply) String() string { return fmt.Sprintf("%d %s", r.Code, r.Text) }

// Dial connects and says LHLO.
func Dial(addr string) (*Conn, error) {
	nc, err := net.DialTimeout("tcp", addr, Timeout)
	if err != nil {
		return nil, err
	}
	c := &Conn{textproto.NewConn(nc), nc}
	nc.SetDeadline(time.Now().Add(Timeout))
	if _, _, err = c.text.ReadResponse(220); err == nil {
		err = c.want(250, "LHLO client.test")
	}
	if err != nil {
		nc.Close()
		return nil, err
	}
	return c, nil
}

// Deliver sends one message and returns a reply for each recipient: that to RCPT if it was refused,
// else that after the message. An error means that the session is of no more use; with ErrUncertain
// the replies that came before count.
func (c *Conn) Deliver(message string, recipients ...string) ([]Reply, error) {
	c.net.SetDeadline(time.Now().Add(Timeout))
	if err := c.want(250, "MAIL FROM:<sender@example.org>"); err != nil {
		return nil, err
	}
	replies := make([]Reply, len(recipients))
	accepted := 0
	for i, r := range recipients {
		var err error
		if replies[i], err = c.ask("RCPT TO:<%s>", r); err != nil {
			return nil, err
		}
		if replies[i].Code == 250 {
			accepted++
		}
	}
	if accepted == 0 {
		return replies, c.want(250, "RSET")
	}
	if err := c.want(354, "DATA"); err != nil {
		return nil, err
	}
	w := c.text.DotWriter()
	if _, err := w.Write([]byte(message)); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUncertain, err)
	}
	for i := range replies {
		if replies[i].Code == 250 {
			r, err := c.read()
			if err != nil {
				return replies, fmt.Errorf("%w: %w", ErrUncertain, err)
			}
			r.Sent = true
			replies[i] = r
		}
	}
	return replies, nil
}

// Close ends the session.
func (c *Conn) Close() error {
	c.net.SetDeadline(time.Now().Add(time.Second))
	c.text.PrintfLine("QUIT")
	return c.text.Close()
}

func (c *Conn) ask(format string, args ...any) (Reply, error) {
	if err := c.text.PrintfLine(format, args...); err != nil {
		return Reply{}, err
	}
	return c.read()
}

func (c *Conn) read() (Reply, error) {
	code, text, err := c.text.ReadResponse(0)
	if err != nil {
		return Reply{}, err
	}
	return Reply{Code: code, Text: text}, nil
}

func (c *Conn) want(code int, format string, args ...any) error {
	r, err := c.ask(format, args...)
	if err == nil && r.Code != code {
		verb, _, _ := strings.Cut(fmt.Sprintf(format, args...), " ")
		err = fmt.Errorf("%s: %s", verb, r)
	}
	return err
}
