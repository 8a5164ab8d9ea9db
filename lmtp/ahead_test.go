package lmtp

import (
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"murder/internal/mbox"
)

// swift is the usual fixture and a client whose messages come at once. told gets the number of a
// connection to be1 when DATA comes there.
func swift(t *testing.T, adjust func(*hostConfig)) (h *host, be1, be2 *stub, m *mta, told chan int) {
	h, be1, be2 = two(t, func(c *hostConfig) {
		c.Limits.Ahead = time.Minute
		if adjust != nil {
			adjust(c)
		}
	})
	m = h.session(t)
	outcome(t, m.deliver(testMessage, "alice", "carol"), "250", "250")
	told = make(chan int, 10)
	be1.on(tell(told))
	return h, be1, be2, m, told
}

func tell(told chan<- int) func(*stubSession, string, string) (string, bool) {
	return func(s *stubSession, verb, _ string) (string, bool) {
		if verb == "DATA" {
			told <- s.number
		}
		return "", false
	}
}

// begin sends everything up to the message.
func (m *mta) begin(rcpts ...string) {
	m.t.Helper()
	m.say("MAIL FROM:<>", "250")
	for _, rcpt := range rcpts {
		m.say("RCPT TO:<"+rcpt+">", "250")
	}
	m.say("DATA", "354")
}

// The backends of a client whose messages come at once know of the next before it is there.
func TestTellingAhead(t *testing.T) {
	_, be1, be2, m, told := swift(t, nil)
	m.begin("alice", "carol", "u1")
	<-told
	m.send(testMessage + ".\r\n")
	m.expect("250 2.1.5 Ok SESSIONID=<be1>", "250 2.1.5 Ok SESSIONID=<be2>", "250 2.1.5 Ok SESSIONID=<be1>")
	for _, be := range []*stub{be1, be2} {
		total, _ := be.numbers()
		if mails := be.delivered(); total != 1 || len(mails) != 2 || !strings.HasSuffix(mails[1].data, testMessage) {
			t.Errorf("%s: %d connections, got %+v", be.name, total, mails)
		}
	}
	if mails := be1.delivered(); !slices.Equal(mails[1].rcpts, []string{"TO:<alice>", "TO:<u1>"}) {
		t.Errorf("be1 got %+v", mails[1])
	}
	// Each backend's own word counts as always.
	be1.on(func(_ *stubSession, verb, line string) (string, bool) {
		return "452 4.2.2 Over quota", verb == "RCPT" && strings.Contains(line, "u1")
	})
	outcome(t, m.deliver(testMessage, "u1", "alice"), "452 4.2.2", "250")
	outcome(t, m.deliver(testMessage, "u1"), "452 4.2.2")
	be1.on(func(_ *stubSession, verb, _ string) (string, bool) { return "552 5.2.3 no", verb == "MAIL" })
	outcome(t, m.deliver(testMessage, "u1"), "552 5.2.3")
	be1.on(nil)
	outcome(t, m.deliver(testMessage, "u1"), "250")
}

// Recipients for whom somebody stands in are told ahead like others, and get the message in one transaction with
// the one who has the mailbox.
func TestStandInsAhead(t *testing.T) {
	h, be1, _, m, told := swift(t, func(c *hostConfig) { c.mapping.Catchall = "alice" })
	m.begin("alice", "nobody")
	<-told
	m.send(testMessage + ".\r\n")
	m.expect("250 2.1.5", "250 2.1.5")
	total, _ := be1.numbers()
	if mails := be1.delivered(); total != 1 || len(mails) != 2 || !slices.Equal(mails[1].rcpts, []string{"TO:<alice>", "TO:<alice>"}) {
		t.Errorf("%d connections, got %+v", total, mails)
	}
	// The map has the last word.
	m.begin("alice", "nobody")
	<-told
	h.dir.later(active("user.nobody", "be2"))
	m.send(testMessage + ".\r\n")
	m.expect("250 2.1.5 Ok SESSIONID=<be1>", "250 2.1.5 Ok SESSIONID=<be2>")
}

// What a backend has been told is not binding until the message is complete.
func TestToldTooEarly(t *testing.T) {
	for _, c := range []struct {
		name    string
		change  func(h *host)
		message string
		want    []string // for alice and u1
		be1     int      // messages
	}{
		{"moved", func(h *host) { h.dir.set(active("user.alice", "be2")) }, testMessage, []string{"250 2.1.5 Ok SESSIONID=<be2>", "250 2.1.5 Ok SESSIONID=<be1>"}, 1},
		{"all moved", func(h *host) { h.dir.set(active("user.alice", "be2"), active("user.u1", "be2")) }, testMessage, []string{"250 2.1.5 Ok SESSIONID=<be2>", "250 2.1.5 Ok SESSIONID=<be2>"}, 0},
		{"reserved", func(h *host) { h.dir.set(reserved("user.alice", "be1")) }, testMessage, []string{"451 4.2.1", "250 2.1.5"}, 1},
		{"deleted", func(h *host) { h.dir.set(absentEntry("user.alice")) }, testMessage, []string{"550 5.1.1", "250 2.1.5"}, 1},
		{"NUL", nil, "a: b\r\n\r\n\x00\r\n", []string{"554 5.6.0", "554 5.6.0"}, 0},
		{"too big for the backend", nil, "a: b\r\n\r\n" + strings.Repeat("0123456789\r\n", 2000), []string{"552 5.3.4", "552 5.3.4"}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			lhlo := slices.Clone(stubLHLO)
			lhlo[4] = "SIZE 20000"
			h, be1, _ := two(t, func(c *hostConfig) { c.Limits.Ahead = time.Minute })
			be1.offer(lhlo...)
			m, told := h.session(t), make(chan int, 10)
			outcome(t, m.deliver(testMessage, "alice"), "250")
			be1.on(tell(told))
			m.begin("alice", "u1")
			<-told
			if c.change != nil {
				c.change(h)
			}
			m.send(c.message + ".\r\n")
			m.expect(c.want...)
			if mails := be1.delivered(); len(mails) != 1+c.be1 {
				t.Errorf("be1 stored %+v", mails)
			}
			outcome(t, m.deliver(testMessage, "bob"), "250 2.1.5")
		})
	}
}

// A client that has been swift and is not any more: the backend is let go, and gets the message later.
func TestSwiftClientStalls(t *testing.T) {
	_, be1, be2, m, told := swift(t, func(c *hostConfig) { c.Limits.Ahead = 50 * time.Millisecond })
	gone := make(chan struct{})
	be1.on(func(s *stubSession, verb, _ string) (string, bool) {
		switch {
		case verb == "DATA" && s.number == 1:
			told <- 1
		case verb == "BODY" && s.number == 1:
			s.in.ReadByte()
			close(gone)
			return hangUp, true
		}
		return "", false
	})
	m.begin("alice", "carol")
	<-told
	m.send(testMessage[:10])
	<-gone
	m.send(testMessage[10:] + ".\r\n")
	m.expect("250 2.1.5 Ok SESSIONID=<be1>", "250 2.1.5 Ok SESSIONID=<be2>")
	for _, be := range []*stub{be1, be2} {
		if total, _ := be.numbers(); total != 2 || len(be.delivered()) != 2 {
			t.Errorf("%s: %d connections, got %+v", be.name, total, be.delivered())
		}
	}
	// Once is enough: the next message is announced to nobody.
	be1.on(nil)
	be1.forget()
	m.begin("alice")
	m.send(testMessage + ".\r\n")
	m.expect("250 2.1.5")
	// This client does not say how long it is.
	if heard := be1.commands(); !slices.ContainsFunc(heard, func(c string) bool { return strings.Contains(c, " SIZE=") }) {
		t.Errorf("be1 heard of it before it was there: %q", heard)
	}
}

// A client that leaves before its dot leaves nothing behind.
func TestSwiftClientLeaves(t *testing.T) {
	h, be1, _, m, told := swift(t, nil)
	m.begin("alice")
	<-told
	m.send(testMessage)
	m.conn.Close()
	outcome(t, h.session(t).deliver(testMessage, "u1"), "250")
	if mails := be1.delivered(); len(mails) != 2 || mails[1].rcpts[0] != "TO:<u1>" {
		t.Errorf("be1 got %+v", mails)
	}
}

// The unused connection over which a backend is told is no better than others: it may be dead.
func TestToldOverADeadConnection(t *testing.T) {
	for name, script := range map[string]func(*stubSession, string, string) (string, bool){
		"closed at MAIL": func(s *stubSession, v, _ string) (string, bool) { return hangUp, v == "MAIL" && s.number == 1 },
		"421 at MAIL": func(s *stubSession, v, _ string) (string, bool) {
			return "421 4.4.1 timeout", v == "MAIL" && s.number == 1
		},
		"closed at DATA": func(s *stubSession, v, _ string) (string, bool) { return hangUp, v == "DATA" && s.number == 1 },
	} {
		t.Run(name, func(t *testing.T) {
			_, be1, _, m, _ := swift(t, nil)
			told := make(chan struct{}, 8)
			be1.on(func(s *stubSession, v, line string) (string, bool) {
				answer, done := script(s, v, line)
				if done {
					told <- struct{}{}
				}
				return answer, done
			})
			m.begin("alice", "carol")
			<-told // and the backend hangs up, now or a little later
			m.send(testMessage + ".\r\n")
			m.expect("250 2.1.5 Ok SESSIONID=<be1>", "250 2.1.5 Ok SESSIONID=<be2>")
			if mails := be1.delivered(); len(mails) != 2 {
				t.Errorf("be1 got %+v", mails)
			}
		})
	}
	// After the dot nothing is tried again, here as elsewhere.
	_, be1, _, m, _ := swift(t, nil)
	var dots atomic.Int64
	be1.on(func(_ *stubSession, v, _ string) (string, bool) {
		if v == "." {
			dots.Add(1)
		}
		return hangUp, v == "."
	})
	outcome(t, m.deliver(testMessage, "alice"), "451 4.4.2")
	if dots.Load() != 1 {
		t.Errorf("%d dots", dots.Load())
	}
}

// spare waits until a backend has an unused connection; the client does something meanwhile.
func (h *host) spare(t *testing.T, server mbox.Server, meanwhile func()) {
	t.Helper()
	p := h.pools.of(server)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) { // the pool tells nobody
		p.mu.Lock()
		n := len(p.idle)
		p.mu.Unlock()
		if n > 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s has no unused connection", server)
		}
		meanwhile()
	}
}

// The first recipient's backend hears of him while the client goes on; and is let go if it does not, for others to use.
func TestFirstRecipientAhead(t *testing.T) {
	for _, swift := range []bool{true, false} {
		h, be1, _ := two(t, func(c *hostConfig) {
			if c.Limits.Ahead = 50 * time.Millisecond; swift {
				c.Limits.Ahead = time.Minute
			}
		})
		m := h.session(t)
		outcome(t, m.deliver(testMessage, "alice"), "250")
		known := make(chan struct{}, 10)
		be1.on(func(s *stubSession, v, line string) (string, bool) {
			if v == "RCPT" {
				known <- struct{}{}
			}
			return "", false
		})
		m.say("MAIL FROM:<>", "250")
		m.say("RCPT TO:<alice>", "250")
		<-known
		if !swift {
			h.spare(t, "be1", func() {})
			outcome(t, h.session(t).deliver(testMessage, "u1"), "250")
			m.send("RC")
			time.Sleep(10 * time.Millisecond) // in the middle of a line, too: two segments
			m.send("PT TO:<u1>\r\n")
			m.expect("250")
		} else {
			m.say("RCPT TO:<u1>", "250")
			m.say("RCPT TO:<nobody>", "550 5.1.1")
			m.say("RCPT TO:<carol>", "250")
		}
		m.say("DATA", "354")
		m.send(testMessage + ".\r\n")
		m.expect("250 2.1.5 Ok SESSIONID=<be1>", "250 2.1.5 Ok SESSIONID=<be1>")
		if swift {
			m.expect("250 2.1.5 Ok SESSIONID=<be2>")
		}
		total, _ := be1.numbers()
		mails := be1.delivered()
		if last := mails[len(mails)-1]; total != 1 || !slices.Equal(last.rcpts, []string{"TO:<alice>", "TO:<u1>"}) {
			t.Errorf("swift %v: %d connections, be1 got %+v", swift, total, mails)
		}
	}
	// One that keeps talking gets no more time.
	h, be1, _ := two(t, func(c *hostConfig) { c.Limits.Ahead = 200 * time.Millisecond })
	m := h.session(t)
	outcome(t, m.deliver(testMessage, "alice"), "250")
	known := make(chan struct{}, 1)
	be1.on(func(_ *stubSession, v, _ string) (string, bool) {
		if v == "RCPT" {
			known <- struct{}{}
		}
		return "", false
	})
	m.say("MAIL FROM:<>", "250")
	m.say("RCPT TO:<alice>", "250")
	<-known
	h.spare(t, "be1", func() { m.say("NOOP", "250") })
	// Who thinks better of it leaves nothing behind, and the connection to others.
	h, be1, _, m, _ = swift(t, nil)
	for range 3 {
		m.say("MAIL FROM:<>", "250")
		m.say("RCPT TO:<alice>", "250")
		m.say("RSET", "250")
		h.spare(t, "be1", func() {})
	}
	outcome(t, m.deliver(testMessage, "u1"), "250")
	total, _ := be1.numbers()
	if mails := be1.delivered(); total != 1 || len(mails) != 2 || !slices.Equal(mails[1].rcpts, []string{"TO:<u1>"}) {
		t.Errorf("%d connections, be1 got %+v", total, mails)
	}
	// Unless the backend has enough of it.
	be1.on(func(s *stubSession, v, _ string) (string, bool) {
		return "421 4.3.2 closing", v == "RCPT" && s.number == 1
	})
	m.say("MAIL FROM:<>", "250")
	m.say("RCPT TO:<alice>", "250")
	m.say("RSET", "250")
	outcome(t, m.deliver(testMessage, "u1"), "250")
	if total, _ = be1.numbers(); total != 2 {
		t.Errorf("%d connections", total)
	}
}

// A server that ends waits for no backend that owes an answer to nobody.
func TestShutdownWithReplyOutstanding(t *testing.T) {
	h, be1, _, m, _ := swift(t, nil)
	asked, gone := make(chan struct{}), make(chan struct{})
	be1.on(func(s *stubSession, v, _ string) (string, bool) {
		if v != "RCPT" {
			return "", false
		}
		close(asked)
		io.Copy(io.Discard, s.in)
		close(gone)
		return hangUp, true
	})
	m.say("MAIL FROM:<>", "250")
	m.say("RCPT TO:<alice>", "250")
	<-asked
	m.say("RSET", "250")
	if err := h.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-gone:
	case <-time.After(10 * time.Second):
		t.Error("the connection is still there")
	}
}
