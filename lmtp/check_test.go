package lmtp

import (
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"murder/internal/mbox"
)

// askingBackends is the usual fixture with backends that are asked at RCPT.
func askingBackends(t *testing.T, adjust func(*hostConfig)) (h *host, be1, be2 *stub) {
	return two(t, func(c *hostConfig) {
		c.CheckAtBackend = true
		c.Limits.Envelope = time.Second
		if adjust != nil {
			adjust(c)
		}
	})
}

// The MTA hears of a full mailbox before it sends the message, and each backend sees one transaction.
func TestBackendAnswersRcpt(t *testing.T) {
	h, be1, be2 := askingBackends(t, nil)
	full := func(_ *stubSession, v, line string) (string, bool) {
		return "452 4.2.2 Over quota SESSIONID=<q>", v == "RCPT" && strings.Contains(line, "bob")
	}
	be2.on(full)
	m := h.session(t)
	m.say("MAIL FROM:<s@x> SIZE=100", "250")
	m.say("RCPT TO:<bob>", "452 4.2.2 Over quota SESSIONID=<q>")
	m.say("RCPT TO:<alice>", "250 2.1.5")
	m.say("RCPT TO:<carol>", "250 2.1.5")
	m.say("RCPT TO:<bob>", "452 4.2.2")
	m.say("RCPT TO:<u1>", "250 2.1.5")
	m.say("RCPT TO:<carol+x>", "250 2.1.5")
	m.say("DATA", "354")
	m.send(testMessage + ".\r\n")
	m.expect("250 2.1.5 Ok SESSIONID=<be1>", "250 2.1.5 Ok SESSIONID=<be2>", "250 2.1.5 Ok SESSIONID=<be1>", "250 2.1.5 Ok SESSIONID=<be2>")
	if mails := be1.delivered(); len(mails) != 1 || !slices.Equal(mails[0].rcpts, []string{"TO:<alice>", "TO:<u1>"}) {
		t.Errorf("be1 got %+v", mails)
	}
	if mails := be2.delivered(); len(mails) != 1 || !slices.Equal(mails[0].rcpts, []string{"TO:<carol>", "TO:<carol+x>"}) {
		t.Errorf("be2 got %+v", mails)
	}
	// Nobody at all, then the same connections again.
	m.say("MAIL FROM:<>", "250")
	m.say("RCPT TO:<bob>", "452 4.2.2")
	m.say("RSET", "250")
	be2.on(nil)
	outcome(t, m.deliver(testMessage, "alice", "bob"), "250", "250")
	if total, _ := be2.numbers(); total != 1 {
		t.Errorf("be2 got %d connections", total)
	}
	if log := strings.Join(be1.commands(), "\n"); strings.Count(log, "MAIL FROM") != 2 || !strings.Contains(log, "MAIL FROM:<s@x> SIZE=100 AUTH=<>") {
		t.Errorf("be1 heard %s", log)
	}
}

// What a backend says at RCPT, and what the MTA is told.
func TestBackendFaultsAtRcpt(t *testing.T) {
	on := func(verb, text string) func(*stubSession, string, string) (string, bool) {
		return func(_ *stubSession, v, _ string) (string, bool) { return text, v == verb }
	}
	first := func(verb, text string) func(*stubSession, string, string) (string, bool) {
		return func(s *stubSession, v, _ string) (string, bool) { return text, v == verb && s.number == 1 }
	}
	for _, fault := range []struct {
		name   string
		script func(*stubSession, string, string) (string, bool)
		want   string
		conns  int
	}{
		{"no right", on("RCPT", "550-a\n550 5.7.1 no"), "550 5.7.1 no", 1},
		{"unknown", on("RCPT", "550-Mailbox unknown.\n550 5.1.1 User unknown"), "451 4.2.0", 1},
		{"unknown, no code", on("RCPT", "550 who"), "451 4.2.0", 1},
		{"too big", on("MAIL", "552 5.2.3 too big"), "552 5.2.3 too big", 1},
		{"later", on("MAIL", "451 later"), "451 4.0.0 later", 1},
		{"nested", on("MAIL", "503 5.5.1 nested"), "451 4.5.0", 1},
		{"not us", on("MAIL", "530 5.7.0 Authentication required"), "451 4.7.0", 1},
		{"password", on("AUTH", "535 5.7.8 no"), "451 4.7.0", 1},
		{"bye", on("RCPT", "421 4.3.2 bye"), "451 4.3.2", 1},
		{"greeting", on("", "421 4.3.2 bye"), "451 4.3.2", 1},
		{"closes", on("RCPT", hangUp), "451 4.4.2", 2},
		{"closes once", first("RCPT", hangUp), "250 2.1.5", 2},
		{"silent", on("RCPT", silence), "451 4.4.2", 1},
	} {
		t.Run(fault.name, func(t *testing.T) {
			t.Parallel()
			h, _, be2 := askingBackends(t, func(c *hostConfig) { c.Limits.Envelope = 300 * time.Millisecond })
			be2.on(fault.script)
			m := h.session(t)
			m.say("MAIL FROM:<>", "250")
			m.say("RCPT TO:<carol>", fault.want)
			if total, _ := be2.numbers(); total != fault.conns {
				t.Errorf("be2 got %d connections, want %d", total, fault.conns)
			}
			be2.on(nil)
			m.say("RCPT TO:<alice>", "250 2.1.5")
			m.say("RCPT TO:<bob>", "250 2.1.5")
			m.say("DATA", "354")
			m.send(testMessage + ".\r\n")
			m.expect("250 2.1.5")
			if strings.HasPrefix(fault.want, "250") {
				m.expect("250 2.1.5 Ok SESSIONID=<be1>")
			}
			m.expect("250 2.1.5 Ok SESSIONID=<be2>")
		})
	}
	h, _, be2 := askingBackends(t, nil)
	be2.stop()
	m := h.session(t)
	m.say("MAIL FROM:<>", "250")
	m.say("RCPT TO:<carol>", "451 4.4.1")
	m.say("RCPT TO:<alice>", "250 2.1.5")
}

// A backend that goes away while the client sends its message gets it over another connection.
func TestHeldConnectionDies(t *testing.T) {
	for name, script := range map[string]func(*stubSession, string, string) (string, bool){
		"closed": func(s *stubSession, v, _ string) (string, bool) { return hangUp, v == "DATA" && s.number == 1 },
		"timed out": func(s *stubSession, v, _ string) (string, bool) {
			return "421 4.4.1 idle", v == "DATA" && s.number == 1
		},
		"in no mood": func(s *stubSession, v, _ string) (string, bool) {
			return "452 4.3.1 full", v == "DATA" && s.number == 1
		},
		"second RCPT": func(s *stubSession, v, line string) (string, bool) {
			return hangUp, v == "RCPT" && s.number == 1 && strings.Contains(line, "bob")
		},
	} {
		t.Run(name, func(t *testing.T) {
			h, _, be2 := askingBackends(t, nil)
			be2.on(script)
			m := h.session(t)
			outcome(t, m.deliver(testMessage, "carol", "bob"), "250 2.1.5 Ok SESSIONID=<be2>", "250 2.1.5 Ok SESSIONID=<be2>")
			if mails := be2.delivered(); len(mails) != 1 || len(mails[0].rcpts) != 2 {
				t.Errorf("be2 got %+v", mails)
			}
		})
	}
}

// The same answers as without the option when the map changes.
func TestMovedWhileHeld(t *testing.T) {
	h, be1, be2 := askingBackends(t, nil)
	m := h.session(t)
	m.say("MAIL FROM:<>", "250")
	for _, rcpt := range []string{"carol", "alice", "bob", "u1"} {
		m.say("RCPT TO:<"+rcpt+">", "250")
	}
	m.say("DATA", "354")
	h.dir.set(active("user.carol", "be1"), reserved("user.bob", "be2"), absentEntry("user.u1"))
	m.send(testMessage + ".\r\n")
	m.expect("250 2.1.5 Ok SESSIONID=<be1>", "250", "451 4.2.1", "550 5.1.1")
	if mails := be1.delivered(); len(mails) != 1 || !slices.Equal(mails[0].rcpts, []string{"TO:<carol>", "TO:<alice>"}) || len(be2.delivered()) != 0 {
		t.Errorf("be1 got %+v, be2 got %d", mails, len(be2.delivered()))
	}
	// The map is behind: the backend that knows better sends us to look again.
	be1.on(func(_ *stubSession, v, line string) (string, bool) {
		return "550 5.1.1 User unknown", v == "RCPT" && strings.Contains(line, "carol")
	})
	h.dir.later(active("user.carol", "be2"))
	outcome(t, m.deliver(testMessage, "carol"), "250 2.1.5 Ok SESSIONID=<be2>")
	be2.on(func(_ *stubSession, v, _ string) (string, bool) { return "550 5.1.1 User unknown", v == "RCPT" })
	h.dir.later(absentEntry("user.carol"))
	m.say("MAIL FROM:<>", "250")
	m.say("RCPT TO:<carol>", "550 5.1.1")
	h.dir.later(active("user.x", "be1"))
	h.dir.fail(mbox.ErrUnavailable)
	be1.on(func(_ *stubSession, v, _ string) (string, bool) { return "550 5.1.1 User unknown", v == "RCPT" })
	m.say("RCPT TO:<alice>", "451 4.2.0")
}

// Two transactions that each hold a connection that the other needs: nobody waits, all is delivered.
func TestHoldersDoNotWaitForEachOther(t *testing.T) {
	h, be1, be2 := askingBackends(t, func(c *hostConfig) { c.Limits.BackendConns = 1 })
	one, two := h.session(t), h.session(t)
	one.say("MAIL FROM:<>", "250")
	two.say("MAIL FROM:<>", "250")
	one.say("RCPT TO:<alice>", "250")
	two.say("RCPT TO:<carol>", "250")
	one.say("RCPT TO:<carol>", "250")
	two.say("RCPT TO:<alice>", "250")
	var both sync.WaitGroup
	for _, m := range []*mta{one, two} {
		both.Go(func() {
			m.send("DATA\r\n" + testMessage + ".\r\n")
			for _, want := range []string{"354", "250", "250"} {
				if got := m.reply(); !strings.HasPrefix(got, want) {
					t.Errorf("got %q, want %s", got, want)
				}
			}
		})
	}
	both.Wait()
	if len(be1.delivered()) != 2 || len(be2.delivered()) != 2 {
		t.Errorf("be1 got %d, be2 got %d", len(be1.delivered()), len(be2.delivered()))
	}
}

// A connection that is held for a client that leaves is free again.
func TestHolderLeaves(t *testing.T) {
	h, be1, _ := askingBackends(t, func(c *hostConfig) { c.Limits.BackendConns = 1 })
	for _, leave := range []func(*mta){
		func(m *mta) { m.say("QUIT", "221") },
		func(m *mta) { m.say("LHLO again", "250") },
		func(m *mta) { m.conn.(*net.TCPConn).SetLinger(0); m.conn.Close() },
		func(m *mta) { m.send("DATA\r\nbegun"); m.expect("354"); m.conn.Close() },
	} {
		m := h.session(t)
		m.say("MAIL FROM:<>", "250")
		m.say("RCPT TO:<alice>", "250")
		leave(m)
		outcome(t, h.session(t).deliver(testMessage, "alice"), "250")
	}
	if total, _ := be1.numbers(); total != 1 || len(be1.delivered()) != 4 {
		t.Errorf("%d connections, %d messages", total, len(be1.delivered()))
	}
}
