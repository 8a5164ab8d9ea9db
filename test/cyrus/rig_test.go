//go:build cyrus

package cyrus

import (
	"errors"
	"testing"
)

// The rig by itself: Cyrus's own master, two backends, one frontend.
func TestRigWithCyrusMaster(t *testing.T) {
	t.Parallel()
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
