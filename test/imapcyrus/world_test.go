//go:build cyrus

package imapcyrus

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"murder/test/cyrus"
	"murder/test/imapline"
)

// world is the system all stories share.
var world *World

func TestMain(m *testing.M) {
	if missing := cyrus.Missing(); len(missing) > 0 {
		fmt.Fprintln(os.Stderr, "real Cyrus servers need:", strings.Join(missing, "; "))
		if os.Getenv("MURDER_REQUIRE_CYRUS") == "1" {
			os.Exit(1)
		}
		return
	}
	var err error
	if world, err = New(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if code != 0 {
		fmt.Fprintln(os.Stderr, world.Cluster.Logs(15))
	}
	world.Close()
	os.Exit(code)
}

// client is a session with checks.
type client struct {
	*imapline.Conn
	t testing.TB
}

func dial(t testing.TB, addr, user string) *client {
	t.Helper()
	c, err := imapline.Login(addr, user, Password)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &client{c, t}
}

// at opens a session on frontend one.
func at(t testing.TB, user string) *client { t.Helper(); return dial(t, world.F1, user) }

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
