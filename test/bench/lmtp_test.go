package bench

import (
	"fmt"
	"net"
	"net/textproto"
	"testing"
	"time"
)

// lmtpConn is an LMTP session (RFC 2033) that delivers one message after the other.
type lmtpConn struct{ *textproto.Conn }

func openLMTP(addr string) (*lmtpConn, error) {
	nc, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		return nil, err
	}
	c := &lmtpConn{textproto.NewConn(nc)}
	if _, _, err := c.ReadResponse(220); err != nil {
		return nil, err
	}
	return c, c.step(250, "LHLO bench.test")
}

func (c *lmtpConn) step(code int, format string, args ...any) error {
	if err := c.PrintfLine(format, args...); err != nil {
		return err
	}
	_, _, err := c.ReadResponse(code)
	return err
}

func (c *lmtpConn) deliver(recipients ...string) error {
	if err := c.step(250, "MAIL FROM:<a@example.org>"); err != nil {
		return err
	}
	for _, r := range recipients {
		if err := c.step(250, "RCPT TO:<%s>", r); err != nil {
			return err
		}
	}
	if err := c.step(354, "DATA"); err != nil {
		return err
	}
	if _, err := c.W.WriteString(message()); err != nil {
		return err
	}
	if err := c.PrintfLine("."); err != nil {
		return err
	}
	for range recipients {
		if _, _, err := c.ReadResponse(250); err != nil {
			return err
		}
	}
	return nil
}

// What of a backend's rate of deliveries of 2 kB is left through the frontend, for one recipient,
// for two on one backend, and for two on two (for which the backend's own rate with two is the
// comparison)?
func BenchmarkLMTP(b *testing.B) {
	w := start(b)
	cases := []struct {
		name       string
		recipients []string
	}{
		{"one", []string{"u1"}},
		{"two-on-one-backend", []string{"u1", "u3"}},
		{"two-on-two-backends", []string{"u1", "u2"}},
	}
	for _, conns := range []int{1, 8} {
		for _, c := range cases {
			for _, t := range []target{{"direct", w.backendLMTP(0)}, {"proxy", w.cluster.Addr("f1", "lmtp")}} {
				to := c.recipients
				if t.name == "direct" && len(to) == 2 {
					to = []string{"u1", "u3"}
				}
				b.Run(fmt.Sprintf("conns=%d/recipients=%s/path=%s", conns, c.name, t.name), func(b *testing.B) {
					measure(b, conns, func(int) (*lmtpConn, error) { return openLMTP(t.addr) },
						func(c *lmtpConn) { c.Close() }, func(c *lmtpConn, _ int) error { return c.deliver(to...) })
				})
			}
		}
	}
}
