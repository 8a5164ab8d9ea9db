//go:build cyrus

package delivery

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"murder/internal/mbox"
	"murder/test/harness"
	"murder/test/lmtpline"
)

// A mailbox is made through one node, and mail for it comes to another at once: it must not bounce.
// Without a majority nobody new can be known, and that is no reason to bounce either.
func TestMailForNewMailboxes(t *testing.T) {
	c := harness.Start(t, harness.Options{Frontends: 2, Args: []string{"--demo-backends", "0", "--user", "unheard:" + password}})
	w := writer(t, c, "c1")
	m := dialMTA(t, "tcp", c.Addr("f2", "lmtp"))
	m.say("MAIL FROM:<>", "250 ")
	const rounds = 1000
	began := time.Now()
	for i := range rounds {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		if err := w.Activate(ctx, mbox.Name(fmt.Sprintf("user.new%d", i)), "be1.example.org!default", "owner\tlrswipkxtecda\t"); err != nil {
			t.Fatal(err)
		}
		cancel()
		m.send(fmt.Sprintf("RCPT TO:<new%d>\r\n", i))
		if got := m.reply(); !strings.HasPrefix(got, "250 2.1.5") {
			t.Fatalf("round %d: %s", i, got)
		}
	}
	t.Logf("%d new mailboxes in %s, with RCPT at another node each", rounds, time.Since(began).Round(time.Millisecond))
	w.Close()
	m.say("RSET", "250 ") // so many recipients are enough for one message
	m.say("MAIL FROM:<>", "250 ")

	for _, id := range []string{"c1", "c2"} {
		if err := c.Kill(id); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		began := time.Now()
		m.say("RCPT TO:<unheard>", "451 4.4.3")
		if took := time.Since(began); took > 4*time.Second { // 2 s by the contract, and a busy machine
			t.Errorf("took %s", took)
		}
	}
	m.say("RCPT TO:<new1>", "250 2.1.5")
	lookUp := func(addr string) (code int, body string) {
		t.Helper()
		resp, err := http.Get("http://" + c.Addr("f2", "http") + "/v1/recipients/" + addr)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		if code := resp.StatusCode; code == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") == "" {
			t.Errorf("%d without Retry-After", code)
		}
		return resp.StatusCode, string(text)
	}
	if code, body := lookUp("New1+x@example.org"); code != http.StatusOK || !strings.Contains(body, `"backend":"be1.example.org"`) {
		t.Errorf("look-up of what is there: %d %s", code, body)
	}
	if code, body := lookUp("unheard@example.org"); code != http.StatusServiceUnavailable {
		t.Errorf("look-up of what nobody can know: %d %s", code, body)
	}
	p, err := textproto.Dial("tcp", c.Addr("f2", "pop3"))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for _, c := range []struct{ say, want string }{{"", "+OK"}, {"USER unheard", "+OK"}, {"PASS " + password, "-ERR [SYS/TEMP] Directory"}} {
		if c.say != "" {
			p.PrintfLine("%s", c.say)
		}
		if got, err := p.ReadLine(); err != nil || !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: %s %v, want %s", c.say, got, err, c.want)
		}
	}
	if err := c.StartAll([]string{"c1", "c2"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		m.send("RCPT TO:<unheard>\r\n")
		if got := m.reply(); !strings.HasPrefix(got, "550 5.1.1") {
			return fmt.Errorf("%s", got)
		}
		return nil
	})
	if code, body := lookUp("unheard@example.org"); code != http.StatusNotFound || !strings.Contains(body, `"found":false`) {
		t.Errorf("look-up of nobody: %d %s", code, body)
	}
	firstMail(t, c)
}

// firstMail adds a frontend, which begins with an empty copy of the map. Whatever it says until it has all of it,
// nobody is unknown.
func firstMail(t *testing.T, c *harness.Cluster) {
	host, _ := hostPort(t, c.Addr("f2", "lmtp"))
	host = host[:strings.LastIndexByte(host, '.')+1] + "29"
	config := fmt.Sprintf("[lmtp]\nlisten = [\"%s:2003\"]\n[imap]\nlisten = []\nlisten_tls = []\n[pop3]\nlisten = []\nlisten_tls = []\n"+
		"[sieve]\nlisten = []\n[socketmap]\nlisten = []\n[mupdate]\nlisten = []\n[users]\nfile = %q\n"+
		"[backends.default]\nauthname = \"murder\"\npassword = %q\n", host, filepath.Join(c.Dir, "users"), password)
	ctx, cancel := context.WithCancel(t.Context())
	joined := make(chan error, 1)
	go func() {
		defer close(joined)
		joined <- c.Join(ctx, "f9", "frontend", host, config)
	}()
	defer func() { // before the cluster is closed
		cancel()
		for range joined {
		}
	}()
	answers := map[string]int{}
	for ready := false; !ready; {
		select {
		case err := <-joined:
			if err != nil {
				t.Fatal(err)
			}
			ready = true // once more
		case <-time.After(time.Millisecond):
		}
		lc, err := lmtpline.Dial(host + ":2003")
		if err != nil {
			answers["not listening"]++
			continue
		}
		replies, err := lc.Deliver(letter("first", "x\r\n"), "new999")
		lc.Close()
		if err != nil {
			answers["lost"]++
			continue
		}
		answers[firstWords(replies[0].String())]++
		if code := replies[0].Code; code/100 != 4 { // the backend is not there, but that is known only of those who are
			t.Fatalf("answered %s", replies[0])
		}
	}
	t.Logf("a new frontend: %s", counts(answers))
}
