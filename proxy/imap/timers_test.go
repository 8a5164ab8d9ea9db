package imap

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"murder/internal/backend"
	"murder/internal/mbox"
)

// The stories of this file take up to hours, on a clock that stands still while somebody has something
// to do. The limits are those of a real server.

// takes runs f, which must take that long.
func takes(t *testing.T, least, most time.Duration, what string, f func()) {
	t.Helper()
	began := time.Now()
	f()
	if took := time.Since(began); took < least || took > most {
		t.Errorf("%s took %v, want %v to %v", what, took, least, most)
	}
}

const atOnce = 0

// A backend that says nothing costs a command a bounded time, and the session only if the mailbox that
// is open was there.
func TestSilentBackend(t *testing.T) {
	for _, c := range []struct {
		name   string
		fault  string // of the stub: VERB what
		cmd    string
		takes  time.Duration
		answer []string // with "BYE" the session is over
	}{
		{"another mailbox's, before any answer", "STATUS hang", `STATUS "Shared Folders/shared" (MESSAGES)`, 30 * time.Second, []string{"x NO [UNAVAILABLE]..."}},
		{"another mailbox's, in the middle", `STATUS * STATUS "x" (MESSAGES 1)\nTHEN-HANG`, `STATUS "Shared Folders/shared" (MESSAGES)`, 30 * time.Second,
			[]string{"* STATUS ...", "x NO [UNAVAILABLE]..."}},
		{"a mailbox to open", "SELECT hang", `SELECT "Shared Folders/shared"`, 30 * time.Second, []string{"* OK [CLOSED]...", "x NO [UNAVAILABLE]..."}},
		{"sign-on", "AUTHENTICATE hang", `STATUS "Shared Folders/shared" (MESSAGES)`, 10 * time.Second, []string{"x NO [UNAVAILABLE]..."}},
		{"a message to keep, not granted", "APPEND{ hang", `APPEND "Shared Folders/shared" {5}`, 10 * time.Minute, []string{"x NO [UNAVAILABLE]..."}},
		{"a message kept or not", "APPEND hang", `APPEND "Shared Folders/shared" {2+}` + "\r\nab", 10 * time.Minute, []string{"x NO [UNAVAILABLE]..."}},
		{"the open mailbox, before any answer", "FETCH hang", "FETCH 1 FLAGS", 10 * time.Minute, []string{"x NO [UNAVAILABLE]...", "* BYE [UNAVAILABLE]..."}},
		{"the open mailbox, between answers", `FETCH * 1 FETCH (FLAGS ())\nTHEN-HANG`, "FETCH 1:2 FLAGS", 10 * time.Minute,
			[]string{"* 1 FETCH (FLAGS ())", "x NO [UNAVAILABLE]...", "* BYE [UNAVAILABLE]..."}},
		{"the open mailbox, within a literal", `FETCH * 1 FETCH (BODY[] {10}\nhalfTHEN-HANG`, "FETCH 1 BODY[]", 10 * time.Minute,
			[]string{"* 1 FETCH (BODY[] {10}", "half BYE"}},
		{"the open mailbox, within a message for another server", `UID_FETCH * 1 FETCH (UID 1 BODY[] {10}\nhalfTHEN-HANG`,
			`COPY 1 "Shared Folders/shared"`, 10 * time.Minute, []string{"x NO [UNAVAILABLE]...", "* BYE [UNAVAILABLE]..."}},
	} {
		t.Run(c.name, func(t *testing.T) {
			inVirtualTime(t, rigOptions{}, func(t *testing.T, r *rig) {
				d := r.login("A", "alice")
				d.send("s SELECT INBOX")
				d.until("s")
				verb, what, _ := strings.Cut(c.fault, " ")
				at := "b2"
				if strings.HasPrefix(c.name, "the open mailbox") {
					at = "b1"
				}
				r.stubs[at].fail(verb, what)
				takes(t, c.takes, c.takes+time.Second, c.cmd, func() {
					d.send("x " + c.cmd)
					for _, want := range c.answer {
						text, cut := strings.CutSuffix(want, " BYE")
						if cut {
							if line, err := d.line(); err == nil || line != text {
								t.Errorf("got %q %v, want %q and the end", line, err, text)
							}
							return
						}
						d.expect(want)
					}
				})
				if last := c.answer[len(c.answer)-1]; strings.Contains(last, "BYE") {
					d.end()
					return
				}
				d.send("z STATUS INBOX (MESSAGES)")
				d.expect("* STATUS ...")
				d.expect("z OK ...")
			})
		})
	}
}

// 112: a backend that drops packets, and everybody who asks for it.
func TestDarkBackend(t *testing.T) {
	inVirtualTime(t, rigOptions{}, func(t *testing.T, r *rig) {
		a, b := r.login("A", "alice"), r.login("B", "bob")
		r.net.dark[r.stubs["b2"].addr] = true
		status := func(d *dialogue) {
			d.send(`x STATUS "Shared Folders/shared" (MESSAGES)`)
			d.expect("x NO [UNAVAILABLE]...")
		}
		takes(t, time.Second, 5*time.Second, "the first", func() { status(a) })
		takes(t, atOnce, atOnce, "the second", func() { status(a) })
		takes(t, atOnce, atOnce, "another user", func() { status(b) })
		takes(t, atOnce, atOnce, "what is elsewhere", func() {
			a.send("y STATUS INBOX (MESSAGES)")
			a.until("y")
		})
		r.net.mu.Lock()
		delete(r.net.dark, r.stubs["b2"].addr)
		r.net.mu.Unlock()
		time.Sleep(7 * time.Second) // the breaker's first pause, with its jitter
		a.send(`z STATUS "Shared Folders/shared" (MESSAGES)`)
		a.expect("* STATUS ...")
		a.expect("z OK ...")
	})
}

// 115: a backend that does not take our identity hears of it once in a while, whoever asks, and is known
// to the operator; others are used.
func TestOurIdentityRefused(t *testing.T) {
	wrong := func(server mbox.Server, s *backend.Settings) {
		if server == "b2" {
			s.Password = "wrong"
		}
	}
	metrics := prometheus.NewRegistry()
	measured := func(c *Config) { c.Metrics = metrics }
	inVirtualTime(t, rigOptions{settings: wrong, config: []func(*Config){measured}}, func(t *testing.T, r *rig) {
		attempts := func() (n int) {
			for _, seen := range r.stubs["b2"].commands() {
				if strings.HasPrefix(seen, ": AUTHENTICATE") {
					n++
				}
			}
			return n
		}
		for i := range 10 {
			d := r.login(fmt.Sprint(i), "alice")
			d.send(`x SELECT "Shared Folders/shared"`)
			d.expect("x NO [UNAVAILABLE]...")
			d.send("y SELECT INBOX")
			d.until("y")
		}
		if n := attempts(); n != 1 {
			t.Errorf("%d attempts", n)
		}
		if log := r.log.String(); !strings.Contains(log, "backend refuses our identity") || strings.Contains(log, "secret") {
			t.Error(log)
		}
		if n := counted(metrics, "murder_backend_login_failures_total", "backend=b2", "service=imap"); n != 1 {
			t.Errorf("%v refusals counted", n)
		}
		time.Sleep(signOnPause + time.Second)
		d := r.login("later", "alice")
		d.send(`x SELECT "Shared Folders/shared"`)
		d.expect("x NO [UNAVAILABLE]...")
		if n := attempts(); n != 2 {
			t.Errorf("%d attempts after the pause", n)
		}
	})
}

// Without a quorum a miss takes as long as the map may take, and lists only the first time.
func TestMapCannotBeConfirmed(t *testing.T) {
	inVirtualTime(t, rigOptions{}, func(t *testing.T, r *rig) {
		d := r.login("A", "alice")
		r.dir.mu.Lock()
		r.dir.hangs = true
		r.dir.mu.Unlock()
		for _, c := range []struct {
			cmd, answer string
			takes       time.Duration
		}{
			{`LIST "" "*"`, "OK ...", 2 * time.Second},
			{`LIST "" "*"`, "OK ...", patience},
			{"SELECT INBOX", "OK ...", atOnce},
			{"MYRIGHTS INBOX", "OK ...", patience},
			{"SELECT nosuch", "NO [UNAVAILABLE]...", 2 * time.Second},
			{"STATUS INBOX (MESSAGES)", "OK ...", atOnce},
			{"CREATE New", "NO [UNAVAILABLE]...", 2 * time.Second},
		} {
			takes(t, c.takes, c.takes, c.cmd, func() {
				d.send("x " + c.cmd)
				got := d.until("x")
				if !likeness("x " + c.answer).MatchString(got[len(got)-1]) {
					t.Errorf("%s: %q", c.cmd, got)
				}
			})
		}
	})
}

// A mailbox that is being moved is waited for, but not for ever.
func TestMoveTakesTooLong(t *testing.T) {
	inVirtualTime(t, rigOptions{}, func(t *testing.T, r *rig) {
		d := r.login("A", "alice")
		r.dir.mu.Lock()
		r.dir.put(mbox.Entry{Name: "user.alice.Work", Location: "b1!default", State: mbox.Reserved, Transfer: true})
		r.dir.mu.Unlock()
		takes(t, 5*time.Second, 5*time.Second, "STATUS", func() {
			d.send("x STATUS Work (MESSAGES)")
			d.expect("x NO [UNAVAILABLE] The mailbox is being moved...")
		})
	})
}

// Its server knows it no more while it is being moved: that is no reason to create it.
func TestAppendWhileMoved(t *testing.T) {
	inVirtualTime(t, rigOptions{}, func(t *testing.T, r *rig) {
		d := r.login("A", "alice")
		r.stubs["b2"].fail("APPEND", "TAG NO Mailbox does not exist")
		r.dir.mu.Lock()
		r.dir.onBarrier = func() {
			r.dir.mu.Lock()
			defer r.dir.mu.Unlock()
			r.dir.put(mbox.Entry{Name: "shared", Location: "b2!default", State: mbox.Reserved, Transfer: true})
		}
		r.dir.mu.Unlock()
		d.send("x APPEND \"Shared Folders/shared\" {2+}\r\nhi")
		d.expect("x NO [UNAVAILABLE] The mailbox is being moved...")
	})
}

// A client may idle for hours if it renews, whatever the backend's limit.
func TestIdleForHours(t *testing.T) {
	inVirtualTime(t, rigOptions{}, func(t *testing.T, r *rig) {
		d := r.login("A", "alice")
		d.send("s SELECT INBOX")
		d.until("s")
		for range 6 {
			d.send("i IDLE")
			d.expect("+ idling")
			time.Sleep(29 * time.Minute)
			d.send("DONE")
			for _, line := range d.until("i") {
				if !strings.HasPrefix(line, "i OK") && line != "* 7 EXISTS" {
					t.Fatal(line)
				}
			}
		}
		d.send("n NOOP")
		d.until("n")
	})
}

// One that does not renew is told to go (RFC 2177 and RFC 9051 section 5.4).
func TestClientIsSilent(t *testing.T) {
	for name, first := range map[string]string{"idling": "i IDLE", "after a command": "i NOOP"} {
		t.Run(name, func(t *testing.T) {
			inVirtualTime(t, rigOptions{}, func(t *testing.T, r *rig) {
				d := r.login("A", "alice")
				takes(t, 30*time.Minute, 30*time.Minute+time.Second, "waiting", func() {
					d.send(first)
					d.expect("...")
					d.expect("* BYE ...")
					d.end()
				})
			})
		})
	}
	t.Run("before login", func(t *testing.T) {
		inVirtualTime(t, rigOptions{}, func(t *testing.T, r *rig) {
			takes(t, time.Minute, time.Minute+time.Second, "waiting", func() {
				d := r.open("A")
				d.expect("* OK ...")
				time.Sleep(50 * time.Second)
				d.send("a NOOP") // a word is no login
				d.expect("a OK ...")
				d.expect("* BYE ...")
				d.end()
			})
		})
	})
}

// 105: a backend without IDLE is asked.
func TestIdleIsPolled(t *testing.T) {
	without := func(b *stub) { b.caps = strings.ReplaceAll(b.caps, " IDLE", "") }
	inVirtualTime(t, rigOptions{stubs: without}, func(t *testing.T, r *rig) {
		d := r.login("A", "alice")
		d.send("s SELECT INBOX")
		d.until("s")
		d.send("i IDLE")
		d.expect("+ idling")
		b1 := r.stubs["b1"]
		b1.mu.Lock()
		b1.boxes["user.alice"].add(stubMessage{body: []byte("new")})
		b1.mu.Unlock()
		takes(t, atOnce, idlePoll+time.Second, "the news", func() { d.expect("* 4 EXISTS") })
		d.send("DONE")
		d.expect("i OK ...")
	})
}

// Connections that are of no use any more are given back, those at home later; one that has been
// unused for a while is tried before it is used.
func TestUnusedConnections(t *testing.T) {
	inVirtualTime(t, rigOptions{}, func(t *testing.T, r *rig) {
		d := r.login("A", "alice")
		use := func() {
			d.send("x STATUS INBOX (MESSAGES)")
			d.until("x")
			d.send(`x STATUS "Shared Folders/shared" (MESSAGES)`)
			d.until("x")
		}
		open := func(want ...string) {
			t.Helper()
			synctest.Wait()
			if got := r.srv.Sessions()[0].Backends; !slices.Equal(slices.Sorted(slices.Values(got)), want) {
				t.Errorf("open connections: %q, want %q", got, want)
			}
		}
		use()
		open("b1", "b2")
		time.Sleep(31 * time.Second)
		r.stubs["b2"].fail("NOOP", "close") // has ended meanwhile without a word
		use()
		open("b1", "b2")
		if b1 := r.stubs["b1"]; !b1.saw("alice: NOOP") {
			t.Error("used without a try after half a minute")
		}
		time.Sleep(11 * time.Minute)
		open("b1")
		time.Sleep(10 * time.Minute)
		open()
		use()
	})
}

// A client that does not read is cut off, and holds nobody up until then.
func TestClientDoesNotRead(t *testing.T) {
	inVirtualTime(t, rigOptions{}, func(t *testing.T, r *rig) {
		d := r.login("A", "alice")
		d.send("s SELECT INBOX")
		d.until("s")
		r.stubs["b1"].fail("FETCH", "gush")
		d.send("x FETCH 1 BODY[]")
		time.Sleep(9 * time.Minute)
		other := r.login("B", "alice")
		takes(t, atOnce, atOnce, "somebody else's command", func() {
			other.send("y SELECT INBOX")
			other.until("y")
		})
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if n := len(r.srv.Sessions()); n != 1 {
			t.Errorf("%d sessions", n)
		}
	})
}

// 120: when the frontend is told to stop, those who are busy finish; the others are told to go, spread
// over half the time there is, so that they do not all come back at once.
func TestDrainSpreads(t *testing.T) {
	const idle, busy, window = 1000, 10, 30 * time.Second
	inVirtualTime(t, rigOptions{}, func(t *testing.T, r *rig) {
		gone := make(chan time.Duration, idle)
		var began time.Time
		var all []*dialogue
		for i := range idle {
			d := r.login(fmt.Sprint("i", i), "alice")
			if i%2 == 0 {
				d.send("x IDLE")
				d.expect("+ idling")
			}
			all = append(all, d)
		}
		var working []*dialogue
		for i := range busy {
			d := r.login(fmt.Sprint("b", i), "alice")
			d.send("x APPEND INBOX {5}")
			d.expect("+ ...")
			working = append(working, d)
		}
		began = time.Now()
		for _, d := range all {
			go func() {
				d.expect("* BYE [UNAVAILABLE]...")
				gone <- time.Since(began)
			}()
		}
		done := make(chan error)
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), window)
			defer cancel()
			done <- r.srv.Shutdown(ctx)
		}()
		var first, second int
		for range idle {
			switch at := <-gone; {
			case at <= window/4:
				first++
			case at <= window/2+time.Second:
				second++
			default:
				t.Fatalf("told to go after %v", at)
			}
		}
		if first < idle/3 || second < idle/3 {
			t.Errorf("%d were told in the first quarter, %d in the second", first, second)
		}
		if _, err := r.net.dial(context.Background(), r.addr); err == nil {
			t.Error("still listening")
		}
		for _, d := range working {
			d.send("hello")
			d.expect("x OK ...")
			d.expect("* BYE [UNAVAILABLE]...")
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A drain that takes too long ends all the same, and nobody's half command reaches a backend.
func TestDrainEnds(t *testing.T) {
	inVirtualTime(t, rigOptions{}, func(t *testing.T, r *rig) {
		d := r.login("A", "alice")
		d.send("x APPEND INBOX {5}")
		d.expect("+ ...")
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		takes(t, 10*time.Second, 11*time.Second, "the drain", func() {
			if err := r.srv.Shutdown(ctx); err == nil {
				t.Error("nobody was cut off")
			}
		})
		if n := r.stubs["b1"].count("user.alice"); n != 3 {
			t.Errorf("%d messages", n)
		}
	})
}

// Who is kicked goes soon, whatever he is about.
func TestKickedAndBusy(t *testing.T) {
	for _, c := range []struct{ name, fault, cmd, begins string }{
		{"half a literal", "", "x APPEND INBOX {100}", "+ ..."},
		{"half a literal, to be thrown away", "", "x APPEND nosuch {100+}\r\nhalf", ""},
		{"a backend that is silent", "STATUS hang", "x STATUS INBOX (MESSAGES)", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			inVirtualTime(t, rigOptions{}, func(t *testing.T, r *rig) {
				d := r.login("A", "alice")
				d.send("s SELECT INBOX")
				d.until("s")
				if verb, what, ok := strings.Cut(c.fault, " "); ok {
					r.stubs["b1"].fail(verb, what)
				}
				d.send(c.cmd)
				if c.begins != "" {
					d.expect(c.begins)
				}
				synctest.Wait()
				if !r.srv.Kick(r.srv.Sessions()[0].ID, "") {
					t.Fatal("nobody is there")
				}
				time.Sleep(kickGrace + time.Second)
				synctest.Wait()
				if list := r.srv.Sessions(); len(list) > 0 {
					t.Errorf("still there: %+v", list)
				}
			})
		})
	}
}

// TLS has its own say after hours without a word, and does not meet the deadline of the last one.
func TestWordOfTLSAfterHours(t *testing.T) {
	inVirtualTime(t, rigOptions{config: []func(*Config){func(c *Config) { c.TLS, c.Limits.Idle = selfSigned(t), 24*time.Hour }}}, func(t *testing.T, r *rig) {
		d := r.open("A")
		d.until("*")
		d.send("a STARTTLS")
		d.expect("a OK ...")
		below := d.conn
		conn := tls.Client(below, &tls.Config{InsecureSkipVerify: true})
		if err := conn.Handshake(); err != nil {
			t.Fatal(err)
		}
		d.conn, d.r = conn, bufio.NewReader(conn)
		d.send("b LOGIN alice pw")
		d.expect("b OK ...")
		time.Sleep(2 * time.Hour)
		below.Write(append([]byte{23, 3, 3, 0, 32}, make([]byte, 32)...)) // no record of this connection
		if _, err := d.r.ReadByte(); err == nil || !strings.Contains(err.Error(), "remote error: tls: bad record MAC") {
			t.Errorf("told %v, want an alert", err)
		}
	})
}
