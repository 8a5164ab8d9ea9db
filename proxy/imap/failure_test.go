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
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// A backend that dies while a message is on its way: what the client still sends of it is thrown away, and
// the session goes on; unless that would be more than we read to no purpose.
func TestBackendDiesWithinAMessage(t *testing.T) {
	for _, c := range []struct {
		size, sent int
		mailbox    string
		answer     []string
	}{
		{1 << 20, 1 << 20, `"Shared Folders/shared"`, []string{"x NO [UNAVAILABLE]..."}},
		{200 << 20, 20 << 20, `"Shared Folders/shared"`, []string{"* BYE [UNAVAILABLE]..."}},
		{1 << 20, 1 << 20, "Work", []string{"x NO [UNAVAILABLE]...", "* BYE [UNAVAILABLE]..."}}, // the selected one's
	} {
		t.Run(fmt.Sprint(c.size, c.mailbox), func(t *testing.T) {
			inVirtualTime(t, rigOptions{}, func(t *testing.T, r *rig) {
				d := r.login("A", "alice")
				d.send("s SELECT INBOX")
				d.until("s")
				for _, b := range r.stubs {
					b.fail("APPEND{1", "close")
				}
				d.send(fmt.Sprintf("x APPEND %s {%d+}", c.mailbox, c.size))
				block := []byte(strings.Repeat("x", 1<<16))
				go func() {
					for n := 0; n < c.sent; n += len(block) {
						if _, err := d.conn.Write(block); err != nil {
							return // it has been hung up on
						}
					}
					if c.sent == c.size {
						io.WriteString(d.conn, "\r\n")
					}
				}()
				for _, want := range c.answer {
					d.expect(want)
				}
				if strings.HasPrefix(c.answer[len(c.answer)-1], "*") {
					d.end()
				} else {
					d.send("z NOOP")
					d.expect("z OK ...")
				}
				for _, name := range []string{"shared", "user.alice.Work"} {
					if n := max(r.stubs["b1"].count("user.alice.Work"), r.stubs["b2"].count("shared")-1); n != 0 {
						t.Errorf("%s has %d new messages", name, n)
					}
				}
			})
		})
	}
}

// A backend that dies when it has just agreed to take a message: the client sends that, and it is not taken for commands.
func TestBackendDiesAtTheConsent(t *testing.T) {
	inVirtualTime(t, rigOptions{}, func(t *testing.T, r *rig) {
		d := r.login("A", "alice")
		for range 20 {
			d.send(`x STATUS "Shared Folders/shared" (MESSAGES)`)
			d.until("x")
			for _, c := range r.connsAt("b2") {
				c.out.dst = slowly{c.nc}
			}
			r.stubs["b2"].fail("APPEND{", "+ send itTHEN-CLOSE")
			const message = "z CREATE Evil"
			d.send(fmt.Sprintf(`a APPEND "Shared Folders/shared" {%d}`, len(message)))
			d.expect("+ send it")
			d.send(message)
			d.expect("a NO [UNAVAILABLE] ...")
			d.send("n NOOP")
			d.expect("n OK ...")
		}
	})
}

// slowly is what somebody writes to who is the last to go on after it.
type slowly struct{ io.Writer }

func (w slowly) Write(p []byte) (int, error) {
	defer synctest.Wait()
	return w.Writer.Write(p)
}

// A backend that takes a message slowly stops the client: what lies in between is bounded.
func TestBackendTakesSlowly(t *testing.T) {
	inVirtualTime(t, rigOptions{}, func(t *testing.T, r *rig) {
		const size = 10 << 20
		d := r.login("A", "alice")
		r.stubs["b1"].fail("APPEND{1", "stall")
		d.send(fmt.Sprintf("x APPEND INBOX {%d+}", size))
		var sent atomic.Int64
		block := make([]byte, 1<<10)
		go func() {
			for n := 0; n < size; n += len(block) {
				if _, err := d.conn.Write(block); err != nil {
					return
				}
				sent.Add(int64(len(block)))
			}
			io.WriteString(d.conn, "\r\n")
		}()
		synctest.Wait()
		if n := sent.Load(); n > 4*streamSize {
			t.Errorf("%d KiB went out, though nobody takes them", n>>10)
		}
		// It is given up after ten minutes, and the session is not.
		takes(t, 10*time.Minute, 11*time.Minute, "giving up", func() { d.expect("x NO [UNAVAILABLE]...") })
		d.send("z STATUS INBOX (MESSAGES)")
		d.expect("* STATUS ...(MESSAGES 3)")
		d.expect("z OK ...")
	})
}

// Who does not speak TLS where it is due, or breaks it off, is hung up on and counted.
func TestFailedHandshakes(t *testing.T) {
	metrics := prometheus.NewRegistry()
	r := newRig(t, func(c *Config) { c.TLS, c.Metrics = selfSigned(t), metrics })
	ln := listenOn(t, nil, "")
	served := make(chan error, 1)
	go func() { served <- r.srv.Serve(ln, r.srv.cfg.TLS) }()
	defer func() { ln.Close(); <-served }()
	failures := func() float64 { return counted(metrics, "murder_imap_tls_failures_total") }
	for i, c := range []struct {
		name  string
		begin func(net.Conn)
	}{
		{"plain text", func(nc net.Conn) { io.WriteString(nc, "a LOGIN alice pw\r\n") }},
		{"nothing at all", func(nc net.Conn) { nc.(*net.TCPConn).CloseWrite() }},
		{"a version that is too old", func(nc net.Conn) {
			tls.Client(nc, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10}).Handshake()
		}},
		{"a certificate that the client does not like", func(nc net.Conn) { tls.Client(nc, &tls.Config{ServerName: "elsewhere"}).Handshake() }},
	} {
		nc, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		nc.SetDeadline(time.Now().Add(10 * time.Second))
		c.begin(nc)
		if _, err := io.Copy(io.Discard, nc); err != nil && strings.Contains(err.Error(), "timeout") {
			t.Errorf("%s: not hung up on: %v", c.name, err)
		}
		nc.Close()
		eventually(t, c.name+" is counted", func() bool { return failures() == float64(i+1) })
	}
	d := r.open("A")
	d.expect("* OK ...")
	d.send("a STARTTLS")
	d.expect("a OK ...")
	d.send("b LOGIN alice pw")
	d.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	rest, _ := io.ReadAll(d.r)
	if strings.Contains(string(rest), "b ") {
		t.Errorf("answered in clear: %q", rest)
	}
	eventually(t, "it is counted", func() bool { return failures() == 5 })
	eventually(t, "nobody is left", func() bool { return len(r.srv.Sessions()) == 0 })
}

// A line that does not end is the end of the connection, and is never held as a whole.
func TestEndlessLine(t *testing.T) {
	for _, c := range []struct {
		name, fault, cmd string
		cut              bool // the client has a part of it
	}{
		{"relayed", "FETCH * X ", "x FETCH 1 FLAGS", true},
		{"relayed from another server", "STATUS * X ", `x STATUS "Shared Folders/shared" (MESSAGES)`, true},
		{"read here", "GETMETADATA * METADATA ", `x GETMETADATA "Shared Folders/shared" /shared/comment`, false},
		{"tagged", "STATUS TAG OK ", `x STATUS "Shared Folders/shared" (MESSAGES)`, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			inVirtualTime(t, rigOptions{}, func(t *testing.T, r *rig) {
				d := r.login("A", "alice")
				d.send("s SELECT INBOX")
				d.until("s")
				verb, begin, _ := strings.Cut(c.fault, " ")
				for _, b := range r.stubs {
					b.fail(verb, begin+strings.Repeat("y", 5<<20)+"THEN-HANG")
				}
				d.send(c.cmd)
				if c.cut {
					got, _ := io.ReadAll(d.r)
					if len(got) > maxResponseLine+chunk || strings.Contains(string(got), "\n") {
						t.Errorf("%d octets, at the end %.80q", len(got), got[max(0, len(got)-80):])
					}
					return
				}
				d.expect("x NO [UNAVAILABLE]...")
				d.send("z NOOP")
				d.expect("z OK ...")
			})
		})
	}
}

// Every backend is told when a session ends.
func TestBackendsHearLogout(t *testing.T) {
	inVirtualTime(t, rigOptions{}, func(t *testing.T, r *rig) {
		d := r.login("A", "alice")
		d.send("s SELECT INBOX")
		d.until("s")
		d.send(`x STATUS "Shared Folders/shared" (MESSAGES)`)
		d.until("x")
		d.send("z LOGOUT")
		d.until("z")
		d.end()
		synctest.Wait()
		for _, name := range []string{"b1", "b2"} {
			if b := r.stubs[name]; !b.saw("LOGOUT") {
				t.Errorf("%s has heard %q", name, b.commands())
			}
		}
	})
}

// A connection that is there only after a session has been cut goes the same way.
func TestConnectionAfterTheCut(t *testing.T) {
	inVirtualTime(t, rigOptions{}, func(t *testing.T, r *rig) {
		d := r.login("A", "alice")
		d.send("x STATUS INBOX (MESSAGES)")
		d.until("x")
		synctest.Wait()
		r.srv.mu.Lock()
		var c *conn
		for _, s := range r.srv.sessions {
			c = s.at("b1")
		}
		r.srv.mu.Unlock()
		client, _ := net.Pipe()
		s := &session{sock: client, stop: func() {}}
		s.sever()
		s.noteConns([]*conn{c})
		if _, err := c.nc.Write([]byte("x NOOP\r\n")); err == nil {
			t.Error("it is still there")
		}
	})
}

// Whoever waits to say something until a message is complete says nothing when its backend is lost within it.
func TestNothingIsSaidWithinAMessage(t *testing.T) {
	r := newRig(t)
	for i := range 20 {
		d := r.login(fmt.Sprint(i), "alice")
		d.send("a SELECT INBOX")
		d.until("a")
		r.stubs["b1"].tell("* 1 FETCH (BODY[] {100}\r\nabc")
		d.expect("* 1 FETCH ...")
		d.expect("abc")
		d.send("b CAPABILITY")
		eventually(t, "the command is executed", func() bool { return r.srv.Sessions()[0].Command == "CAPABILITY" })
		r.stubs["b1"].hangUp()
		if rest, _ := io.ReadAll(d.r); len(rest) > 0 {
			t.Fatalf("in the message stands %q", rest)
		}
		eventually(t, "the session is gone", func() bool { return len(r.srv.Sessions()) == 0 })
	}
}

// severed makes everything fail that is sent to b1 from now on.
func (r *rig) severed() {
	for _, c := range r.connsAt("b1") {
		c.out.dst = brokenPipe{}
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

// A backend may turn out to be lost when it is sent something while it is in the middle of a message. Nothing is written
// into that. Elsewhere the client is told.
func TestLostBySending(t *testing.T) {
	inVirtualTime(t, rigOptions{}, func(t *testing.T, r *rig) {
		d := r.login("A", "alice")
		d.send("a SELECT INBOX")
		d.until("a")
		r.stubs["b1"].fail("FETCH", `LATER* 1 FETCH (BODY[] {100}\nabcTHEN-HANG`)
		d.send("b FETCH 1 BODY[]")
		d.expect("* 1 FETCH ...")
		if _, err := io.ReadFull(d.r, make([]byte, len("abc"))); err != nil {
			t.Fatal(err)
		}
		r.severed()
		d.send("c NOOP")
		if rest, _ := io.ReadAll(d.r); len(rest) > 0 {
			t.Errorf("in the message stands %q", rest)
		}
	})
	for _, state := range []string{"selected", "about to idle", "idling"} {
		inVirtualTime(t, rigOptions{}, func(t *testing.T, r *rig) {
			d := r.login("A", "alice")
			d.send("a SELECT INBOX")
			d.until("a")
			end := "b NOOP"
			switch state {
			case "about to idle":
				end = "b IDLE"
			case "idling":
				d.send("b IDLE")
				d.expect("+ idling")
				d.expect("* 7 EXISTS")
				end = "DONE"
			}
			time.Sleep(time.Minute) // and so nobody reads
			r.severed()
			d.send(end)
			takes(t, atOnce, atOnce, state, func() {
				switch state {
				case "selected":
					d.expect("b NO [UNAVAILABLE] ...")
				case "about to idle":
					d.expect("+ idling")
				}
				d.expect("* BYE [UNAVAILABLE] ...")
				d.end()
			})
		})
	}
}
