//go:build cyrus

package cyrus

import (
	"maps"
	"slices"
	"testing"
)

// Names that sort differently by octets and by Cyrus's database, and such that need care on the wire.
var awkward = []string{
	"user.u1", "user.u1.a", "user.u1.a.b", "user.u1.a-b", "user.u1.a b", "user.u1.a^b", "user.u1.a&AOQ-", "user.u1.A",
	"user.u1.(c)", "user.u1.it's", "shared", "shared.x", "shared-x",
}

// Backends that already have mailboxes join: ctl_mboxlist -m at their start brings all of them, a
// second run has nothing to say, and a restart changes nothing.
func TestBackendsBringTheirMailboxes(t *testing.T) {
	m := newMurder(t, Options{})
	be1, be2 := m.Node("be1"), m.Node("be2")
	admin := signOn(t, be1, m.Admin())
	for _, name := range awkward {
		ok(t, admin, "CREATE %q", name)
	}
	ok(t, signOn(t, be2, m.Admin()), "CREATE user.u2")
	known := m.rows(t, m.nodes[0], "")

	// The map forgets; be1's next start brings the names back.
	session := m.session(t, m.nodes[0])
	for _, name := range awkward {
		if _, err := session.Do("DELETE", name); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := be1.Restart(); err != nil {
			t.Fatal(err)
		}
		if again := m.rows(t, m.nodes[0], ""); !maps.Equal(again, known) {
			t.Errorf("after the restart of be1: %v\nwant %v", again, known)
		}
	}
	for _, name := range awkward {
		m.lives(t, name, be1)
	}
	m.lives(t, "user.u2", be2)
	if names := slices.Collect(maps.Keys(m.rows(t, m.nodes[0], be2.Server+"!"))); len(names) != 1 {
		t.Errorf("LIST of be2 alone: %q", names)
	}

	// A phantom in the map, a wrong ACL and a half-made mailbox: the push puts them right.
	for _, c := range [][]string{
		{"ACTIVATE", "user.phantom", be1.Server + "!default", "u1\tlrs\t"},
		{"ACTIVATE", "shared", be1.Server + "!default", "anyone\tl\t"},
		{"RESERVE", "user.half", be1.Server + "!default"},
	} {
		if _, err := session.Do(c[0], c[1:]...); err != nil {
			t.Fatal(err)
		}
	}
	m.push(t, be1)
	if again := m.rows(t, m.nodes[0], ""); !maps.Equal(again, known) {
		t.Errorf("after the repair: %v\nwant %v", again, known)
	}
}
