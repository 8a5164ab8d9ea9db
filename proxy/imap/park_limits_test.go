//go:build linux

package imap

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"murder/internal/backend"
	"murder/internal/mbox"
)

// The time that a peer has is the same whether it meets the deadline for parking on its way or not: who stalls is cut
// off when that is over, and no earlier.
func TestStallsWhileParking(t *testing.T) {
	const limit = 300 * time.Millisecond
	long := strings.Repeat("x", longLiteral)
	for _, c := range []struct {
		name   string
		state  string
		client string
		answer string // of the backend to FETCH; then it stalls
	}{
		{name: "before login"},
		{name: "a first line without an end", client: "a LOG"},
		{name: "silent", state: "authenticated"},
		{name: "silent with a mailbox", state: "selected"},
		{name: "silent in IDLE", state: "idling"},
		{name: "half a line", state: "selected", client: "a NO"},
		{name: "half a DONE", state: "idling", client: "DO"},
		{name: "a literal", state: "selected", client: "a STATUS {5}\r\nI"},
		{name: "a streamed literal", state: "selected", client: "a APPEND Work {5}\r\nab"},
		{name: "a streamed literal of the selected server", state: "selected", client: "a SEARCH SUBJECT {5}\r\nab"},
		{name: "the end of a command", state: "selected", client: "a APPEND Work {2+}\r\nab"},
		{name: "backend", state: "selected", client: "a FETCH 1 X\r\n", answer: ""},
		{name: "backend within a line", state: "selected", client: "a FETCH 1 X\r\n", answer: "* 1 FETCH (FL"},
		{name: "backend within a literal", state: "selected", client: "a FETCH 1 X\r\n", answer: "* 1 FETCH (BODY[] {6}\r\nabc"},
		{name: "backend within a long literal", state: "selected", client: "a FETCH 1 X\r\n",
			answer: fmt.Sprintf("* 1 FETCH (BODY[] {%d}\r\n%s", 2*longLiteral, long)},
		{name: "backend between two lines", state: "selected", client: "a FETCH 1 X\r\n", answer: "* 1 FETCH (FLAGS ())\r\n"},
		{name: "backend before the end", state: "selected", client: "a FETCH 1 X\r\n", answer: "* 1 FETCH (FLAGS ())\r\na OK do"},
	} {
		for _, secure := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/tls=%v", c.name, secure), func(t *testing.T) {
				t.Parallel()
				r := parkRig(t, secure, secure, 4*soon, func(cfg *Config) {
					backend := strings.HasPrefix(c.name, "backend")
					switch {
					case backend:
						cfg.Limits.BackendStall = limit
					case c.state == "":
						cfg.Limits.PreAuth = limit
					default:
						cfg.Limits.Idle = limit
					}
				})
				began := time.Now()
				d := r.open("A")
				d.expect("* OK ...")
				if c.state != "" {
					if secure {
						d.send("t STARTTLS")
						d.expect("t OK ...")
						d.secure().SetDeadline(time.Time{})
					}
					d.send("l LOGIN alice pw")
					d.expect("l OK ...")
					if c.state != "authenticated" {
						d.send("s SELECT INBOX")
						d.until("s")
					}
					began = time.Now()
					if c.state == "idling" {
						d.send("i IDLE")
						d.expect("+ idling")
					}
					b1 := r.stubs["b1"]
					if c.answer != "" {
						b1.fail("FETCH", strings.ReplaceAll(c.answer, "\r\n", `\n`)+"THEN-HANG")
					} else {
						b1.fail("FETCH", "hang")
					}
				}
				d.raw(c.client)
				got, err := io.ReadAll(d.r)
				if took := time.Since(began); err != nil || took < limit || took > limit+2*time.Second {
					t.Errorf("over after %v, with %.200q, %v", took, got, err)
				}
			})
		}
	}
}

// dripping is a connection that, once it is told to, sends in pieces with pauses in which everybody parks.
type dripping struct {
	net.Conn
	now *atomic.Bool
}

func (d dripping) Write(p []byte) (int, error) {
	done := 0
	for _, end := range []int{3, len(p) / 2, len(p) - 1} { // in the head of a record, within, and all but its end
		if d.now.Load() && done < end && end < len(p) {
			n, err := d.Conn.Write(p[done:end])
			if done += n; err != nil {
				return done, err
			}
			<-time.After(5 * soon)
		}
	}
	n, err := d.Conn.Write(p[done:])
	return done + n, err
}

// Half a TLS record, from either side, wakes who is parked, tells nothing, and is not lost when he parks again.
func TestHalfARecord(t *testing.T) {
	cert := selfSigned(t)
	var drip atomic.Bool
	o := rigOptions{hot: soon, config: []func(*Config){func(c *Config) { c.TLS = cert }}}
	o.stubs = func(b *stub) {
		b.tls, b.below = cert, func(conn net.Conn) net.Conn { return dripping{conn, &drip} }
	}
	o.settings = func(_ mbox.Server, s *backend.Settings) { s.TLS, s.Verify = backend.Implicit, backend.VerifyNone }
	r := o.make(t)
	d := r.open("A")
	d.expect("* OK ...")
	d.send("t STARTTLS")
	d.expect("t OK ...")
	d.conn = dripping{d.conn, &drip}
	d.secure().SetDeadline(time.Time{})
	d.send("l LOGIN alice pw")
	d.expect("l OK ...")
	d.send("s SELECT INBOX")
	d.until("s")
	r.asleep()
	drip.Store(true)
	for i := range 2 {
		news := fmt.Sprintf("* %d EXISTS", 100+i)
		r.stubs["b1"].tell(news)
		d.expect(news)
		d.send("n NOOP")
		d.until("n")
		r.asleep()
		d.send("i IDLE")
		d.expect("+ idling")
		d.expect("* 7 EXISTS")
		r.asleep()
		r.stubs["b1"].tell(news)
		d.expect(news)
		d.send("DONE")
		d.expect("i OK ...")
		d.send("x STATUS Work (MESSAGES)")
		d.until("x")
	}
	d.conn.(*tls.Conn).CloseWrite() // a record, too
	d.end()
	eventually(t, "the session is gone", func() bool { return len(r.srv.Sessions()) == 0 })
}

// fullLot admits nobody, as when the system watches as many descriptors as it may.
type fullLot struct{ asked *atomic.Int64 }

func (l fullLot) enter(net.Conn, sleeper) (ticket, error) {
	l.asked.Add(1)
	return 0, errors.New("no space left on device")
}
func (fullLot) leave(ticket) {}
func (fullLot) close()       {}

// Who cannot be parked is served by a goroutine of his own, as ever.
func TestNoRoomToPark(t *testing.T) {
	var asked atomic.Int64
	r := rigOptions{hot: soon, lot: fullLot{&asked}}.make(t)
	d := r.login("A", "alice")
	d.send("s SELECT INBOX")
	d.until("s")
	for i := range 3 {
		before := asked.Load()
		d.send("i IDLE")
		d.expect("+ idling")
		d.expect("* 7 EXISTS")
		eventually(t, "the pump has asked for room", func() bool { return asked.Load() > before })
		news := fmt.Sprintf("* %d EXISTS", 100+i)
		r.stubs["b1"].tell(news)
		d.expect(news)
		d.send("DONE")
		d.expect("i OK ...")
		<-time.After(5 * soon)
		d.send("n NOOP")
		d.until("n")
	}
	r.srv.Kick(r.srv.Sessions()[0].ID, "Go away")
	d.expect("* BYE [UNAVAILABLE] Go away")
	d.end()
}
