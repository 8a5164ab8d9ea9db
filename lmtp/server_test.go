package lmtp

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"murder/internal/mbox"
)

func TestHello(t *testing.T) {
	h, _, _ := two(t, func(c *hostConfig) { c.MaxMessage = 1000000 })
	m := h.dial(t)
	m.say("MAIL FROM:<>", "503 5.5.1")
	m.say("HELO x", "500 5.5.1")
	m.say("EHLO x", "500 5.5.1")
	m.say("LHLO", "501 5.5.4")
	m.send("lhlo mta\r\n")
	got := m.reply()
	got, session, _ := strings.Cut(got, "250 Ok SESSIONID=<")
	if want := "250-fe1\n250-PIPELINING\n250-ENHANCEDSTATUSCODES\n250-8BITMIME\n250-SIZE 1000000\n250-IGNOREQUOTA\n"; got != want || len(session) < 10 {
		t.Errorf("got %q %q, want %q", got, session, want)
	}
}

// transcript plays "C: " and "S: " lines; a server line is a prefix.
func transcript(m *mta, text string) {
	m.t.Helper()
	for line := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "C: "):
			m.send(line[3:] + "\r\n")
		case strings.HasPrefix(line, "S: "):
			m.expect(line[3:])
		}
	}
}

func TestStories(t *testing.T) {
	for name, story := range map[string]string{
		"sequence": `
			C: RCPT TO:<alice>
			S: 503 5.5.1
			C: DATA
			S: 503 5.5.1
			C: MAIL FROM:<a@x>
			S: 250 2.1.0
			C: MAIL FROM:<a@x>
			S: 503 5.5.1
			C: DATA
			S: 503 5.5.1
			C: STARTTLS
			S: 503 5.5.1
			C: AUTH PLAIN
			S: 503 5.5.1
			C: NOOP anything
			S: 250 2.0.0
			C: VRFY alice
			S: 252 2.3.3
			C: HELP
			S: 500 5.5.2
			C: RSET
			S: 250 2.0.0
			C: RCPT TO:<alice>
			S: 503 5.5.1
			C: QUIT
			S: 221 2.0.0`,
		"a refused MAIL leaves nothing": `
			C: MAIL FROM:<a@x> RET=FULL
			S: 555 5.5.4
			C: RCPT TO:<alice>
			S: 503 5.5.1
			C: MAIL FROM:<a@x> ENVID=x
			S: 555 5.5.4
			C: MAIL FROM:<a@x> SMTPUTF8
			S: 555 5.6.7
			C: MAIL FROM:<a@x> BODY=BINARYMIME
			S: 501 5.5.4
			C: MAIL FROM:<a@x> SIZE=12x
			S: 501 5.5.4
			C: MAIL FROM:<a@x> SIZE=
			S: 501 5.5.4
			C: MAIL FROM:<a@x> AUTH=a+4
			S: 501 5.5.4
			C: MAIL FROM:a@x
			S: 501 5.5.4
			C: MAIL FROM:<a b@x>
			S: 501 5.1.7
			C: LHLO x
			S: 250 Ok
			C: RCPT TO:<alice>
			S: 503 5.5.1`,
		"LHLO resets": `
			C: MAIL FROM:<a@x>
			S: 250
			C: LHLO again
			S: 250
			C: RCPT TO:<alice>
			S: 503 5.5.1`,
		"sizes": `
			C: MAIL FROM:<a@x> SIZE=12048
			S: 250
			C: RSET
			S: 250
			C: MAIL FROM:<a@x> SIZE=12049
			S: 552 5.3.4
			C: MAIL FROM:<a@x> SIZE=99999999999999999999
			S: 552 5.3.4
			C: MAIL FROM:<a@x> SIZE=4294967297
			S: 552 5.3.4`,
		"recipients": `
			C: MAIL FROM: <> BODY=7BIT
			S: 250
			C: RCPT TO:<Alice>
			S: 250 2.1.5
			C: RCPT TO:<ALICE@any.domain>
			S: 250 2.1.5
			C: RCPT TO:<alice+nope>
			S: 250 2.1.5
			C: RCPT TO:<"alice">
			S: 250 2.1.5
			C: RCPT TO:<@r:alice@x>
			S: 250 2.1.5
			C: RCPT TO:<nobody>
			S: 550 5.1.1
			C: RCPT TO:<alice.x>
			S: 550 5.1.1
			C: RCPT TO:<alice> NOTIFY=NEVER
			S: 555 5.5.4
			C: RCPT TO:<alice> ORCPT=rfc822;a@x
			S: 555 5.5.4
			C: RCPT TO:alice
			S: 501 5.5.4
			C: RCPT TO:<al ice>
			S: 501 5.1.3
			C: RCPT TO:<>
			S: 501 5.1.3
			C: RCPT TO:<bb+shared.ann>
			S: 250 2.1.5
			C: RCPT TO:<BB+shared.ann>
			S: 250 2.1.5
			C: RCPT TO:<bb+shared.ro>
			S: 550 5.7.1
			C: RCPT TO:<bb+shared.private>
			S: 550 5.1.1
			C: RCPT TO:<bb>
			S: 550 5.1.1
			C: RCPT TO:<bb+none>
			S: 550 5.1.1`,
		"posting as a user": `
			C: MAIL FROM:<> AUTH=alice
			S: 250
			C: RCPT TO:<bb+shared.private>
			S: 250 2.1.5
			C: RSET
			S: 250
			C: MAIL FROM:<> AUTH=<>
			S: 250
			C: RCPT TO:<bb+shared.private>
			S: 550 5.1.1`,
		"too many recipients": `
			C: MAIL FROM:<>
			S: 250
			C: RCPT TO:<alice>
			S: 250
			C: RCPT TO:<alice>
			S: 250
			C: RCPT TO:<alice>
			S: 250
			C: RCPT TO:<alice>
			S: 250
			C: RCPT TO:<alice>
			S: 250
			C: RCPT TO:<alice>
			S: 250
			C: RCPT TO:<alice>
			S: 250
			C: RCPT TO:<alice>
			S: 250
			C: RCPT TO:<alice>
			S: 452 4.5.3
			C: DATA
			S: 354
			C: a: b
			C: 
			C: .
			S: 250
			S: 250
			S: 250
			S: 250
			S: 250
			S: 250
			S: 250
			S: 250`,
		"BDAT takes its octets": `
			C: MAIL FROM:<>
			S: 250
			C: BDAT 18 LAST
			C: RCPT TO:<nobody>
			S: 503 5.5.1
			C: NOOP
			S: 250`,
		"too many errors": `
			C: A
			S: 500
			C: B
			S: 500
			C: C
			S: 500
			C: D
			S: 500
			C: NOOP
			S: 250
			C: E
			S: 500
			C: F
			S: 500
			C: G
			S: 500
			C: H
			S: 500
			C: I
			S: 500
			C: J
			S: 500
			S: 421 4.7.0`,
	} {
		t.Run(name, func(t *testing.T) {
			h, _, _ := two(t, func(c *hostConfig) {
				c.MaxMessage, c.Limits.Recipients = 10000, 8
				if name != "too many errors" {
					c.Limits.BadCommands = 100
				}
			})
			transcript(h.session(t), story)
		})
	}
}

func TestMapStates(t *testing.T) {
	h, _, _ := two(t, func(c *hostConfig) { c.self = []mbox.Server{"fe1"} })
	h.dir.set(reserved("user.new", "be1"), active("user.dave", "fe1"))
	m := h.session(t)
	m.say("MAIL FROM:<>", "250")
	m.say("RCPT TO:<new>", "451 4.2.1")
	m.say("RCPT TO:<dave>", "451 4.4.6")
	m.say("RCPT TO:<nobody>", "550 5.1.1")
	if n := h.dir.asked(); n != 2 { // for the first, and for nobody
		t.Errorf("%d barriers", n)
	}
	h.dir.later(active("user.late", "be2"))
	m.say("RCPT TO:<late>", "250")
	h.dir.fail(mbox.ErrUnavailable)
	m.say("RCPT TO:<nobody2>", "451 4.4.3")
	m.say("RCPT TO:<alice>", "250")
	h.dir.mu.Lock()
	h.dir.unsynced = true
	h.dir.mu.Unlock()
	m.say("RCPT TO:<alice>", "451 4.3.2")
}

func TestStandIns(t *testing.T) {
	h, be1, _ := two(t, func(c *hostConfig) { c.mapping.Catchall = "alice"; c.mapping.Fuzzy = true })
	m := h.session(t)
	outcome(t, m.deliver(testMessage, "nobody", "bb+Shared.Ann", "bb+shared.ann.deeper"), "250", "250", "250")
	if mails := be1.delivered(); len(mails) != 1 || fmt.Sprint(mails[0].rcpts) != "[TO:<alice> TO:<bb+shared.ann> TO:<bb+shared.ann>]" {
		t.Errorf("got %+v", mails)
	}
	h, be1, _ = two(t, func(c *hostConfig) { c.unknown = "be1" })
	m = h.session(t)
	outcome(t, m.deliver(testMessage, "nobody"), "250")
	be1.on(func(_ *stubSession, v, _ string) (string, bool) { return "550 5.1.1 no", v == "RCPT" })
	outcome(t, m.deliver(testMessage, "nobody"), "550 5.1.1 no")
	h, _, _ = two(t, func(c *hostConfig) { c.DeferUnknown = true })
	m = h.session(t)
	m.say("MAIL FROM:<>", "250")
	m.say("RCPT TO:<nobody>", "450 4.1.1")
}

func TestPipelinedInOnePacket(t *testing.T) {
	h, be1, _ := two(t, nil)
	m := h.dial(t)
	m.send("LHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<alice>\r\nRCPT TO:<nobody>\r\nDATA\r\n" + testMessage + ".\r\nQUIT\r\n")
	m.expect("250 Ok", "250 2.1.0", "250 2.1.5", "550 5.1.1", "354", "250 2.1.5", "221")
	if len(be1.delivered()) != 1 {
		t.Error("not delivered")
	}
}

func TestLongCommands(t *testing.T) {
	h, _, _ := two(t, nil)
	m := h.session(t)
	m.say("RCPT TO:<"+strings.Repeat("x", 5000)+">", "500 5.5.2")
	m.say("NOOP "+strings.Repeat("x", maxCommand-5), "250")
	m.say("NOOP "+strings.Repeat("x", maxCommand-4), "500 5.5.2")
	m.say("NOOP "+strings.Repeat("x", 100000), "500 5.5.2")
	m.say("NOOP", "250")
}

func TestMessagesRefused(t *testing.T) {
	h, be1, _ := two(t, func(c *hostConfig) { c.MaxMessage = 10000; c.Limits.Received = 3 })
	m := h.session(t)
	for _, c := range []struct{ name, message, want string }{
		{"NUL", "a: b\r\n\r\nx\x00y\r\n", "554 5.6.0"},
		{"long line", strings.Repeat("x", 8189) + ".\r\nRSET\r\n", "554 5.6.0"},
		{"too big", strings.Repeat("0123456789\r\n", 1000), "552 5.3.4"},
		{"loop", strings.Repeat("Received: x\r\n", 4) + "\r\n", "554 5.4.6"},
	} {
		got := m.deliver(c.message, "alice", "u1")
		outcome(t, got, c.want, c.want)
	}
	if log := be1.commands(); len(log) != 0 {
		t.Errorf("a backend was asked: %q", log)
	}
	outcome(t, m.deliver(testMessage, "alice"), "250")
}

func TestContentArrives(t *testing.T) {
	h, be1, _ := two(t, func(c *hostConfig) { c.NoTrace = true })
	m := h.session(t)
	for _, c := range []struct{ in, want string }{
		{"a: b\r\n\r\n..one\r\n...two\r\n....three\r\n", "a: b\r\n\r\n.one\r\n..two\r\n...three\r\n"},
		{"a: b\n\nlone LF\n.\nRSET\r\n", "a: b\r\n\r\nlone LF\r\n.\r\nRSET\r\n"},
		{"a: \xe4\r\n\r\n\xff\r\n", "a: \xe4\r\n\r\n\xff\r\n"},
		{"", ""},
	} {
		outcome(t, m.deliver(c.in, "alice"), "250")
		mails := be1.delivered()
		if got := mails[len(mails)-1].data; got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

// A message without a Message-ID gets the same one at every frontend and every time.
func TestSyntheticMessageID(t *testing.T) {
	bare := "Subject: x\r\n\r\nhi\r\n"
	var stored []string
	for _, name := range []string{"fe1", "fe2"} {
		h, be1, _ := two(t, func(c *hostConfig) { c.Hostname, c.NoTrace, c.SyntheticMessageID = name, true, true })
		m := h.session(t)
		for _, text := range []string{bare, bare, testMessage} {
			outcome(t, m.deliver(text, "alice"), "250")
		}
		mails := be1.delivered()
		if stored = append(stored, mails[0].data, mails[1].data); mails[2].data != testMessage {
			t.Errorf("got %+v", mails)
		}
	}
	if all := slices.Compact(stored); len(all) != 1 || !strings.HasPrefix(all[0], "Message-ID: <") || !strings.HasSuffix(all[0], bare) {
		t.Errorf("got %q", all)
	}
}

func TestTooManyClients(t *testing.T) {
	h, _, _ := two(t, func(c *hostConfig) { c.Limits.Connections = 1 })
	h.session(t)
	conn, err := net.Dial("tcp", h.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	m := &mta{t: t, conn: conn, in: bufio.NewReader(conn)}
	m.expect("421 4.3.2")
}

func TestIdleClients(t *testing.T) {
	h, _, _ := two(t, func(c *hostConfig) { c.Limits.Idle, c.Limits.Data = 50*time.Millisecond, 50*time.Millisecond })
	m := h.dial(t)
	m.expect("421 4.4.2")
	m = h.dial(t)
	m.send("LHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<alice>\r\nDATA\r\nsome")
	m.expect("250", "250", "250", "354", "421 4.4.2")
}

func TestShutdown(t *testing.T) {
	h, be1, _ := two(t, nil)
	idle, busy := h.session(t), h.session(t)
	busy.say("MAIL FROM:<>", "250")
	busy.say("RCPT TO:<alice>", "250")
	busy.say("DATA", "354")
	done := make(chan error, 1)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	go func() { done <- h.Shutdown(ctx) }()
	idle.expect("421 4.3.2")
	busy.send(testMessage + ".\r\nNOOP\r\n")
	busy.expect("250 2.1.5", "421 4.3.2")
	if err := <-done; err != nil {
		t.Error(err)
	}
	if len(be1.delivered()) != 1 {
		t.Error("not delivered")
	}
}

// One line tells what became of a message.
func TestLogLine(t *testing.T) {
	var log lockedBuffer
	h, _, be2 := two(t, func(c *hostConfig) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	be2.on(func(_ *stubSession, v, line string) (string, bool) {
		return "452 4.2.2 Over quota", v == "RCPT" && strings.Contains(line, "bob")
	})
	m := h.session(t)
	outcome(t, m.deliver(testMessage, "alice", "bob"), "250", "452")
	m.say("QUIT", "221")
	text := log.String()
	for _, want := range []string{`msg="message handled" conn=`, "from=s@example.org", "rcpts=2", `ok=1 ok_rcpts="[alice at be1]"`,
		`deferred=1 deferred_rcpts="[bob at be2: 452 4.2.2 Over quota]"`, "dur="} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is missing in %s", want, text)
		}
	}
}

func TestPanicEndsOneSession(t *testing.T) {
	h, _, _ := two(t, nil)
	other, m := h.session(t), h.session(t)
	m.say("MAIL FROM:<>", "250")
	h.dir.panic(true)
	m.say("RCPT TO:<alice>", "421 4.3.0")
	h.dir.panic(false)
	outcome(t, other.deliver(testMessage, "alice"), "250")
}

// lockedBuffer takes log lines from several goroutines.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
