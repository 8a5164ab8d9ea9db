//go:build cyrus

package delivery

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"murder/internal/mbox"
	"murder/test/harness"
	"murder/test/imapline"
	"murder/test/loopback"
)

// A record names the first frontend itself, whether its operator has foreseen that (backends.self) or only the
// address tells. Nobody is sent in a circle, nothing is made there, every protocol says in its own way that it is
// not the user's fault, and the operator hears of it. Neither does the second frontend, which takes the first for a
// backend, go round.
func TestNoLoop(t *testing.T) {
	for name, foreseen := range map[string]bool{"by address": false, "by name": true} {
		t.Run(name, func(t *testing.T) { noLoop(t, foreseen) })
	}
}

func noLoop(t *testing.T, foreseen bool) {
	n, err := loopback.Claim()
	if err != nil {
		t.Fatal(err)
	}
	defer n.Release()
	const self = "self.loop.test"
	args := []string{"--demo-backends", "0", "--user", "dave:" + password,
		"--backend", self + "=" + n.Host(21) + ",imap=1143,lmtp=2003,pop3=1110,sieve=4190"}
	if foreseen {
		args = append(args, "--set", "f1/backends.self="+self)
	}
	c := harness.Start(t, harness.Options{Net: n, Frontends: 2, Args: args})
	w := writer(t, c, "c1")
	if err := w.Activate(t.Context(), "user.dave", mbox.At(self, "default"), "dave\tlrswipkxtecdan\t"); err != nil {
		t.Fatal(err)
	}

	for _, id := range []string{"f1", "f2"} {
		t.Run("LMTP at "+id, func(t *testing.T) {
			m := dialMTA(t, "tcp", c.Addr(id, "lmtp"))
			m.say("MAIL FROM:<>", "250 ")
			if foreseen && id == "f1" {
				m.say("RCPT TO:<dave>", "451 4.4.6")
				return
			}
			m.say("RCPT TO:<dave>", "250 ")
			m.say("DATA", "354 ")
			m.send(letter("loop", "x\r\n") + ".\r\n")
			m.want("451 4.4.6")
			m.say("NOOP", "250 ")
		})
		t.Run("IMAP at "+id, func(t *testing.T) {
			conn, err := imapline.Dial(c.Addr(id, "imap"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := conn.OK("LOGIN dave %s", password); err != nil {
				t.Fatal(err)
			}
			for _, command := range []string{"SELECT INBOX", "STATUS INBOX (MESSAGES)", "CREATE INBOX.new"} {
				reply, err := conn.Do("%s", command)
				if err != nil || reply.Status != "NO" || !strings.Contains(reply.Text, "UNAVAILABLE") {
					t.Errorf("%s: %+v %v", command, reply, err)
				}
			}
		})
		t.Run("POP3 at "+id, func(t *testing.T) {
			dialogueAt(t, c.Addr(id, "pop3"), [][2]string{{"", "+OK"}, {"USER dave", "+OK"}, {"PASS " + password, "-ERR [SYS/TEMP]"}})
		})
		t.Run("ManageSieve at "+id, func(t *testing.T) {
			dialogueAt(t, c.Addr(id, "sieve"), [][2]string{{"", "OK"}, {`AUTHENTICATE "PLAIN" "` + plain("", "dave") + `"`, "NO (TRYLATER)"}})
		})
	}

	t.Run("nothing has come of it", func(t *testing.T) {
		all := map[mbox.Name]mbox.Entry{}
		if err := w.List(t.Context(), "", func(e mbox.Entry) error { all[e.Name] = e; return nil }); err != nil {
			t.Fatal(err)
		}
		if len(all) != 1 {
			t.Errorf("the map has %v", all)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		m, err := c.Metrics(ctx, "f1")
		if err != nil {
			t.Fatal(err)
		}
		if m[`murder_lmtp_alerts_total{kind="loop"}`] == 0 {
			t.Error("no alert")
		}
		for _, service := range []string{"imap", "lmtp", "pop3", "sieve"} {
			labels := fmt.Sprintf(`{backend=%q,result="ok",service=%q}`, self, service)
			if ok := m["murder_backend_dials_total"+labels]; ok != 0 {
				t.Errorf("%s: %v connections to itself", service, ok)
			}
			// Who knows his name does not come so far, but in IMAP, where the name is not asked for.
			labels = strings.Replace(labels, `"ok"`, `"loop"`, 1)
			if m["murder_backend_dials_total"+labels] == 0 && (!foreseen || service == "imap") {
				t.Errorf("no %s", labels)
			}
		}
		if !strings.Contains(c.Logs(400), "this frontend itself") && !strings.Contains(c.Logs(400), "names this frontend") {
			t.Error("the log says nothing")
		}
	})
}

// plain is the initial response of the mechanism PLAIN.
func plain(authz, authc string) string {
	return base64.StdEncoding.EncodeToString([]byte(authz + "\x00" + authc + "\x00" + password))
}

// dialogueAt says lines and compares the beginnings of the final lines of the answers.
func dialogueAt(t *testing.T, addr string, lines [][2]string) {
	t.Helper()
	c, err := textproto.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, l := range lines {
		if l[0] != "" {
			c.PrintfLine("%s", l[0])
		}
		got := `"`
		for strings.HasPrefix(got, `"`) { // capabilities of ManageSieve
			if got, err = c.ReadLine(); err != nil {
				t.Fatalf("%s: %v", l[0], err)
			}
		}
		if !strings.HasPrefix(got, l[1]) {
			t.Fatalf("%s: %s, want %s", l[0], got, l[1])
		}
	}
}
