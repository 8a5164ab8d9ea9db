//go:build cyrus

package cyrus

import (
	"errors"
	"strings"
	"testing"
	"time"

	"murder/test/imapline"
)

// The rig by itself: Cyrus's own master, two backends, one frontend.
func TestRigWithCyrusMaster(t *testing.T) {
	r := Start(t, Options{Master: true, Frontends: 1})
	be1, be2, fe := r.Node("be1"), r.Node("be2"), r.Node("fe1")
	admin1, admin2 := signOn(t, be1, r.Admin()), signOn(t, be2, r.Admin())
	ok(t, admin1, "CREATE user.u1")
	ok(t, admin2, "CREATE user.u2")
	if reply, err := admin2.Do("CREATE user.u1"); err != nil || reply.Status != "NO" {
		t.Fatalf("a name that be1 holds, created on be2: %v %v", reply, err)
	}
	for _, user := range []string{"u1", "u2"} {
		c := signOn(t, fe, user)
		eventually(t, func() error { _, err := c.OK("SELECT INBOX"); return err })
	}
	for _, n := range r.Backends() {
		inStep(t, n)
	}

	t.Run("restart", func(t *testing.T) {
		if err := be1.Restart(); err != nil {
			t.Fatal(err)
		}
		signOn(t, be1, "u1")
		be1.Kill()
		if be1.Running() {
			t.Fatal("be1 runs after Kill")
		}
		if err := be1.Start(); err != nil {
			t.Fatal(err)
		}
		signOn(t, be1, "u1")
	})
	t.Run("tools", func(t *testing.T) {
		_, err := be1.Exec("ctl_mboxlist", "-Z")
		var tool *ToolError
		if !errors.As(err, &tool) || tool.Status == 0 {
			t.Fatalf("an unknown flag: %v", err)
		}
	})
}

// signOn opens an IMAP session for the length of the test.
func signOn(t testing.TB, n *Node, user string) *imapline.Conn {
	t.Helper()
	c, err := n.IMAP(user)
	if err != nil {
		t.Fatalf("%s on %s: %v", user, n.Name, err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func ok(t testing.TB, c *imapline.Conn, format string, args ...any) imapline.Reply {
	t.Helper()
	r, err := c.OK(format, args...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// patience is how long eventually goes on trying.
const patience = 20 * time.Second

// eventually tries until it succeeds, for what a server announces to nobody.
func eventually(t testing.TB, try func() error) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("still, after %s: %v", patience, err)
		}
	}
}

// inStep runs ctl_mboxlist -mw, which compares a backend's list with the MUPDATE server's and says
// what it would change: nothing.
func inStep(t testing.TB, n *Node) {
	t.Helper()
	out, err := n.Exec("ctl_mboxlist", "-m", "-w")
	if err != nil || strings.TrimSpace(out) != "" {
		t.Errorf("ctl_mboxlist -mw on %s: %v\n%s", n.Name, err, out)
	}
}
