//go:build cyrus

package delivery

import (
	"bufio"
	"fmt"
	"net/textproto"
	"slices"
	"strings"
	"testing"
	"time"

	"murder/test/cyrus"
	"murder/test/dialogue"
)

// What an MTA says to us, and what Cyrus makes of it.
func TestLMTP(t *testing.T) {
	w := newWorld(t, options{
		conf: map[string][]string{
			"":    {"lmtp_downcase_rcpt: yes", "postuser: bb", "lmtp_over_quota_perm_failure: no"},
			"be2": {"maxmessagesize: 20000"},
		},
		flags:   []string{"--set", "lmtp.postuser=bb", "--set", "f2/lmtp.rcpt_check=backend"},
		relayed: true,
	})
	w.admin(t, w.be1, "SETACL user.alice.Work anyone p", "CREATE shared.ann", "SETACL shared.ann anyone p", "SETACL shared.ann cyrus lr",
		"CREATE shared.ro", "SETACL shared.ro anyone lr", "CREATE shared.private", "DELETEACL shared.private anyone", "SETACL shared.private alice lrp")
	if err := signOn(t, w.be2, "bob").Append("INBOX", letter("fill", strings.Repeat("full\r\n", 300))); err != nil {
		t.Fatal(err)
	}
	w.admin(t, w.be2, "SETQUOTA user.bob (STORAGE 1)")
	lmtp := w.cluster.Addr("f1", "lmtp")
	eventually(t, func() error { // the records have reached the frontend
		m := dialMTA(t, "tcp", lmtp)
		m.say("MAIL FROM:<>", "250 ")
		m.send("RCPT TO:<bb+shared.private>\r\nRCPT TO:<bob>\r\n")
		if got := m.reply() + m.reply(); !strings.Contains(got, "550 5.1.1") || !strings.Contains(got, "250") {
			return fmt.Errorf("%s", got)
		}
		return nil
	})

	t.Run("recipients", func(t *testing.T) {
		m := dialMTA(t, "tcp", lmtp)
		good := []string{"<alice>", "<Alice>", "<ALICE@any.domain>", "<alice+Work>", "<alice+nope>", `<"alice">`, "<@r:alice@x>",
			"<bb+shared.ann>", "<BB+shared.ann>"}
		m.transaction("<a@example.org>", letter("recipients", "x\r\n"), good, slices.Repeat([]string{"250 2.1.5"}, len(good))...)
		for box, want := range map[string]int{"INBOX": 1, "INBOX.Work": 1} {
			if n := len(messages(t, w.be1, "alice", box)); n != want { // Cyrus stores one of several equal ones
				t.Errorf("%s has %d messages, want %d", box, n, want)
			}
		}
		if n := len(messages(t, w.be1, w.rig.Admin(), "shared.ann")); n != 1 {
			t.Errorf("shared.ann has %d messages", n)
		}
		// Cyrus takes no 8-bit addresses, up to 3.12 at least: it is the backend that says no.
		m.transaction("<>", letter("8bit", "x\r\n"), []string{"<alice+R\u00e4der>", "<alice>"}, "501 5.5.4", "250 2.1.5")
		m.say("MAIL FROM:<>", "250 ")
		for rcpt, want := range map[string]string{"nobody": "550 5.1.1", "bb": "550 5.1.1", "bb+none": "550 5.1.1", "bb+shared.ro": "550 5.7.1",
			"bb+shared.private": "550 5.1.1", "alice.x": "550 5.1.1"} {
			m.say("RCPT TO:<"+rcpt+">", want)
		}
	})

	t.Run("posting as a user", func(t *testing.T) {
		m := dialMTA(t, "tcp", lmtp)
		m.transaction("<> AUTH=alice", letter("posted", "x\r\n"), []string{"<bb+shared.private>"}, "250 2.1.5")
		if n := len(messages(t, w.be1, "alice", "shared.private")); n != 1 {
			t.Errorf("shared.private has %d messages", n)
		}
	})

	t.Run("quota", func(t *testing.T) {
		m := dialMTA(t, "tcp", lmtp)
		m.transaction("<>", letter("quota", "x\r\n"), []string{"<alice>", "<bob>", "<carol>"}, "250 2.1.5", "452 4.2.2", "250 2.1.5")
		m.transaction("<>", letter("noquota", "x\r\n"), []string{"<bob> IGNOREQUOTA"}, "250 2.1.5")
		// The other frontend asks the backends before it takes the message.
		m = dialMTA(t, "tcp", w.cluster.Addr("f2", "lmtp"))
		m.say("MAIL FROM:<a@example.org> SIZE=500", "250 ")
		for _, r := range [][2]string{{"<bob>", "452 4.2.2"}, {"<alice>", "250 2.1.5"}, {"<nobody>", "550 5.1.1"}, {"<carol>", "250 2.1.5"},
			{"<bb+shared.ro>", "550 5.7.1"}, {"<bob> IGNOREQUOTA", "250 2.1.5"}} {
			m.say("RCPT TO:"+r[0], r[1])
		}
		m.say("DATA", "354 ")
		m.send(letter("asked", "x\r\n") + ".\r\n")
		m.want("250 2.1.5", "250 2.1.5", "250 2.1.5")
		for user, n := range map[string]*cyrus.Node{"alice": w.be1, "carol": w.be2, "bob": w.be2} {
			if n := count(messages(t, n, user, "INBOX"), "Subject: asked"); n != 1 {
				t.Errorf("%s has %d", user, n)
			}
		}
	})

	t.Run("order", func(t *testing.T) {
		m := dialMTA(t, "tcp", lmtp)
		rcpts := []string{"<alice>", "<carol>", "<dave>", "<alice+Work>", "<alice>"}
		m.say("MAIL FROM:<>", "250 ")
		for _, r := range rcpts {
			m.say("RCPT TO:"+r, "250 ")
		}
		m.say("DATA", "354 ")
		m.send(letter("order", "x\r\n") + ".\r\n")
		for range rcpts {
			m.want("250 2.1.5")
		}
		m.say("NOOP", "250 2.0.0") // and no reply more
	})

	// be2 takes 20000 octets. It would say so once for both recipients there, and the client would wait.
	t.Run("size", func(t *testing.T) {
		m := dialMTA(t, "tcp", lmtp)
		big := letter("size", strings.Repeat(strings.Repeat("x", 70)+"\r\n", 350))
		began := time.Now()
		m.transaction("<>", big, []string{"<carol>", "<alice>", "<carol+x>"}, "552 5.3.4", "250 2.1.5", "552 5.3.4")
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("took %s", took)
		}
	})

	t.Run("hazards", func(t *testing.T) { hazards(t, w, lmtp) })

	t.Run("content", func(t *testing.T) {
		m := dialMTA(t, "tcp", lmtp)
		head := letter("content", "")
		m.transaction("<a@example.org>", head+"..one\r\n...two\r\n....three\r\n..\r\n8-bit \xe4\r\n", []string{"<dave>"}, "250 2.1.5")
		m.transaction("<a@example.org>", strings.ReplaceAll(letter("lines", "a\nb\n"), "\r\n", "\n")+"\r\n", []string{"<dave>"}, "250 2.1.5")
		m.transaction("<a@example.org>", letter("again", "x\r\n"), []string{"<dave>"}, "250 2.1.5")
		m.transaction("<a@example.org>", letter("again", "x\r\n"), []string{"<dave>"}, "250 2.1.5") // stored once
		m.transaction("<>", letter("nul", "a\x00b\r\n"), []string{"<dave>", "<carol>"}, "554 5.6.0", "554 5.6.0")
		var seen []string
		for _, msg := range messages(t, w.be1, "dave", "INBOX") {
			header, body, _ := strings.Cut(msg, "\r\n\r\n")
			fields, err := textproto.NewReader(bufio.NewReader(strings.NewReader(header + "\r\n\r\n"))).ReadMIMEHeader()
			if err != nil {
				t.Fatalf("%v in %q", err, header)
			}
			id := fields.Get("Subject")
			switch seen = append(seen, id); id {
			case "content":
				if body != ".one\r\n..two\r\n...three\r\n.\r\n8-bit \xe4\r\n" {
					t.Errorf("content is %q", body)
				}
			case "lines":
				if !strings.HasPrefix(body, "a\r\nb\r\n") {
					t.Errorf("lines are %q", body)
				}
			}
			if r := fields["Received"]; len(r) != 2 || !strings.Contains(r[1], "from mta.example.org ([127.") || len(fields["Return-Path"]) != 1 {
				t.Errorf("%s: trace %q, %q", id, r, fields["Return-Path"])
			}
		}
		if !slices.Equal(seen, []string{"order", "content", "lines", "again"}) {
			t.Errorf("dave has %q", seen)
		}
	})

	// The frontend dies when the backend has stored the message and the MTA has not heard of it. It
	// sends it again, and the backend knows it.
	t.Run("killed before the reply", func(t *testing.T) {
		killed := make(chan error, 1)
		within := false
		w.relay.Decide(func(l dialogue.Line) dialogue.Fate {
			switch {
			case l.Client && l.Text == "Subject: killed":
				within = true
			case !l.Client && within && strings.HasPrefix(l.Text, "250 2.1.5"):
				within = false
				killed <- w.cluster.Kill("f1")
				return dialogue.CutBefore
			}
			return dialogue.Pass
		})
		m := dialMTA(t, "tcp", lmtp)
		m.say("MAIL FROM:<>", "250 ")
		m.say("RCPT TO:<dave>", "250 2.1.5")
		m.say("DATA", "354 ")
		m.send(letter("killed", "x\r\n") + ".\r\n")
		if err := <-killed; err != nil {
			t.Fatal(err)
		}
		w.relay.Decide(nil)
		if line, err := m.r.ReadString('\n'); err == nil {
			t.Errorf("a frontend that was killed says %q", line)
		}
		if err := w.cluster.Start("f1"); err != nil {
			t.Fatal(err)
		}
		m = dialMTA(t, "tcp", lmtp)
		m.transaction("<>", letter("killed", "x\r\n"), []string{"<dave>"}, "250 2.1.5")
		if n := count(messages(t, w.be1, "dave", "INBOX"), "Subject: killed"); n != 1 {
			t.Errorf("dave has %d", n)
		}
	})

	t.Run("stopped backend", func(t *testing.T) {
		m := dialMTA(t, "tcp", lmtp)
		if err := w.be2.Stop(); err != nil {
			t.Fatal(err)
		}
		m.transaction("<>", letter("stopped", "x\r\n"), []string{"<alice+Work>", "<carol>"}, "250 2.1.5", "451 4.4.")
		if err := w.be2.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() error {
			m.say("MAIL FROM:<>", "250 ")
			m.send("RCPT TO:<carol>\r\n")
			if got := m.reply(); !strings.HasPrefix(got, "250") { // the breaker is open
				if !strings.HasPrefix(got, "451 4.4.1") {
					t.Fatal(got)
				}
				m.say("RSET", "250 ")
				return fmt.Errorf("%s", got)
			}
			m.say("DATA", "354 ")
			m.send(letter("stopped", "x\r\n") + ".\r\n")
			if got := m.reply(); !strings.HasPrefix(got, "250 2.1.5") {
				return fmt.Errorf("%s", got)
			}
			return nil
		})
		if n := count(messages(t, w.be2, "carol", "INBOX"), "stopped"); n != 1 {
			t.Errorf("carol has %d", n)
		}
	})
}

// hazards sends messages that would end early at Cyrus if we passed them on as they come, and go on
// as commands that store a message for dave.
func hazards(t *testing.T, w *world, lmtp string) {
	before := len(messages(t, w.be1, "dave", "INBOX"))
	inject := "RSET\r\nMAIL FROM:<evil@example.org>\r\nRCPT TO:<dave>\r\nDATA\r\nSubject: injected\r\n\r\nx\r\n"
	for i, end := range []string{"\n.\n", "\n.\r\n", "\r\n.\n", "\n\r.\r\n", "\r\n.\r\r\n", "\r\r\n.\r\n", "\r.\r\n", "\r\n.\r", "\r\n\r.\r\n", "\n\r\r.\r\r\n"} {
		m := dialMTA(t, "tcp", lmtp)
		id := fmt.Sprintf("hazard-%d", i)
		text := letter(id, "first"+end+inject+end+"QUIT\r\n")
		if strings.Contains(text, "\r\n.\r\n") { // this one is the end for us too
			text = strings.ReplaceAll(text, "\r\n.\r\n", "\r\n..\r\n")
		}
		m.transaction("<>", text, []string{"<alice>"}, "250 2.1.5")
		found := 0
		for _, msg := range messages(t, w.be1, "alice", "INBOX") {
			if strings.Contains(msg, "Subject: "+id+"\r\n") {
				if found++; !strings.Contains(msg, "evil@example.org") {
					t.Errorf("%q was cut short: %q", end, msg)
				}
			}
		}
		if found != 1 {
			t.Errorf("%q: stored %d times", end, found)
		}
	}
	m := dialMTA(t, "tcp", lmtp)
	m.transaction("<>", letter("long", strings.Repeat("x", 8189)+".\r\n"+inject), []string{"<alice>"}, "554 5.6.0")
	if after := len(messages(t, w.be1, "dave", "INBOX")); after != before {
		t.Errorf("dave got %d messages that nobody sent him", after-before)
	}
}

func count(all []string, text string) int {
	n := 0
	for _, s := range all {
		if strings.Contains(s, text) {
			n++
		}
	}
	return n
}
