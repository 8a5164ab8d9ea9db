package bench

import (
	"fmt"
	"testing"

	"murder/test/imapline"
)

// onPaths runs a benchmark on a backend directly and through the frontend.
func onPaths(b *testing.B, conns []int, run func(b *testing.B, addr string, conns int)) {
	w := start(b)
	for _, n := range conns {
		for _, t := range []target{{name: "direct", addr: w.backendIMAP(0)}, {name: "proxy", addr: w.cluster.Addr("f1", "imap")}} {
			b.Run(fmt.Sprintf("conns=%d/path=%s", n, t.name), func(b *testing.B) { run(b, t.addr, n) })
		}
	}
}

func openInbox(addr string) func(int) (*imapline.Conn, error) {
	return func(int) (*imapline.Conn, error) {
		c, err := imapline.Login(addr, "u1", password)
		if err == nil {
			_, err = c.OK("SELECT INBOX")
		}
		return c, err
	}
}

func shutIMAP(c *imapline.Conn) { c.Close() }

// What of a backend's rate of short commands is left through the frontend?
func BenchmarkIMAPNoop(b *testing.B) {
	onPaths(b, []int{1, 8}, func(b *testing.B, addr string, conns int) {
		measure(b, conns, openInbox(addr), shutIMAP, func(c *imapline.Conn, _ int) error {
			_, err := c.OK("NOOP")
			return err
		})
	})
}

// And of messages of 2 kB read?
func BenchmarkIMAPFetch(b *testing.B) {
	onPaths(b, []int{1, 8}, func(b *testing.B, addr string, conns int) {
		measure(b, conns, openInbox(addr), shutIMAP, func(c *imapline.Conn, _ int) error {
			r, err := c.OK("FETCH 1 BODY.PEEK[]")
			if err == nil && (len(r.Lines) == 0 || len(r.Lines[0]) < messageSize/2) {
				err = fmt.Errorf("FETCH brought %q", r.Lines)
			}
			return err
		})
	})
}

// And of whole sessions: connect, sign on, SELECT, leave?
func BenchmarkIMAPSession(b *testing.B) {
	onPaths(b, []int{1, 8}, func(b *testing.B, addr string, conns int) {
		none := func(int) (string, error) { return addr, nil }
		measure(b, conns, none, func(string) {}, func(addr string, _ int) error {
			c, err := openInbox(addr)(0)
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.OK("LOGOUT")
			return err
		})
	})
}
