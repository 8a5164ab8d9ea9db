//go:build linux

package imap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"murder/internal/backend"
	"murder/internal/mbox"
)

const soon = 5 * time.Millisecond

// parkRig is a rig whose sessions park after that time, with TLS towards whom it is asked for.
func parkRig(t *testing.T, toClient, toBackend bool, hot time.Duration, change ...func(*Config)) *rig {
	t.Helper()
	cert := selfSigned(t)
	o := rigOptions{hot: hot, config: change}
	if toClient {
		o.config = append(o.config, func(c *Config) { c.TLS = cert })
	}
	if toBackend {
		o.stubs = func(b *stub) { b.tls = cert }
		o.settings = func(_ mbox.Server, s *backend.Settings) { s.TLS, s.Verify = backend.Implicit, backend.VerifyNone }
	}
	return o.make(t)
}

// states are those in which a session may rest.
var states = []string{"authenticated", "selected", "idling"}

// rest logs in and comes to rest in a state.
func (r *rig) rest(name, state string) *dialogue {
	r.t.Helper()
	d := r.open(name)
	d.expect("* OK ...")
	if r.srv.cfg.TLS != nil {
		d.send("t STARTTLS")
		d.expect("t OK ...")
		d.secure().SetDeadline(time.Time{})
	}
	d.send("l LOGIN alice pw")
	d.expect("l OK ...")
	if state != "authenticated" {
		d.send("s SELECT INBOX")
		d.until("s")
	}
	if state == "idling" {
		d.send("i IDLE")
		d.expect("+ idling")
		d.expect("* 7 EXISTS") // which the stub always says
	}
	r.asleep()
	return d
}

// Whoever is parked is there at once when something comes from either side, also through TLS, and parks again.
func TestParkedIsThere(t *testing.T) {
	for _, state := range states {
		for _, secure := range [][2]bool{{false, false}, {true, false}, {false, true}, {true, true}} {
			t.Run(fmt.Sprintf("%s/client tls=%v/backend tls=%v", state, secure[0], secure[1]), func(t *testing.T) {
				r := parkRig(t, secure[0], secure[1], soon)
				d := r.rest("A", state)
				for i := range 5 {
					if state != "authenticated" {
						line := fmt.Sprintf("* %d EXISTS", 100+i)
						r.stubs["b1"].tell(line)
						d.expect(line)
						r.asleep()
					}
					if state == "idling" {
						d.send("DONE")
						d.expect("i OK ...")
						r.asleep()
						d.send("i IDLE")
						d.expect("+ idling")
						d.expect("* 7 EXISTS")
					} else {
						d.send("n NOOP")
						d.until("n")
						d.send("x STATUS INBOX (MESSAGES)")
						if lines := d.until("x"); len(lines) != 2 {
							t.Fatalf("%q", lines)
						}
					}
					r.asleep()
				}
				if state == "idling" {
					d.send("DONE")
				}
				d.send("z LOGOUT")
				d.until("z")
				d.end()
			})
		}
	}
}

// Whoever begins IDLE is parked at once, and the pump of the mailbox after each piece of news.
func TestIdleParksAtOnce(t *testing.T) {
	for _, secure := range [][2]bool{{false, false}, {true, true}} {
		t.Run(fmt.Sprintf("client tls=%v/backend tls=%v", secure[0], secure[1]), func(t *testing.T) {
			r := parkRig(t, secure[0], secure[1], time.Hour)
			d := r.rest("A", "idling")
			for i := range 3 {
				line := fmt.Sprintf("* %d EXISTS", 100+i)
				r.stubs["b1"].tell(line)
				d.expect(line)
				r.asleep()
			}
			d.send("DONE")
			d.expect("i OK ...")
			d.send("n NOOP")
			d.until("n")
		})
	}
}

// A parked session is listed, hears why it must go, and goes.
func TestParkedIsKicked(t *testing.T) {
	for _, state := range states {
		t.Run(state, func(t *testing.T) {
			r := parkRig(t, false, false, soon)
			d := r.rest("A", state)
			list := r.srv.Sessions()
			if len(list) != 1 || list[0].User != "alice" || (list[0].Command == "IDLE") != (state == "idling") {
				t.Fatalf("%+v", list)
			}
			r.srv.Kick(list[0].ID, "Go away")
			d.expect("* BYE [UNAVAILABLE] Go away")
			d.end()
			eventually(t, "the session is gone", func() bool { return len(r.srv.Sessions()) == 0 })
		})
	}
}

// Parked sessions are told of a shutdown, which is over as soon as they are.
func TestParkedAtShutdown(t *testing.T) {
	r := parkRig(t, false, false, soon)
	var all []*dialogue
	for i := range 30 {
		all = append(all, r.rest(fmt.Sprint(i), states[i%len(states)]))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := r.srv.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	for _, d := range all {
		d.expect("* BYE [UNAVAILABLE] ...")
		d.end()
	}
}

// A parked session that is cut off, and the pump of its mailbox, end.
func TestParkedIsCut(t *testing.T) {
	for name, cut := range map[string]func(*session){
		"severed":    func(s *session) { s.sever() },
		"killed":     func(s *session) { s.kill() },
		"broken off": func(s *session) { s.breakOff("by a test") },
	} {
		t.Run(name, func(t *testing.T) {
			r := parkRig(t, false, false, soon)
			d := r.rest("A", "idling")
			r.srv.mu.Lock()
			var s *session
			for _, s = range r.srv.sessions {
			}
			r.srv.mu.Unlock()
			cut(s)
			d.end()
			eventually(t, "the session is gone", func() bool { return len(r.srv.Sessions()) == 0 })
		})
	}
}

// A backend that goes away ends the parked session that has its mailbox open, and no other.
func TestBackendOfParkedDies(t *testing.T) {
	for _, state := range states {
		t.Run(state, func(t *testing.T) {
			r := parkRig(t, false, false, soon)
			d := r.rest("A", state)
			r.stubs["b1"].hangUp()
			if state != "authenticated" {
				d.expect("* BYE [UNAVAILABLE] Mailbox server lost")
				d.end()
				return
			}
			d.send("s SELECT INBOX")
			d.until("s")
		})
	}
}

// A mailbox that moves under a client in IDLE ends its session though it is parked.
func TestMailboxOfParkedMoves(t *testing.T) {
	r := parkRig(t, false, false, soon)
	d := r.rest("A", "idling")
	r.dir.set("user.alice", "b2!default", "alice\tlrswip\t")
	d.expect("* BYE [UNAVAILABLE] Mailbox moved...")
	d.end()
}

// The end of a parked client is noticed, however it leaves, and its connections to backends go with it.
func TestParkedVanishes(t *testing.T) {
	for name, leave := range map[string]func(net.Conn){
		"FIN":       func(c net.Conn) { c.Close() },
		"half open": func(c net.Conn) { c.(*net.TCPConn).CloseWrite() },
		"RST":       func(c net.Conn) { c.(*net.TCPConn).SetLinger(0); c.Close() },
	} {
		for _, state := range states {
			t.Run(name+"/"+state, func(t *testing.T) {
				r := parkRig(t, false, false, soon)
				d := r.rest("A", state)
				leave(d.conn)
				eventually(t, "the session is gone", func() bool { return len(r.srv.Sessions()) == 0 })
				b1 := r.stubs["b1"]
				eventually(t, "the backend is left", func() bool { b1.mu.Lock(); defer b1.mu.Unlock(); return len(b1.conns) == 0 })
			})
		}
	}
}

// A client that has sent half a line is waited for, and one that takes its time over a literal, too.
func TestHalfALine(t *testing.T) {
	r := parkRig(t, false, false, soon)
	d := r.rest("A", "selected")
	paused := func() {
		t.Helper()
		<-time.After(10 * soon)
	}
	for range 3 {
		d.raw("n NO")
		paused()
		d.raw("OP\r\nm NO")
		d.until("n")
		paused()
		d.raw("OP\r\n")
		d.until("m")
		d.raw("a APPEND Work {6}\r\n")
		d.expect("+ ...")
		paused()
		d.raw("abc")
		paused()
		d.raw("def")
		paused()
		d.raw("\r\nf STATUS {4}\r\n")
		d.until("a")
		d.expect("+ ...")
		paused()
		d.raw("Wo")
		paused()
		d.raw("rk (MESSAGES)\r\n")
		if lines := d.until("f"); len(lines) != 2 {
			t.Fatalf("%q", lines)
		}
		r.asleep()
	}
}

// A backend that pauses within an answer is waited for.
func TestBackendPausesWithinAnAnswer(t *testing.T) {
	r := parkRig(t, false, false, soon)
	d := r.rest("A", "selected")
	for _, part := range []string{"* 1 FETCH (BODY[] {6}\r\nabc", "def FLAGS (", "x))\r\n* 2 "} {
		b1 := r.stubs["b1"]
		b1.mu.Lock()
		for conn := range b1.conns {
			fmt.Fprint(conn, part)
		}
		b1.mu.Unlock()
		<-time.After(10 * soon)
	}
	r.stubs["b1"].tell("EXISTS")
	for _, want := range []string{"* 1 FETCH (BODY[] {6}", "abcdef FLAGS (x))", "* 2 EXISTS"} {
		d.expect(want)
	}
}

// longLiteral does not fit into any buffer of ours.
const longLiteral = 16 * chunk

// A backend that pauses within a long literal is waited for, also when the client gives the next command meanwhile.
func TestBackendPausesWithinALongLiteral(t *testing.T) {
	r := parkRig(t, false, false, soon)
	d := r.rest("A", "selected")
	half := strings.Repeat("x", longLiteral)
	d.send("a NOOP") // so that the connection is known
	d.until("a")
	b1 := r.stubs["b1"]
	b1.mu.Lock()
	var backend net.Conn
	for backend = range b1.conns {
	}
	b1.mu.Unlock()
	fmt.Fprintf(backend, "* 1 FETCH (BODY[] {%d}\r\n%s", 2*longLiteral, half)
	d.expect("* 1 FETCH ...")
	got := make([]byte, longLiteral)
	if _, err := io.ReadFull(d.r, got); err != nil {
		t.Fatal(err)
	}
	b1.fail("SEARCH", "hang")
	d.send("b SEARCH ALL") // which is answered after the message, and that is not complete yet
	eventually(t, "the command has arrived", func() bool { return b1.saw("SEARCH ALL") })
	<-time.After(10 * soon)
	fmt.Fprintf(backend, "%s)\r\nb OK done\r\n", half)
	if _, err := io.ReadFull(d.r, got); err != nil {
		t.Fatal(err)
	}
	d.expect(")")
	d.expect("b OK done")
}

// A storm of commands and pauses about as long as it takes to park: none is lost, whoever is just going to rest.
func TestStormWhileParking(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("tls=%v", secure), func(t *testing.T) {
			cert := selfSigned(t)
			r := rigOptions{hot: 300 * time.Microsecond, config: []func(*Config){func(c *Config) {
				if secure {
					c.TLS = cert
				}
			}}}.make(t)
			var clients sync.WaitGroup
			for i := range 8 {
				d := r.rest(fmt.Sprint(i), "selected")
				clients.Go(func() {
					for n := range 150 {
						var text bytes.Buffer
						k := 1 + rand.N(3)
						for j := range k {
							tag := fmt.Sprintf("c%d-%d", n, j)
							switch rand.N(4) {
							case 0:
								fmt.Fprintf(&text, "%s IDLE\r\nDONE\r\n", tag)
							case 1:
								fmt.Fprintf(&text, "%s STATUS Work (MESSAGES)\r\n", tag)
							default:
								fmt.Fprintf(&text, "%s NOOP\r\n", tag)
							}
						}
						raw := text.Bytes()
						cut := rand.N(len(raw))
						d.raw(string(raw[:cut]))
						if rand.N(2) == 0 {
							<-time.After(rand.N(time.Millisecond))
						}
						d.raw(string(raw[cut:]))
						for last := fmt.Sprintf("c%d-%d ", n, k-1); ; {
							line, err := d.line()
							if err != nil || strings.Contains(line, " NO ") || strings.Contains(line, " BAD ") || strings.HasPrefix(line, "* BYE") {
								t.Errorf("waiting for %q: %q %v", last, line, err)
								return
							}
							if strings.HasPrefix(line, last) {
								break
							}
						}
						<-time.After(rand.N(time.Millisecond))
					}
				})
			}
			clients.Wait()
			r.asleep()
		})
	}
}

// dreamer is a sleeper that notes when it is woken.
type dreamer chan ticket

func (d dreamer) wake(t ticket) { d <- t }

// loopback is a connection of this machine with itself.
func loopback(t *testing.T) (near, far net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if far, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if near, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}

func TestLot(t *testing.T) {
	var work sync.WaitGroup
	l := newLot(&work)
	defer work.Wait()
	defer l.close()
	enter := func(conn net.Conn, d dreamer) ticket {
		t.Helper()
		at, err := l.enter(conn, d)
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	near, far := loopback(t)
	first := make(dreamer, 10)

	// What is there already wakes, and only once.
	far.Write([]byte("x"))
	if at := enter(near, first); <-first != at {
		t.Error("woken for another stay")
	}
	// Whoever has left is not woken, and may come again.
	near.Read(make([]byte, 10))
	l.leave(enter(near, first))
	far.Write([]byte("x"))
	if at := enter(near, first); <-first != at {
		t.Error("woken for a stay that has ended")
	}
	// A connection with the same number as one that is gone wakes its own sleeper only.
	near.Read(make([]byte, 10))
	enter(near, first)
	near.Close()
	second := make(dreamer, 10)
	for range 20 {
		near, far = loopback(t)
		at := enter(near, second)
		far.Close()
		if <-second != at {
			t.Error("woken for another stay")
		}
		near.Close()
	}
	if len(first) > 0 || len(second) > 0 {
		t.Error("woken more than once")
	}
	if _, err := l.enter(near, first); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed connection: %v", err)
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if _, err := l.enter(a, first); !errors.Is(err, errNoSocket) {
		t.Errorf("a pipe: %v", err)
	}
	if n := len(l.(*epollLot).sleepers); n != 1 {
		t.Errorf("%d sleepers, want that of the closed connection", n)
	}
}
