package lmtp

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"murder/internal/auth"
	"murder/internal/mbox"
	"murder/internal/tlsconf"
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
	if n := h.dir.asked(); n != 1 {
		t.Errorf("%d barriers", n)
	}
	h.dir.later(active("user.late", "be2"))
	m.say("RCPT TO:<late>", "250")
	h.dir.fail(mbox.ErrUnavailable)
	m.say("RCPT TO:<nobody>", "451 4.4.3")
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
	if got := fmt.Sprint(be1.delivered()[0].rcpts); got != "[TO:<alice> TO:<bb+shared.ann> TO:<bb+shared.ann>]" {
		t.Errorf("got %s", got)
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

func TestSyntheticMessageID(t *testing.T) {
	h, be1, _ := two(t, func(c *hostConfig) { c.NoTrace, c.SyntheticMessageID = true, true })
	m := h.session(t)
	bare := "Subject: x\r\n\r\nhi\r\n"
	outcome(t, m.deliver(bare, "alice"), "250")
	outcome(t, m.deliver(bare, "alice"), "250")
	outcome(t, m.deliver(testMessage, "alice"), "250")
	mails := be1.delivered()
	if mails[0].data != mails[1].data || !strings.HasPrefix(mails[0].data, "Message-ID: <") || mails[2].data != testMessage {
		t.Errorf("got %+v", mails)
	}
}

func newAuth(t *testing.T, plaintext bool) *auth.Mechanisms {
	t.Helper()
	users, err := auth.ReadUsers(strings.NewReader("mta:{PLAIN}secret\nalice:{PLAIN}hers\n"), "users")
	if err != nil {
		t.Fatal(err)
	}
	return auth.NewMechanisms(auth.Config{Source: users, Pause: time.Millisecond, AllowPlaintext: plaintext})
}

func plain(user, password string) string {
	return base64.StdEncoding.EncodeToString([]byte("\x00" + user + "\x00" + password))
}

func TestAuth(t *testing.T) {
	h, _, _ := two(t, func(c *hostConfig) {
		c.listen.Trusted = false
		c.Auth, c.Admins, c.Limits.AuthPause = newAuth(t, false), []string{"mta"}, time.Millisecond
		c.Limits.BadCommands = 100
	})
	m := h.dial(t)
	m.say("AUTH PLAIN "+plain("mta", "secret"), "503")
	m.send("LHLO x\r\n")
	if rep := m.reply(); !strings.Contains(rep, "AUTH ") || !strings.Contains(rep, " PLAIN") {
		t.Errorf("got %q", rep)
	}
	transcript(m, `
		C: MAIL FROM:<>
		S: 530 5.7.0
		C: RCPT TO:<alice>
		S: 503
		C: VRFY alice
		S: 530 5.7.0
		C: AUTH PLAIN `+plain("mta", "wrong")+`
		S: 535 5.7.8
		C: AUTH PLAIN `+plain("alice", "hers")+`
		S: 535 5.7.8
		C: MAIL FROM:<>
		S: 530 5.7.0
		C: AUTH NOSUCH
		S: 504 5.5.4
		C: AUTH
		S: 501
		C: AUTH PLAIN
		S: 334 
		C: *
		S: 501 5.7.0
		C: AUTH PLAIN !!!
		S: 501 5.5.2
		C: AUTH PLAIN
		S: 334 
		C: `+plain("mta", "secret")+`
		S: 235 2.7.0
		C: AUTH PLAIN
		S: 503
		C: MAIL FROM:<>
		S: 250`)
	if n := h.dir.asked(); n != 0 {
		t.Errorf("the map was asked %d times", n)
	}
	h, _, _ = two(t, func(c *hostConfig) { c.listen.Trusted, c.SoftNoAuth = false, true })
	m = h.session(t)
	m.say("MAIL FROM:<>", "451 4.7.0")
	m.say("AUTH PLAIN", "504")
}

func TestTrustedNetworks(t *testing.T) {
	h, _, _ := two(t, func(c *hostConfig) {
		c.listen.Trusted, c.TrustedNetworks = false, []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	})
	outcome(t, h.session(t).deliver(testMessage, "alice"), "250")
}

func TestSTARTTLS(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	if err := tlsconf.WriteSelfSigned(cert, key, "fe1"); err != nil {
		t.Fatal(err)
	}
	certs, err := tlsconf.Load(tlsconf.Config{CertFile: cert, KeyFile: key})
	if err != nil {
		t.Fatal(err)
	}
	h, be1, _ := two(t, func(c *hostConfig) {
		c.TLS, c.listen.Trusted = certs.TLS(), false
		c.Auth, c.Admins = newAuth(t, false), []string{"mta"}
	})
	m := h.dial(t)
	m.send("LHLO x\r\n")
	if rep := m.reply(); !strings.Contains(rep, "250-STARTTLS\n") {
		t.Errorf("got %q", rep)
	}
	m.say("STARTTLS now", "501")
	m.send("STARTTLS\r\nMAIL FROM:<injected@x>\r\nNOOP\r\n")
	m.expect("220 2.0.0")
	conn := tls.Client(m.conn, &tls.Config{InsecureSkipVerify: true})
	m.conn, m.in = conn, bufio.NewReader(conn)
	m.say("MAIL FROM:<>", "530") // not "503 nested": the injected one is gone
	m.say("AUTH PLAIN", "503")   // LHLO is due again
	m.send("LHLO x\r\n")
	if rep := m.reply(); strings.Contains(rep, "STARTTLS") {
		t.Errorf("got %q", rep)
	}
	m.say("STARTTLS", "503")
	m.say("AUTH PLAIN "+plain("mta", "secret"), "235")
	outcome(t, m.deliver(testMessage, "alice"), "250")
	if data := be1.delivered()[0].data; !strings.Contains(data, " with LMTPSA id ") {
		t.Errorf("got %q", data)
	}
}

func TestUnixSocket(t *testing.T) {
	h, be1, _ := two(t, func(c *hostConfig) { c.listen.Trusted = false })
	for uids, welcome := range map[*[]uint32]bool{nil: true, {uint32(os.Getuid())}: true, {uint32(os.Getuid()) + 1}: false} {
		ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "lmtp"))
		if err != nil {
			t.Fatal(err)
		}
		var opt ListenOptions
		if uids != nil {
			opt.PeerUIDs = *uids
		}
		served := make(chan error, 1)
		go func() { served <- h.Serve(ln, opt) }()
		conn, err := net.Dial("unix", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		m := &mta{t: t, conn: conn, in: bufio.NewReader(conn)}
		if !welcome {
			if _, err := m.in.ReadByte(); !errors.Is(err, io.EOF) {
				t.Errorf("got %v", err)
			}
		} else {
			m.expect("220")
			m.say("LHLO x", "250")
			outcome(t, m.deliver(testMessage, "alice"), "250")
		}
		conn.Close()
		ln.Close()
		<-served
	}
	if mails := be1.delivered(); len(mails) != 2 || !strings.Contains(mails[0].data, "from x (unix socket)") {
		t.Errorf("got %+v", mails)
	}
}

func TestDangerousListeners(t *testing.T) {
	h, _, _ := two(t, nil)
	if err := h.checkListener(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 25}, &ListenOptions{}); !errors.Is(err, ErrListener) {
		t.Errorf("port 25: %v", err)
	}
	ln, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Serve(ln, ListenOptions{Trusted: true}); !errors.Is(err, ErrListener) {
		t.Errorf("trusted on all addresses: %v", err)
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
