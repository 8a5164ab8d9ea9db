package lmtp

import (
	"crypto/x509"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"murder/internal/backend"
	"murder/internal/mbox"
	"murder/internal/tlsconf"
)

func TestDeliverToTwoBackends(t *testing.T) {
	h, be1, be2 := two(t, nil)
	m := h.session(t)
	got := m.deliver(testMessage, "alice", "bob@x", "carol", "alice+Work", "alice")
	outcome(t, got, "250 2.1.5 Ok SESSIONID=<be1>", "250 2.1.5 Ok SESSIONID=<be2>", "250 2.1.5 Ok SESSIONID=<be2>",
		"250 2.1.5 Ok SESSIONID=<be1>", "250 2.1.5 Ok SESSIONID=<be1>")
	mails := be1.delivered()
	if len(mails) != 1 || !slices.Equal(mails[0].rcpts, []string{"TO:<alice>", "TO:<alice+Work>", "TO:<alice>"}) {
		t.Errorf("be1 got %+v", mails)
	}
	data := mails[0].data
	if !strings.HasPrefix(data, "Received: from mta.example ([127.0.0.1])\r\n\tby fe1 with LMTP id ") || !strings.HasSuffix(data, testMessage) {
		t.Errorf("be1 got %q", data)
	}
	if want := fmt.Sprintf("FROM:<s@example.org> SIZE=%d AUTH=<>", len(data)); mails[0].from != want {
		t.Errorf("be1 got MAIL %s, want %s", mails[0].from, want)
	}
	if mails := be2.delivered(); len(mails) != 1 || !slices.Equal(mails[0].rcpts, []string{"TO:<bob@x>", "TO:<carol>"}) {
		t.Errorf("be2 got %+v", mails)
	}
	// The connections are used again, without RSET.
	outcome(t, m.deliver(testMessage, "alice", "carol"), "250", "250")
	if total, _ := be1.numbers(); total != 1 {
		t.Errorf("be1 got %d connections", total)
	}
	if log := be1.commands(); slices.Contains(log, "RSET") {
		t.Errorf("be1 was reset without need: %q", log)
	}
	m.say("QUIT", "221")
}

// What a transaction that came to nothing has left at the backend goes by RSET.
func TestReset(t *testing.T) {
	h, be1, _ := two(t, nil)
	full := func(_ *stubSession, v, _ string) (string, bool) { return "452 4.2.2 Over quota", v == "RCPT" }
	m := h.session(t)
	for _, script := range []func(*stubSession, string, string) (string, bool){nil, full, nil, nil} {
		be1.on(script)
		outcome(t, m.deliver(testMessage, "alice"), map[bool]string{true: "250", false: "452 4.2.2"}[script == nil])
	}
	var verbs []string
	for _, line := range be1.commands() {
		if verb, _ := splitCommand(line); verb == "MAIL" || verb == "RSET" {
			verbs = append(verbs, verb)
		}
	}
	if total, _ := be1.numbers(); total != 1 || !slices.Equal(verbs, []string{"MAIL", "MAIL", "RSET", "MAIL", "MAIL"}) {
		t.Errorf("%q on %d connections", verbs, total)
	}
	// Nor is a message that a backend finds too big: it keeps the sender.
	h, be1, _ = two(t, nil)
	m = h.session(t)
	be1.on(func(_ *stubSession, v, _ string) (string, bool) {
		return "552 5.2.3 Message size exceeds fixed limit", v == "."
	})
	outcome(t, m.deliver(testMessage, "alice"), "552 5.2.3")
	outcome(t, m.deliver(testMessage, "alice"), "552 5.2.3")
	if total, _ := be1.numbers(); total != 1 || !slices.Contains(be1.commands(), "RSET") {
		t.Errorf("%q on %d connections", be1.commands(), total)
	}
}

// A reply goes out as soon as it and those before it are known, whoever is still at work for those behind it: a
// backend that does not answer, also one that has answered for others before, or a map that cannot be asked.
func TestRepliesDoNotWait(t *testing.T) {
	t.Run("for a backend", func(t *testing.T) {
		h, be1, _ := two(t, nil)
		release := make(chan struct{})
		be1.on(func(_ *stubSession, v, line string) (string, bool) {
			if v == "." {
				<-release
			}
			return "452 4.2.2 Over quota", v == "RCPT" && strings.Contains(line, "alice")
		})
		m := h.session(t)
		m.begin("alice", "carol", "u1")
		m.send(testMessage + ".\r\n")
		m.expect("452 4.2.2", "250 2.1.5 Ok SESSIONID=<be2>")
		close(release)
		m.expect("250 2.1.5 Ok SESSIONID=<be1>")
	})
	t.Run("for the map", func(t *testing.T) {
		h, _, be2 := two(t, nil)
		m := h.session(t)
		m.begin("alice", "carol", "bob")
		h.dir.set(reserved("user.carol", "be2")) // it is being moved
		block := make(chan struct{})
		h.dir.hold(block)
		m.send(testMessage + ".\r\n")
		m.expect("250 2.1.5 Ok SESSIONID=<be1>")
		for len(be2.delivered()) == 0 { // bob's mail waits as little, but his reply stands behind carol's
			runtime.Gosched()
		}
		h.dir.later(active("user.carol", "be1"))
		close(block)
		m.expect("250 2.1.5 Ok SESSIONID=<be1>", "250 2.1.5 Ok SESSIONID=<be2>")
	})
}

// The replies of a fast backend do not wait for a slow one, and the whole takes as long as the slow one.
func TestConcurrentBackends(t *testing.T) {
	h, _, be2 := two(t, nil)
	release := make(chan struct{})
	be2.on(func(_ *stubSession, verb, _ string) (string, bool) {
		if verb == "." {
			<-release
		}
		return "", false
	})
	m := h.session(t)
	m.say("MAIL FROM:<>", "250")
	m.say("RCPT TO:<alice>", "250")
	m.say("RCPT TO:<carol>", "250")
	m.say("RCPT TO:<u1>", "250")
	m.say("DATA", "354")
	m.send(testMessage + ".\r\n")
	m.expect("250 2.1.5 Ok SESSIONID=<be1>") // although be2 is not done
	close(release)
	m.expect("250 2.1.5 Ok SESSIONID=<be2>", "250 2.1.5 Ok SESSIONID=<be1>")
}

// Every way in which a backend can fail, what carol and bob there are told, and how often it was tried.
// alice on the other backend never notices.
func TestBackendFaults(t *testing.T) {
	big := "Subject: big\r\n\r\n" + strings.Repeat(strings.Repeat("x", 70)+"\r\n", 100000)
	on := func(verb, text string) func(*stubSession, string, string) (string, bool) {
		return func(_ *stubSession, v, _ string) (string, bool) { return text, v == verb }
	}
	first := func(verb, text string) func(*stubSession, string, string) (string, bool) {
		return func(s *stubSession, v, _ string) (string, bool) { return text, v == verb && s.number == 1 }
	}
	alerting := map[string]map[string]float64{ // faults that an operator must hear of
		"MAIL 430": {"identity": 1}, "MAIL 530": {"identity": 1},
		"RCPT unknown": {"not_at_backend": 1}, "RCPT unknown, no code": {"not_at_backend": 2},
		"greeting of a frontend": {"loop": 1},
	}
	for _, fault := range []struct {
		name    string
		script  func(*stubSession, string, string) (string, bool)
		message string
		want    []string // for carol and bob
		conns   int
		stored  int
	}{
		{"greeting 421", on("", "421 4.3.2 later"), "", []string{"451 4.3.2", "451 4.3.2"}, 1, 0},
		{"greeting 554", on("", "554 no"), "", []string{"451 4.4.1", "451 4.4.1"}, 1, 0},
		{"greeting of a frontend", on("", "220 fe2 LMTP murder ready"), "", []string{"451 4.4.6", "451 4.4.6"}, 1, 0},
		{"closes on connect", on("", hangUp), "", []string{"451 4.4.2", "451 4.4.2"}, 2, 0},
		{"no greeting", on("", silence), "", []string{"451 4.4.2", "451 4.4.2"}, 1, 0},
		{"garbage greeting", on("", "hello"), "", []string{"451 4.4.2", "451 4.4.2"}, 1, 0},
		{"LHLO refused", on("LHLO", "500 5.5.1 what"), "", []string{"451 4.5.0", "451 4.5.0"}, 1, 0},
		{"AUTH refused", on("AUTH", "535 5.7.8 no"), "", []string{"451 4.7.0", "451 4.7.0"}, 1, 0},
		{"AUTH 454", on("AUTH", "454 4.7.0 later"), "", []string{"451 4.7.0", "451 4.7.0"}, 1, 0},
		{"MAIL 430", on("MAIL", "430 Authentication required"), "", []string{"451 4.7.0", "451 4.7.0"}, 1, 0},
		{"MAIL 530", on("MAIL", "530 5.7.0 Authentication required"), "", []string{"451 4.7.0", "451 4.7.0"}, 1, 0},
		{"MAIL 503", on("MAIL", "503 5.5.1 nested"), "", []string{"451 4.5.0", "451 4.5.0"}, 1, 0},
		{"MAIL 552", on("MAIL", "552 5.2.3 too big"), "", []string{"552 5.2.3 too big", "552 5.2.3 too big"}, 1, 0},
		{"MAIL 451, no code", on("MAIL", "451 later"), "", []string{"451 4.0.0 later", "451 4.0.0 later"}, 1, 0},
		{"MAIL closes", on("MAIL", hangUp), "", []string{"451 4.4.2", "451 4.4.2"}, 2, 0},
		{"MAIL closes once", first("MAIL", hangUp), "", []string{"250 2.1.5", "250 2.1.5"}, 2, 1},
		{"MAIL silent", on("MAIL", silence), "", []string{"451 4.4.2", "451 4.4.2"}, 1, 0},
		{"RCPT over quota", func(_ *stubSession, v, line string) (string, bool) {
			return "452 4.2.2 Over quota SESSIONID=<q>", v == "RCPT" && strings.Contains(line, "bob")
		}, "", []string{"250 2.1.5", "452 4.2.2 Over quota SESSIONID=<q>"}, 1, 1},
		{"all RCPT over quota", on("RCPT", "452 4.2.2 Over quota"), "", []string{"452 4.2.2", "452 4.2.2"}, 1, 0},
		{"RCPT unknown", func(_ *stubSession, v, line string) (string, bool) {
			return "550-Mailbox unknown.\n550 5.1.1 User unknown", v == "RCPT" && strings.Contains(line, "carol")
		}, "", []string{"451 4.2.0", "250 2.1.5"}, 1, 1},
		{"RCPT unknown, no code", on("RCPT", "550 who"), "", []string{"451 4.2.0", "451 4.2.0"}, 1, 0},
		{"RCPT no right", on("RCPT", "550-a\n550-b\n550 5.7.1 no"), "", []string{"550-a\n550-b\n550 5.7.1 no", "550-a\n550-b\n550 5.7.1 no"}, 1, 0},
		{"RCPT 421", on("RCPT", "421 4.3.2 bye"), "", []string{"451 4.3.2", "451 4.3.2"}, 1, 0},
		{"DATA 452", on("DATA", "452 4.3.1 full"), "", []string{"452 4.3.1 full", "452 4.3.1 full"}, 1, 0},
		{"DATA 503", on("DATA", "503 5.5.1 what"), "", []string{"451 4.5.0", "451 4.5.0"}, 1, 0},
		{"DATA 250", on("DATA", "250 2.0.0 done"), "", []string{"451 4.5.0", "451 4.5.0"}, 1, 0},
		{"body closes", on("BODY", hangUp), big, []string{"451 4.4.2", "451 4.4.2"}, 2, 0},
		{"body closes once", first("BODY", hangUp), big, []string{"250 2.1.5", "250 2.1.5"}, 2, 1},
		{"dot closes", on(".", hangUp), "", []string{"451 4.4.2", "451 4.4.2"}, 1, 1},
		{"dot silent", on(".", silence), "", []string{"451 4.4.2", "451 4.4.2"}, 1, 1},
		{"dot one of two", func(s *stubSession, v, _ string) (string, bool) {
			if v != "." {
				return "", false
			}
			fmt.Fprint(s.conn, "250 2.1.5 mine\r\n")
			return hangUp, true
		}, "", []string{"250 2.1.5 mine", "451 4.4.2"}, 1, 1},
		{"dot 421", on(".", "421 4.3.2 bye"), "", []string{"451 4.3.2", "451 4.3.2"}, 1, 1},
		{"dot garbage", on(".", "oops"), "", []string{"451 4.4.2", "451 4.4.2"}, 1, 1},
		{"dot multi-line", on(".", "550-5.7.1 first\n550-5.7.1 second\n550 5.7.1 third\n554 5.6.0 odd text"), "",
			[]string{"550-5.7.1 first\n550-5.7.1 second\n550 5.7.1 third", "554 5.6.0 odd text"}, 1, 1},
		{"dot class mismatch", on(".", "450 2.0.0 a\n550 4.2.1 b"), "", []string{"450 4.0.0 a", "550 5.0.0 b"}, 1, 1},
		{"dot one 552", on(".", "552 5.2.3 Message too big"), "", []string{"552 5.3.4", "552 5.3.4"}, 1, 1},
		{"dot 552 and 250", on(".", "552 5.2.3 Message too big\n250 2.1.5 ok"), "", []string{"552 5.2.3", "250 2.1.5 ok"}, 1, 1},
	} {
		t.Run(fault.name, func(t *testing.T) {
			t.Parallel()
			reg := prometheus.NewRegistry()
			h, be1, be2 := two(t, func(c *hostConfig) {
				c.Metrics = reg
				c.Limits.Straggle = 100 * time.Millisecond
				if strings.Contains(fault.name, "silent") || fault.name == "no greeting" { // the others need no clock
					c.Limits.SignOn, c.Limits.Envelope, c.Limits.Reply = time.Second, time.Second, time.Second
				}
			})
			be2.on(fault.script)
			message := fault.message
			if message == "" {
				message = testMessage
			}
			m := h.session(t)
			got := m.deliver(message, "carol", "alice", "bob")
			outcome(t, got, fault.want[0], "250 2.1.5 Ok SESSIONID=<be1>", fault.want[1])
			if total, _ := be2.numbers(); total != fault.conns {
				t.Errorf("be2 got %d connections, want %d", total, fault.conns)
			}
			if mails := be2.delivered(); len(mails) != fault.stored {
				t.Errorf("be2 stored %d messages, want %d", len(mails), fault.stored)
			}
			if mails := be1.delivered(); len(mails) != 1 {
				t.Errorf("be1 stored %d messages", len(mails))
			}
			if got := alerts(t, reg); !maps.Equal(got, alerting[fault.name]) {
				t.Errorf("alerts %v, want %v", got, alerting[fault.name])
			}
			// Nobody bears a grudge.
			be2.on(nil)
			outcome(t, m.deliver(testMessage, "carol"), "250 2.1.5 Ok SESSIONID=<be2>")
		})
	}
}

// alerts are the counts of alerts by their kinds.
func alerts(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for _, f := range families {
		if f.GetName() == "murder_lmtp_alerts_total" {
			for _, m := range f.GetMetric() {
				if n := m.GetCounter().GetValue(); n > 0 {
					all[m.GetLabel()[0].GetValue()] = n
				}
			}
		}
	}
	return all
}

func TestPooledConnectionDies(t *testing.T) {
	for name, script := range map[string]string{"421 at MAIL": "421 4.4.1 timeout", "closed": hangUp} {
		t.Run(name, func(t *testing.T) {
			h, _, be2 := two(t, nil)
			m := h.session(t)
			outcome(t, m.deliver(testMessage, "carol"), "250")
			be2.on(func(s *stubSession, v, _ string) (string, bool) { return script, v == "MAIL" && s.number == 1 })
			outcome(t, m.deliver(testMessage, "carol"), "250")
			if total, _ := be2.numbers(); total != 2 || len(be2.delivered()) != 2 {
				t.Errorf("%d connections, %d messages", total, len(be2.delivered()))
			}
		})
	}
}

func TestBackendDown(t *testing.T) {
	h, be1, be2 := two(t, nil)
	be2.stop()
	m := h.session(t)
	for range 3 { // opens the breaker
		outcome(t, m.deliver(testMessage, "alice", "carol"), "250", "451 4.4.1")
	}
	m.say("MAIL FROM:<>", "250")
	m.say("RCPT TO:<carol>", "451 4.4.1")
	m.say("RCPT TO:<alice>", "250")
	if n := len(be1.delivered()); n != 3 {
		t.Errorf("be1 got %d messages", n)
	}
}

// A backend that must be spoken to command by command gets them so.
func TestWithoutPipelining(t *testing.T) {
	h, be1, _ := two(t, nil)
	be1.offer("old", "Ok")
	be1.on(func(s *stubSession, v, _ string) (string, bool) {
		s.signed = true
		if s.in.Buffered() > 0 && v != "." {
			return "500 5.5.1 too fast", true
		}
		return "", false
	})
	outcome(t, h.session(t).deliver(testMessage, "alice", "u1"), "250", "250")
	if mails := be1.delivered(); len(mails) != 1 || mails[0].from != "FROM:<s@example.org>" {
		t.Errorf("be1 got %+v", mails)
	}
}

func TestParametersReachBackend(t *testing.T) {
	h, be1, _ := two(t, nil)
	m := h.session(t)
	m.say("MAIL FROM:<\"o dd\"@x> BODY=8BITMIME SIZE=100 AUTH=alice@x", "250")
	m.say("RCPT TO:<@r:alice@x> ignorequota", "250")
	m.say(`RCPT TO:<"u1"@x>`, "250")
	m.say("DATA", "354")
	m.send(testMessage + ".\r\n")
	m.expect("250", "250")
	mail := be1.delivered()[0]
	if want := fmt.Sprintf(`FROM:<"o dd"@x> SIZE=%d BODY=8BITMIME AUTH=alice@x`, len(mail.data)); mail.from != want {
		t.Errorf("got %s, want %s", mail.from, want)
	}
	if want := []string{"TO:<alice@x> IGNOREQUOTA", "TO:<u1@x>"}; !slices.Equal(mail.rcpts, want) {
		t.Errorf("got %q, want %q", mail.rcpts, want)
	}
}

// Mailboxes may move, vanish or be reserved while a message comes in.
func TestMapChangesBeforeTheDot(t *testing.T) {
	h, be1, be2 := two(t, nil)
	m := h.session(t)
	m.say("MAIL FROM:<>", "250")
	for _, rcpt := range []string{"carol", "alice", "bob", "u1"} {
		m.say("RCPT TO:<"+rcpt+">", "250")
	}
	m.say("DATA", "354")
	h.dir.set(active("user.carol", "be1"), reserved("user.bob", "be2"), absentEntry("user.u1"))
	m.send(testMessage + ".\r\n")
	m.expect("250 2.1.5 Ok SESSIONID=<be1>", "250", "451 4.2.1", "550 5.1.1")
	if len(be1.delivered()) != 1 || len(be2.delivered()) != 0 {
		t.Errorf("be1 got %d, be2 got %d", len(be1.delivered()), len(be2.delivered()))
	}
}

// A backend that does not know a mailbox any more is asked about in the map, and the new one gets the
// message.
func TestMovedBehindOurBack(t *testing.T) {
	h, be1, be2 := two(t, nil)
	be2.on(func(_ *stubSession, v, line string) (string, bool) {
		return "550 5.1.1 User unknown", v == "RCPT" && strings.Contains(line, "carol")
	})
	m := h.session(t)
	h.dir.later(active("user.carol", "be1"))
	outcome(t, m.deliver(testMessage, "carol", "bob"), "250 2.1.5 Ok SESSIONID=<be1>", "250 2.1.5 Ok SESSIONID=<be2>")
	if mails := be1.delivered(); len(mails) != 1 || !slices.Equal(mails[0].rcpts, []string{"TO:<carol>"}) {
		t.Errorf("be1 got %+v", mails)
	}
	// Gone altogether, after the map was asked.
	be1.on(func(_ *stubSession, v, _ string) (string, bool) { return "550 5.1.1 User unknown", v == "RCPT" })
	h.dir.later(absentEntry("user.carol"))
	outcome(t, m.deliver(testMessage, "carol"), "550 5.1.1")
	// The map cannot be asked.
	h.dir.fail(mbox.ErrUnavailable)
	outcome(t, m.deliver(testMessage, "u1"), "451 4.2.0")
}

// The same between RCPT and the end of the data.
func TestMovedDuringTheData(t *testing.T) {
	h, be1, be2 := two(t, nil)
	be2.on(func(_ *stubSession, v, _ string) (string, bool) {
		return "550-Mailbox unknown.\n550 5.1.1 User unknown\n250 2.1.5 Ok", v == "."
	})
	m := h.session(t)
	h.dir.later(active("user.carol", "be1"))
	outcome(t, m.deliver(testMessage, "carol", "bob"), "250 2.1.5 Ok SESSIONID=<be1>", "250 2.1.5 Ok")
	be1.on(func(_ *stubSession, v, _ string) (string, bool) { return "550 5.1.1 User unknown", v == "." })
	outcome(t, m.deliver(testMessage, "carol"), "451 4.2.0")
	h.dir.later(absentEntry("user.carol"))
	outcome(t, m.deliver(testMessage, "carol"), "550 5.1.1")
}

// Both servers deny the mailbox: it is not sent around in circles.
func TestDeniedByBoth(t *testing.T) {
	h, be1, be2 := two(t, nil)
	unknown := func(_ *stubSession, v, _ string) (string, bool) { return "550 5.1.1 User unknown", v == "RCPT" }
	be1.on(unknown)
	be2.on(unknown)
	h.dir.later(active("user.carol", "be1"))
	outcome(t, h.session(t).deliver(testMessage, "carol"), "451 4.2.0")
}

func TestBackendSizeLimit(t *testing.T) {
	h, be1, be2 := two(t, nil)
	lhlo := slices.Clone(stubLHLO)
	lhlo[4] = "SIZE 20000"
	be2.offer(lhlo...)
	m := h.session(t)
	body := "Subject: x\r\n\r\n" + strings.Repeat("0123456789\r\n", 25000/12)
	outcome(t, m.deliver(body, "carol", "alice", "carol+x"), "552 5.3.4", "250", "552 5.3.4")
	if len(be1.delivered()) != 1 || len(be2.delivered()) != 0 {
		t.Error("wrong backends got it")
	}
	// Now that it is known, LHLO says so.
	m.send("LHLO again\r\n")
	if rep := m.reply(); !strings.Contains(rep, "250-SIZE 20000\n") {
		t.Errorf("got %q", rep)
	}
}

// No more connections than allowed, however many messages at a time; all are delivered.
func TestPoolLimit(t *testing.T) {
	h, be1, _ := two(t, func(c *hostConfig) { c.Limits.BackendConns = 3 })
	var clients sync.WaitGroup
	for range 20 {
		m := h.session(t)
		clients.Go(func() {
			for range 3 {
				m.send("MAIL FROM:<>\r\nRCPT TO:<alice>\r\nDATA\r\n" + testMessage + ".\r\n")
				for _, want := range []string{"250", "250", "354", "250"} {
					if got := m.reply(); !strings.HasPrefix(got, want) {
						t.Errorf("got %q, want %s", got, want)
					}
				}
			}
		})
	}
	clients.Wait()
	if total, most := be1.numbers(); most > 3 || len(be1.delivered()) != 60 {
		t.Errorf("%d connections, %d at a time, %d messages", total, most, len(be1.delivered()))
	}
}

func TestPoolRunsOut(t *testing.T) {
	release := make(chan struct{})
	h, be1, _ := two(t, func(c *hostConfig) {
		c.Limits.BackendConns, c.Limits.BackendWaiters, c.Limits.BackendWait = 1, 1, 50*time.Millisecond
	})
	busy := make(chan struct{}, 1)
	be1.on(func(_ *stubSession, v, _ string) (string, bool) {
		if v == "." {
			busy <- struct{}{}
			<-release
		}
		return "", false
	})
	m := h.session(t)
	m.send("MAIL FROM:<>\r\nRCPT TO:<alice>\r\nDATA\r\n" + testMessage + ".\r\n")
	<-busy
	outcome(t, h.session(t).deliver(testMessage, "alice"), "451 4.4.1") // waits in vain
	close(release)
	m.expect("250", "250", "354", "250")
	outcome(t, h.session(t).deliver(testMessage, "alice"), "250")
}

func TestConnectionsExpire(t *testing.T) {
	h, be1, _ := two(t, func(c *hostConfig) {
		c.Limits.BackendUses = 2
		c.Limits.BackendIdle = 20 * time.Millisecond
	})
	quit := make(chan struct{}, 10)
	be1.on(func(_ *stubSession, v, _ string) (string, bool) {
		if v == "QUIT" {
			quit <- struct{}{}
		}
		return "", false
	})
	m := h.session(t)
	outcome(t, m.deliver(testMessage, "alice"), "250")
	<-quit // idle for too long
	outcome(t, m.deliver(testMessage, "alice"), "250")
	outcome(t, m.deliver(testMessage, "alice"), "250")
	<-quit // idle, or used twice
	outcome(t, m.deliver(testMessage, "alice"), "250")
	<-quit
}

// The client's patience is never exceeded: at the deadline everything is settled.
func TestOverallDeadline(t *testing.T) {
	h, _, be2 := two(t, func(c *hostConfig) { c.Limits.Handling = 200 * time.Millisecond })
	be2.on(func(_ *stubSession, v, _ string) (string, bool) { return silence, v == "." })
	began := time.Now()
	outcome(t, h.session(t).deliver(testMessage, "alice", "carol"), "250", "451 4.4.2")
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("took %v", d)
	}
}

// A client that has left after its dot does not keep the backends from delivering.
func TestClientLeavesAfterTheDot(t *testing.T) {
	h, be1, _ := two(t, nil)
	stored := make(chan struct{})
	be1.on(func(_ *stubSession, v, _ string) (string, bool) {
		if v == "." {
			close(stored)
		}
		return "", false
	})
	m := h.session(t)
	m.say("MAIL FROM:<>", "250")
	m.say("RCPT TO:<alice>", "250")
	m.say("DATA", "354")
	m.send(testMessage + ".\r\n")
	m.conn.(*net.TCPConn).SetLinger(0)
	m.conn.Close()
	<-stored
	if len(be1.delivered()) != 1 {
		t.Error("not delivered")
	}
}

func TestClientLeavesBeforeTheDot(t *testing.T) {
	h, be1, _ := two(t, nil)
	m := h.session(t)
	m.say("MAIL FROM:<>", "250")
	m.say("RCPT TO:<alice>", "250")
	m.say("DATA", "354")
	m.send(testMessage)
	m.conn.Close()
	outcome(t, h.session(t).deliver(testMessage, "u1"), "250")
	if mails := be1.delivered(); len(mails) != 1 || mails[0].rcpts[0] != "TO:<u1>" {
		t.Errorf("be1 got %+v", mails)
	}
}

// STARTTLS toward backends: done when the policy wants it, and never left out quietly.
func TestBackendTLS(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	if err := tlsconf.WriteSelfSigned(certFile, keyFile, "be"); err != nil {
		t.Fatal(err)
	}
	certs, err := tlsconf.Load(tlsconf.Config{CertFile: certFile, KeyFile: keyFile})
	if err != nil {
		t.Fatal(err)
	}
	lhlo := append([]string{"stub", "STARTTLS"}, stubLHLO[1:]...)
	for _, c := range []struct {
		name   string
		offer  []string
		script func(*stubSession, string, string) (string, bool)
		verify backend.Verification
		want   string
	}{
		{"works", lhlo, nil, backend.VerifyNone, "250"},
		{"not offered", stubLHLO, nil, backend.VerifyNone, "451 4.7.5"},
		{"refused", lhlo, func(_ *stubSession, v, _ string) (string, bool) { return "454 4.7.0 no", v == "STARTTLS" }, backend.VerifyNone, "451 4.7.5"},
		{"wrong certificate", lhlo, nil, backend.VerifyCA, "451 4.7.5"},
	} {
		t.Run(c.name, func(t *testing.T) {
			be := newStub(t, "be1")
			be.tls = certs.TLS()
			be.offer(c.offer...)
			be.on(c.script)
			h := newHost(t, newDirectory(active("user.alice", "be1")), []*stub{be}, nil)
			servers := settingsOf(be)
			set := servers["be1"]
			set.TLS, set.Verify, set.RootCAs = backend.StartTLS, c.verify, x509.NewCertPool()
			servers["be1"] = set
			h.set.Update(backend.Settings{}, servers)
			outcome(t, h.session(t).deliver(testMessage, "alice"), c.want)
			if log := be.commands(); c.want != "250" && slices.ContainsFunc(log, func(l string) bool { return strings.HasPrefix(l, "AUTH") }) {
				t.Errorf("the password went out: %q", log)
			}
		})
	}
}
