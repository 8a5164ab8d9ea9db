//go:build cyrus

package imapcyrus

import (
	"fmt"
	"net"
	"slices"
	"testing"

	"murder/test/cyrus"
	"murder/test/harness"
	"murder/test/imapline"
	"murder/test/loopback"
)

// space is a frontend before two backends with a namespace other than that of the world, and without the rest of it.
func space(t *testing.T, unix bool, conf []string, users []string, flags ...string) (f1 string, be1, be2 *cyrus.Node) {
	t.Helper()
	n, err := loopback.Claim()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Release() })
	args := append([]string{"--demo-backends", "0", "--admin", "cyrus:" + Password, "--proxy", "murder:" + Password}, flags...)
	for i := 1; i <= 2; i++ {
		args = append(args, "--backend", fmt.Sprintf("be%d.rig.test=%s,imap=%d,lmtp=%d,pop3=%d,sieve=%d",
			i, n.Host(10+i), cyrus.IMAPPort, cyrus.LMTPPort, cyrus.POP3Port, cyrus.SievePort))
	}
	for _, u := range users {
		args = append(args, "--user", u+":"+Password)
	}
	order, err := cyrus.OrderArgs("murder")
	if err != nil {
		t.Fatal(err)
	}
	c := harness.Start(t, harness.Options{Net: n, Coordinators: 1, Args: append(args, order...)})
	host, port, _ := net.SplitHostPort(c.Addr("c1", "mupdate"))
	rig := cyrus.Start(t, cyrus.Options{Net: n, Unix: unix, Users: users, Hosts: map[string][]string{"mupdate.rig.test": {host}},
		Mupdate: "mupdate.rig.test:" + port, Conf: map[string][]string{"": append([]string{"allowallsubscribe: yes"}, conf...)}})
	return c.Addr("f1", "imap"), rig.Node("be1"), rig.Node("be2")
}

// names are those of LIST "" "*".
func (c *client) names() []string {
	c.t.Helper()
	list, err := c.List("*")
	if err != nil {
		c.t.Fatal(err)
	}
	return list
}

// 83: levels with dots, everything below INBOX, on all servers alike.
func TestDots(t *testing.T) {
	f1, be1, be2 := space(t, false, nil, []string{"alice", "bob"}, "--set", "namespace.altnamespace=false", "--set", "namespace.unixhierarchysep=false")
	for node, cmds := range map[*cyrus.Node][]string{
		be1: {"CREATE user.alice"},
		be2: {"CREATE user.bob", "CREATE user.bob.proj", "SETACL user.bob.proj alice lrswipkxte", "CREATE shared", "SETACL shared anyone lrswip"},
	} {
		for _, cmd := range cmds {
			direct(t, node, "cyrus").ok("%s", cmd)
		}
	}
	a, d := dial(t, f1, "alice"), direct(t, be1, "alice")
	a.ok("CREATE INBOX.Drafts")
	a.ok("CREATE INBOX.Drafts.Old")
	if got, want := a.names(), []string{"INBOX", "INBOX.Drafts", "INBOX.Drafts.Old", "user.bob.proj", "shared"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	same(t, a, d, "NAMESPACE")
	same(t, a, d, `LIST "" INBOX*`)
	same(t, a, d, `LIST "" ""`)
	same(t, dial(t, f1, "cyrus"), direct(t, be1, "cyrus"), "NAMESPACE")
	a.append("INBOX.Drafts", message("dotted"))
	a.ok("SELECT INBOX.Drafts")
	a.do("OK [COPYUID ...", "COPY 1 user.bob.proj")
	a.do("OK [COPYUID ...", "COPY 1 shared")
	a.ok("SELECT user.bob.proj")
	has(t, a.ok("FETCH 1 ENVELOPE"), `* 1 FETCH (ENVELOPE ..."dotted"...`)
	a.ok("SUBSCRIBE shared")
	has(t, a.ok(`LIST (SUBSCRIBED) "" "*"`), `* LIST (...\Subscribed...) "." shared`)
	a.ok("RENAME INBOX.Drafts INBOX.Done")
	has(t, a.ok(`LIST "" INBOX.D%%`), `* LIST (...) "." INBOX.Done`)
}

// 82: users of several domains on one server, who know nothing of one another.
func TestDomains(t *testing.T) {
	users := []string{"foo@example.com", "foo@other.org", "bar@example.com", "foo"}
	conf := []string{"virtdomains: userid", "defaultdomain: rig.test"}
	f1, be1, be2 := space(t, true, conf, users, "--set", "namespace.altnamespace=true", "--set", "namespace.unixhierarchysep=true",
		"--set", "namespace.virtdomains=true", "--set", "namespace.defaultdomain=rig.test")
	for node, cmds := range map[*cyrus.Node][]string{
		be1: {"CREATE user/foo@example.com", "CREATE user/foo/Drafts@example.com", "CREATE user/foo"},
		be2: {"CREATE user/foo@other.org", "CREATE user/bar@example.com", "CREATE user/bar/both@example.com",
			"SETACL user/bar/both@example.com foo@example.com lrswi", "CREATE news@example.com", "SETACL news@example.com anyone lrs",
			"CREATE news@other.org", "SETACL news@other.org anyone lrs"},
	} {
		for _, cmd := range cmds {
			direct(t, node, "cyrus").ok("%s", cmd)
		}
	}
	for user, want := range map[string][]string{
		"foo@example.com": {"INBOX", "Drafts", "Other Users/bar/both", "Shared Folders/news"},
		"foo@other.org":   {"INBOX", "Shared Folders/news"},
		"foo":             {"INBOX"},
	} {
		c := dial(t, f1, user)
		if got := c.names(); !slices.Equal(got, want) {
			t.Errorf("%s sees %q, want %q", user, got, want)
		}
		for _, name := range want {
			c.ok("SELECT %s", imapline.Quote(name))
		}
		c.do("NO [NONEXISTENT] ...", `SELECT "Other Users/bar@example.com"`)
	}
	admin := dial(t, f1, "cyrus")
	has(t, admin.ok(`LIST "" "user/*"`), `* LIST (...) "/" user/foo/Drafts@example.com`)
	foo := dial(t, f1, "foo@example.com")
	foo.append("Drafts", message("foreign"))
	foo.ok("SELECT Drafts")
	foo.do("OK [COPYUID ...", `COPY 1 "Other Users/bar/both"`)
	has(t, dial(t, f1, "bar@example.com").ok("STATUS both (MESSAGES)"), "...MESSAGES 1...")
	same(t, foo, direct(t, be1, "foo@example.com"), "NAMESPACE")
}
