//go:build cyrus

package imapcyrus

import (
	"fmt"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"murder/test/cyrus"
	"murder/test/harness"
	"murder/test/imapline"
	"murder/test/loopback"
)

const password = "labpass"

var users = []string{"alice", "bob", "carol", "dave", "erin", "frank", "john.smith"}

// world is the system all stories share.
var world struct {
	*cyrus.Rig
	cluster  *harness.Cluster
	f1, f2   string
	be1, be2 *cyrus.Node
}

func TestMain(m *testing.M) {
	if missing := cyrus.Missing(); len(missing) > 0 {
		fmt.Fprintln(os.Stderr, "real Cyrus servers need:", strings.Join(missing, "; "))
		if os.Getenv("MURDER_REQUIRE_CYRUS") == "1" {
			os.Exit(1)
		}
		return
	}
	code := 1
	stop, err := build()
	if err == nil {
		code = m.Run()
	} else {
		fmt.Fprintln(os.Stderr, err)
	}
	if code != 0 && world.cluster != nil {
		fmt.Fprintln(os.Stderr, world.cluster.Logs(15))
	}
	stop()
	os.Exit(code)
}

// build starts everything; stop must be called in any case.
func build() (stop func(), err error) {
	stop = func() {
		if world.cluster != nil {
			world.cluster.Close()
		}
		if world.Rig != nil {
			world.Close()
		}
	}
	n, err := loopback.Claim()
	if err != nil {
		return stop, err
	}
	args := []string{"--demo-backends", "0", "--admin", "cyrus:" + password, "--proxy", "murder:" + password,
		"--set", "namespace.altnamespace=true", "--set", "namespace.unixhierarchysep=true"}
	for i := 1; i <= 2; i++ {
		args = append(args, "--backend", fmt.Sprintf("be%d.rig.test=%s,imap=%d,lmtp=%d,pop3=%d,sieve=%d",
			i, n.Host(10+i), cyrus.IMAPPort, cyrus.LMTPPort, cyrus.POP3Port, cyrus.SievePort))
	}
	for _, u := range users {
		args = append(args, "--user", u+":"+password)
	}
	if world.cluster, err = harness.New(harness.Options{Net: n, Coordinators: 3, Frontends: 2, Args: args}); err != nil {
		return stop, err
	}
	world.f1, world.f2 = world.cluster.Addr("f1", "imap"), world.cluster.Addr("f2", "imap")
	_, port, _ := net.SplitHostPort(world.cluster.Addr("c1", "mupdate"))
	hosts := map[string][]string{}
	for _, id := range []string{"c1", "c2", "c3"} {
		host, _, _ := net.SplitHostPort(world.cluster.Addr(id, "mupdate"))
		hosts["mupdate.rig.test"] = append(hosts["mupdate.rig.test"], host)
	}
	world.Rig, err = cyrus.New(cyrus.Options{Net: n, Unix: true, Users: users, Hosts: hosts, Mupdate: "mupdate.rig.test:" + port,
		Conf: map[string][]string{"": {"allowallsubscribe: yes"}, "be1": {"delete_mode: immediate"}}})
	if err != nil {
		return stop, err
	}
	if err = world.StartAll(); err != nil {
		return stop, err
	}
	world.be1, world.be2 = world.Node("be1"), world.Node("be2")
	for _, at := range []struct {
		node *cyrus.Node
		cmds []string
	}{
		{world.be1, []string{"CREATE user/alice", "CREATE user/erin", "CREATE user/frank"}},
		{world.be2, []string{"CREATE user/bob", "CREATE user/bob/proj", "SETACL user/bob/proj alice lrswipkxte", "CREATE user/carol",
			"CREATE user/dave", "CREATE shared", "SETACL shared anyone lrswip"}},
	} {
		c, err := at.node.IMAP("cyrus")
		if err != nil {
			return stop, err
		}
		for _, cmd := range at.cmds {
			if _, err := c.OK("%s", cmd); err != nil {
				return stop, err
			}
		}
		c.Close()
	}
	return stop, nil
}

// client is a session with checks.
type client struct {
	*imapline.Conn
	t testing.TB
}

func dial(t testing.TB, addr, user string) *client {
	t.Helper()
	c, err := imapline.Login(addr, user, password)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &client{c, t}
}

// at opens a session on frontend one.
func at(t testing.TB, user string) *client { t.Helper(); return dial(t, world.f1, user) }

// direct opens a session with a backend.
func direct(t testing.TB, n *cyrus.Node, user string) *client {
	t.Helper()
	return dial(t, n.Addr(cyrus.IMAPPort), user)
}

// do runs a command whose status line must be like want ("..." for anything) and returns the untagged
// lines.
func (c *client) do(want, format string, args ...any) []string {
	c.t.Helper()
	r, err := c.Conn.Do(format, args...)
	if err != nil {
		c.t.Fatalf("%.60q: %v", fmt.Sprintf(format, args...), err)
	}
	if got := r.Status + " " + r.Text; !like(want, got) {
		c.t.Errorf("%.60q: got %q, want %q (%q)", fmt.Sprintf(format, args...), got, want, r.Lines)
	}
	return r.Lines
}

func (c *client) ok(format string, args ...any) []string {
	c.t.Helper()
	return c.do("OK...", format, args...)
}

func like(want, got string) bool {
	return regexp.MustCompile("(?s)^" + strings.ReplaceAll(regexp.QuoteMeta(want), `\.\.\.`, ".*") + "$").MatchString(got)
}

// has checks that one of lines is like want.
func has(t testing.TB, lines []string, want string) string {
	t.Helper()
	i := slices.IndexFunc(lines, func(l string) bool { return like(want, l) })
	if i < 0 {
		t.Errorf("no %q in %q", want, lines)
		return ""
	}
	return lines[i]
}

func hasNot(t testing.TB, lines []string, bad string) {
	t.Helper()
	for _, l := range lines {
		if like(bad, l) {
			t.Errorf("unwanted %q", l)
		}
	}
}

// same checks that two sessions get the same answer.
func same(t testing.TB, a, b *client, format string, args ...any) []string {
	t.Helper()
	one, two := a.ok(format, args...), b.ok(format, args...)
	if !slices.Equal(one, two) {
		t.Errorf("%.60q:\n%q\n%q", fmt.Sprintf(format, args...), one, two)
	}
	return one
}

func (c *client) append(mailbox string, bodies ...string) {
	c.t.Helper()
	for _, b := range bodies {
		c.ok("APPEND %s (\\Flagged $x) \"01-Feb-2026 10:00:00 +0000\" {%d+}\r\n%s", imapline.Quote(mailbox), len(b), b)
	}
}

func message(subject string) string {
	return "From: a@example.com\r\nSubject: " + subject + "\r\nMessage-ID: <" + subject + "@example.com>\r\n\r\nbody of " + subject + "\r\n"
}

// eventually waits for what another process brings about.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if cond() {
			return
		}
	}
	t.Fatal("never: " + what)
}
