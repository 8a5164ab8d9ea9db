//go:build cyrus

package imapcyrus

import (
	"crypto/tls"
	"net"
	"strings"
	"testing"

	"murder/internal/tlsconf"

	"murder/test/imapline"
)

// Users whom only Cyrus knows log in through a real saslauthd on one frontend, and by their own backend's
// word on the other.
func TestSources(t *testing.T) {
	login := func(t *testing.T, addr, user, password, want string) {
		t.Helper()
		c, err := imapline.Dial(addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		r, err := c.Do("LOGIN %s %s", user, password)
		if err != nil || !like(want, r.Status+" "+r.Text) {
			t.Errorf("%s on %s: %+v %v, want %q", user, addr, r, err, want)
		}
	}
	for name, addr := range map[string]string{"saslauthd": world.F1, "pass-through": world.F2} {
		t.Run(name, func(t *testing.T) {
			for _, user := range []string{"gina", "hugo"} {
				login(t, addr, user, Password, "OK ...")
				login(t, addr, user, "wrong", "NO [AUTHENTICATIONFAILED] Authentication failed.")
			}
			login(t, addr, "nobody", Password, "NO [AUTHENTICATIONFAILED] Authentication failed.")
			login(t, addr, "alice", "wrong", "NO [AUTHENTICATIONFAILED] Authentication failed.") // the file has the first word
			g := dial(t, addr, "gina")
			g.append("INBOX", message("by "+name))
			g.ok("SELECT INBOX")
			h := dial(t, addr, "hugo")
			h.do("NO [NONEXISTENT] ...", "SELECT INBOX")
		})
	}
	t.Run("pass-through logs in once", func(t *testing.T) {
		told := func(what string) (n int) {
			for _, line := range world.Be1.Log() {
				if strings.Contains(line, what) {
					n++
				}
			}
			return n
		}
		logins, origins := told(" gina PLAIN"), told(`"x-originating-ip" "127.`)
		g := dial(t, world.F2, "gina")
		g.ok("SELECT INBOX")
		g.ok("NOOP")
		if now := told(" gina PLAIN") - logins; now != 1 {
			t.Errorf("be1 has logged %d logins", now)
		}
		if now := told(`"x-originating-ip" "127.`) - origins; now != 1 {
			t.Errorf("be1 has logged %d origins", now)
		}
	})
	t.Run("saslauthd is down", func(t *testing.T) {
		world.StopSaslauthd()
		login(t, world.F1, "gina", Password, "NO [UNAVAILABLE] ...")
		login(t, world.F1, "alice", Password, "OK ...")
		if err := world.StartSaslauthd(); err != nil {
			t.Fatal(err)
		}
		login(t, world.F1, "gina", Password, "OK ...")
	})
}

// Who has a certificate needs no password, and is at each backend whom the certificate names.
func TestExternal(t *testing.T) {
	cas, err := tlsconf.LoadCAs(world.CA())
	if err != nil {
		t.Fatal(err)
	}
	own, err := tls.LoadX509KeyPair(world.Certificate("frank")+".pem", world.Certificate("frank")+".key")
	if err != nil {
		t.Fatal(err)
	}
	open := func(certs ...tls.Certificate) *client {
		addr := world.Cluster.Addr("f1", "imaps")
		host, _, _ := net.SplitHostPort(addr)
		c, err := imapline.DialTLS(addr, &tls.Config{RootCAs: cas, ServerName: host, Certificates: certs})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return &client{c, t}
	}
	c := open(own)
	if !strings.Contains(c.Greeting, " AUTH=EXTERNAL") {
		t.Errorf("not offered: %s", c.Greeting)
	}
	c.do("NO [AUTHORIZATIONFAILED] ...", "AUTHENTICATE EXTERNAL YWxpY2U=") // alice
	c.ok("AUTHENTICATE EXTERNAL =")
	d := direct(t, world.Be1, "frank")
	same(t, c, d, "STATUS INBOX (MESSAGES UIDVALIDITY)")
	c.ok(`STATUS "Shared Folders/shared" (MESSAGES)`)
	without := open()
	if strings.Contains(without.Greeting, " AUTH=EXTERNAL") {
		t.Errorf("offered to who has none: %s", without.Greeting)
	}
	without.do("NO ...", "AUTHENTICATE EXTERNAL =")
	without.ok("LOGIN frank %s", Password)
}

// One connection serves two users one after the other, and nothing of the first is left.
func TestUnauthenticate(t *testing.T) {
	c := at(t, "alice")
	c.ok("ENABLE QRESYNC")
	c.ok("SELECT INBOX")
	c.append("INBOX", message("for-alice"))
	has(t, c.do("OK [CAPABILITY ...AUTH=PLAIN...] ...", "UNAUTHENTICATE"), "* OK [CLOSED] ...")
	for _, cmd := range []string{"SELECT INBOX", "FETCH 1 FLAGS", "UNAUTHENTICATE", `LIST "" "*"`} {
		c.do("BAD ...", "%s", cmd)
	}
	c.do("NO [AUTHENTICATIONFAILED] ...", "LOGIN bob wrong")
	c.ok("LOGIN bob %s", Password)
	same(t, c, direct(t, world.Be2, "bob"), "STATUS INBOX (UIDVALIDITY MESSAGES)")
	same(t, c, direct(t, world.Be2, "bob"), "EXAMINE INBOX") // QRESYNC is off: it would say NOMODSEQ or more
	has(t, c.ok("SEARCH SUBJECT for-alice"), "* SEARCH")
	hasNot(t, c.ok(`LIST "" "*"`), `..."Other Users/bob...`)
	c.ok(`SELECT proj`)
	c.ok("UNAUTHENTICATE")
	c.ok("LOGIN alice %s", Password)
	c.ok("EXAMINE INBOX")
	has(t, c.ok("SEARCH SUBJECT for-alice"), "* SEARCH ...")
	same(t, c, direct(t, world.Be1, "alice"), "STATUS INBOX (UIDVALIDITY MESSAGES)")
}
