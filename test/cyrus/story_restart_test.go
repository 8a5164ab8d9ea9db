//go:build cyrus

package cyrus

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"murder/test/harness"
)

// Backends and coordinators come back in every order; nothing is forgotten and nothing is wiped.
func TestRestartsInManyOrders(t *testing.T) {
	t.Parallel()
	m := newMurder(t, Options{})
	c := m.ours(t)
	be1, be2 := m.Node("be1"), m.Node("be2")
	ok(t, signOn(t, be1, m.Admin()), "CREATE user.u1")
	ok(t, signOn(t, be2, m.Admin()), "CREATE user.u2")
	whole := func(t *testing.T) {
		t.Helper()
		m.lives(t, "user.u1", be1)
		m.lives(t, "user.u2", be2)
		eventually(t, func() error {
			for _, user := range []string{"u1", "u2"} {
				if r := m.deliver(t, user, "still there"); r.Code != 250 {
					return fmt.Errorf("mail for %s: %s", user, r)
				}
			}
			return nil
		})
	}
	t.Run("backends while a coordinator is away", func(t *testing.T) {
		leader := leaderOf(t, c)
		if err := c.Kill(leader); err != nil {
			t.Fatal(err)
		}
		be1.Kill()
		if err := be1.Start(); err != nil {
			t.Error(err)
		}
		if err := c.Start(leader); err != nil {
			t.Fatal(err)
		}
		whole(t)
	})
	t.Run("all coordinators at once, the backends go on", func(t *testing.T) {
		for _, id := range c.Coordinators() {
			if err := c.Kill(id); err != nil {
				t.Fatal(err)
			}
		}
		ok(t, m.login(t, "u1"), "SELECT INBOX") // the frontend has the map
		m.arrives(t, "u2", "nobody leads")
		if err := c.StartAll(c.Coordinators()); err != nil {
			t.Fatal(err)
		}
		leaderOf(t, c)
		whole(t)
	})
	t.Run("everything", func(t *testing.T) {
		be1.Kill()
		be2.Kill()
		for _, id := range c.Nodes() {
			if err := c.Kill(id); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.StartAll(c.Nodes()); err != nil {
			t.Fatal(err)
		}
		if err := m.StartAll(); err != nil {
			t.Fatal(err)
		}
		whole(t)
	})
}

// A backend is started while the coordinators have no majority. It does not come up (Cyrus: what
// START runs must succeed, and what it says is lost), the coordinator says why, and later it comes up.
func TestBackendStartsWithoutAMajority(t *testing.T) {
	t.Parallel()
	m := newMurder(t, Options{Backends: 1})
	c := m.ours(t)
	be1 := m.Node("be1")
	ok(t, signOn(t, be1, m.Admin()), "CREATE user.u1")
	if err := be1.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"c2", "c3"} {
		if err := c.Kill(id); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	err := be1.Start()
	if err == nil {
		t.Fatal("the backend came up although it could not compare its list")
	}
	if d := time.Since(began); d > 40*time.Second {
		t.Errorf("the backend gave up after %s", d)
	}
	if !strings.Contains(err.Error(), "can't run startup") {
		t.Errorf("the backend ended for another reason:\n%v", err)
	}
	if log := c.Logs(1000); !strings.Contains(log, "LIST refused without a quorum") || !strings.Contains(log, "backend="+be1.Server) {
		t.Error("no coordinator says why the backend does not start")
	}
	m.waits(t, "u1")
	if err := c.StartAll([]string{"c2", "c3"}); err != nil {
		t.Fatal(err)
	}
	leaderOf(t, c)
	if err := be1.Start(); err != nil {
		t.Fatal(err)
	}
	m.lives(t, "user.u1", be1)
	eventually(t, func() error {
		if r := m.deliver(t, "u1", "later"); r.Code != 250 {
			return fmt.Errorf("mail: %s", r)
		}
		return nil
	})
}

func leaderOf(t *testing.T, c *harness.Cluster) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	leader, err := c.Leader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return leader
}
