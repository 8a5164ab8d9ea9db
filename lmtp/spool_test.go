package lmtp

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
)

// Messages go to files when they are large or memory is short, and nothing is left behind.
func TestSpool(t *testing.T) {
	spool := t.TempDir()
	h, be1, be2 := two(t, func(c *hostConfig) {
		c.SpoolDir, c.NoTrace = spool, true
		c.Limits.SpoolMemory, c.Limits.Memory, c.Limits.Spool = 10000, 8192, 1<<20
	})
	m := h.session(t)
	for _, size := range []int{100, 9000, 9999, 200000} {
		body := "a: b\r\n\r\n" + strings.Repeat("x", 78) + "\r\n"
		body += strings.Repeat(".234567.\r\n", size/10)
		outcome(t, m.deliver(strings.ReplaceAll(body, "\n.", "\n.."), "alice", "carol"), "250", "250")
		for _, be := range []*stub{be1, be2} {
			mails := be.delivered()
			if got := mails[len(mails)-1].data; got != body {
				t.Errorf("%s: %d octets differ", be.name, size)
			}
		}
	}
	outcome(t, m.deliver(strings.Repeat("0123456789\r\n", 1<<20/10), "alice", "carol"), "452 4.3.1", "452 4.3.1")
	m.say("NOOP", "250") // the transaction is over
	if mem, files := h.store.memory.Load(), h.store.files.Load(); mem != 0 || files != 0 {
		t.Errorf("%d in memory, %d in files", mem, files)
	}
	if left, _ := os.ReadDir(spool); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	h.store.limits.SpoolFloor = 1 << 62
	m.say("MAIL FROM:<>", "250")
	m.say("RCPT TO:<alice>", "250")
	m.say("DATA", "452 4.3.1")
	h.store.limits.SpoolFloor = -1
	m.say("DATA", "354")
	m.send(testMessage + ".\r\n")
	m.expect("250")
	h.store.dir = filepath.Join(spool, "missing")
	outcome(t, m.deliver(strings.Repeat("0123456789\r\n", 2000), "alice"), "451 4.3.0")
}

// A backend that reads slowly holds up neither the client nor the other backend, and costs no memory.
func TestSlowBackend(t *testing.T) {
	const size = 8 << 20
	h, be1, be2 := two(t, nil)
	release := make(chan struct{})
	be2.on(func(_ *stubSession, verb, _ string) (string, bool) {
		if verb == "BODY" {
			<-release
		}
		return "", false
	})
	var read atomic.Int64
	be1.on(func(s *stubSession, verb, _ string) (string, bool) {
		for verb == "BODY" {
			line, err := s.in.ReadSlice('\n')
			if err != nil || string(line) == ".\r\n" {
				break
			}
			read.Add(int64(len(line)))
		}
		return "250 2.1.5 Ok SESSIONID=<be1>", verb == "BODY"
	})
	m := h.session(t)
	m.say("MAIL FROM:<>", "250")
	m.say("RCPT TO:<u1>", "250")
	m.say("RCPT TO:<carol>", "250")
	m.say("DATA", "354")
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	line := strings.Repeat("x", 78) + "\r\n"
	piece := strings.Repeat(line, 1000)
	for range size / len(piece) {
		m.send(piece)
	}
	m.send(".\r\n")
	m.expect("250 2.1.5 Ok SESSIONID=<be1>") // be2 has not read an octet
	if mem, files := h.store.memory.Load(), h.store.files.Load(); mem != 0 || files < size*99/100 {
		t.Errorf("%d octets in memory, %d in files", mem, files)
	}
	if read.Load() < size*99/100 {
		t.Errorf("be1 got %d octets", read.Load())
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > size/4 {
		t.Errorf("the heap has grown by %d octets for a message of %d", grown, size)
	}
	close(release)
	m.expect("250 2.1.5 Ok SESSIONID=<be2>")
}

// Clients that take hours for a message hold no backend meanwhile.
func TestSlowClients(t *testing.T) {
	h, be1, be2 := two(t, func(c *hostConfig) { c.Limits.PerSource = 0 })
	var clients []*mta
	for range 100 {
		m := h.session(t)
		m.say("MAIL FROM:<>", "250")
		m.say("RCPT TO:<alice>", "250")
		m.say("RCPT TO:<carol>", "250")
		m.say("DATA", "354")
		clients = append(clients, m)
	}
	for _, c := range testMessage[:5] {
		for _, m := range clients {
			m.send(string(c))
		}
	}
	for _, be := range []*stub{be1, be2} {
		if total, _ := be.numbers(); total != 0 {
			t.Errorf("%s got %d connections", be.name, total)
		}
	}
	clients[0].send(testMessage[5:] + ".\r\n")
	clients[0].expect("250 2.1.5", "250 2.1.5")
}
