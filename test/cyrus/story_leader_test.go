//go:build cyrus

package cyrus

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"murder/test/imapline"
)

// The leader is killed at the very moment in which a backend's command arrives, once for every kind
// of change. Through a coordinator that lives on, the change succeeds; when the one that the backend
// talks to dies, the backend may be refused, and is at peace with the map after its next push.
func TestLeaderKilledInTheMiddle(t *testing.T) {
	t.Parallel()
	m := newRelayed(t, Options{})
	be1, be2 := m.Node("be1"), m.Node("be2")
	admin := signOn(t, be1, m.Admin())
	for _, name := range []string{"user.u1", "user.u1.old", "user.u1.shared", "user.u1.trash", "user.u2", "user.u2.work"} {
		ok(t, admin, "CREATE %s", name)
	}
	ok(t, admin, "SETACL user.u1.trash %s lrswipkxtecda", m.Admin())
	steps := []struct {
		verb, command, moment string
		check                 func()
	}{
		{"CREATE", "CREATE user.u1.new", "ACTIVATE", func() { m.lives(t, "user.u1.new", be1) }},
		{"RENAME", "RENAME user.u1.old user.u1.young", "RESERVE", func() {
			m.gone(t, "user.u1.old")
			m.lives(t, "user.u1.young", be1)
		}},
		{"SETACL", "SETACL user.u1.shared u3 lrs", "ACTIVATE", func() {
			if row := m.lives(t, "user.u1.shared", be1); !strings.Contains(row.ACL, "u3\tlrs\t") {
				t.Errorf("after SETACL: %+v", row)
			}
		}},
		{"DELETE", "DELETE user.u1.trash", "DELETE", func() { m.gone(t, "user.u1.trash") }},
		{"XFER", "XFER user.u2 " + be2.Server, "DEACTIVATE", func() {
			m.lives(t, "user.u2", be2)
			m.lives(t, "user.u2.work", be2)
		}},
	}
	for _, s := range steps {
		t.Run(s.verb+" through another", func(t *testing.T) {
			leader, restore := m.killLeaderAt(t, s.moment, false)
			began := time.Now()
			ok(t, admin, "%s", s.command)
			t.Logf("%s was killed; the backend answered after %s", leader, time.Since(began).Round(time.Millisecond))
			restore()
			s.check()
		})
	}
	m.push(t, be2)
	m.push(t, be1)
	m.push(t, be1)

	// Undo it, each time through the leader itself.
	steps[0].command, steps[0].check = "CREATE user.u1.newer", func() { m.lives(t, "user.u1.newer", be1) }
	steps[1].command, steps[1].check = "RENAME user.u1.young user.u1.old", func() {
		m.gone(t, "user.u1.young")
		m.lives(t, "user.u1.old", be1)
	}
	steps[2].command, steps[2].check = "DELETEACL user.u1.shared u3", func() {
		if row := m.lives(t, "user.u1.shared", be1); strings.Contains(row.ACL, "u3") {
			t.Errorf("after DELETEACL: %+v", row)
		}
	}
	ok(t, admin, "SETACL user.u1.new %s lrswipkxtecda", m.Admin())
	steps[3].command, steps[3].check = "DELETE user.u1.new", func() { m.gone(t, "user.u1.new") }
	for _, s := range steps[:4] {
		t.Run(s.verb+" through the leader", func(t *testing.T) {
			leader, restore := m.killLeaderAt(t, s.moment, true)
			var reply imapline.Reply
			reply, admin = ask(t, be1, admin, "%s", s.command)
			t.Logf("%s was killed; the backend answers %s", leader, reply.Status)
			restore()
			m.push(t, be1)
			if reply.Status != "OK" {
				admin = insist(t, be1, admin, "%s", s.command)
			}
			s.check()
		})
	}
	m.push(t, be1)
}

// killLeaderAt makes the leader die when be1 next sends verb. The way of be1 leads through the leader
// or through another coordinator. restore starts the dead one again.
func (m *murder) killLeaderAt(t *testing.T, verb string, through bool) (leader string, restore func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	leader, err := m.cluster.Leader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	others := slices.DeleteFunc(m.cluster.Coordinators(), func(id string) bool { return id == leader })
	relay := m.relays["be1"]
	m.relays["be2"].Lead(m.cluster.Addr(others[0], "mupdate"))
	if through {
		relay.Lead(m.cluster.Addr(leader, "mupdate"))
	} else {
		relay.Lead(m.cluster.Addr(others[0], "mupdate"))
	}
	killed := make(chan error, 1)
	relay.Decide(when(verb, once(func() {
		err := m.cluster.Kill(leader)
		relay.Lead(m.cluster.Addr(others[0], "mupdate"))
		killed <- err
	})))
	return leader, func() {
		t.Helper()
		relay.Decide(nil)
		select {
		case err := <-killed:
			if err != nil {
				t.Fatal(err)
			}
		case <-ctx.Done():
			t.Fatalf("be1 never sent %s", verb)
		}
		if err := m.cluster.Start(leader); err != nil {
			t.Fatal(err)
		}
	}
}
