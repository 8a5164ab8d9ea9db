//go:build cyrus

package cyrus

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"murder/internal/mbox"
)

// Names that sort differently by octets and by Cyrus's database, and such that need care on the wire.
var awkward = []string{
	"user.u1", "user.u1.a", "user.u1.a.b", "user.u1.a-b", "user.u1.a b", "user.u1.a^b", "user.u1.a&AOQ-", "user.u1.A",
	"user.u1.(c)", "user.u1.it's", "shared", "shared.x", "shared-x",
}

// Backends that already have mailboxes join: ctl_mboxlist -m at their start brings all of them, a
// second run has nothing to say, and a restart changes nothing.
func TestBackendsBringTheirMailboxes(t *testing.T) {
	t.Parallel()
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

// M1. The order of LIST must be that of the backend's own list, or its push has much to say. Where the
// configuration is wrong about it, Cyrus would end with an error, and the backend not start; here it
// asks and says more than it need, and nothing is changed.
func TestPushInAnotherOrder(t *testing.T) {
	t.Parallel()
	other := mbox.OrderOctet
	if sorted(t) == other {
		other = mbox.OrderDB
	}
	m := newRelayed(t, Options{LoginOf: map[string]string{"be1": "other"}}, "--mupdate-backend", "other:labpass=be1.rig.test",
		"--set", "mupdate.identities.other.order="+other.String())
	m.down = true // ctl_mboxlist -mw has something to say
	for i, be := range m.Backends() {
		admin := signOn(t, be, m.Admin())
		for _, name := range awkward[:10] {
			ok(t, admin, "CREATE %q", strings.Replace(name, "u1", fmt.Sprint("u", i+1), 1))
		}
		known := m.rows(t, m.nodes[0], "")
		relay := m.relays[be.Name]
		for range 2 {
			relay.Take()
			m.push(t, be)
			s := said(relay)
			if talks := contains(s, "FIND") && contains(s, "ACTIVATE"); !contains(s, "LIST") || talks != (be.Name == "be1") {
				t.Errorf("the push of %s says %q", be.Name, s)
			}
			if again := m.rows(t, m.nodes[0], ""); !maps.Equal(again, known) {
				t.Errorf("after the push of %s: %v\nwant %v", be.Name, again, known)
			}
		}
		if names, err := admin.List("user.*"); err != nil || len(names) != 10 {
			t.Errorf("%s has %q (%v)", be.Name, names, err)
		}
		if err := be.Restart(); err != nil {
			t.Error(err)
		}
	}
	if log := m.cluster.Logs(1000); !strings.Contains(log, "another order than the LIST") || strings.Contains(log, "backend="+m.Node("be2").Server) {
		t.Error("the log does not say which backend sorts otherwise")
	}
}

// A mailbox is renamed while a push is under way: its record, which has no partition yet, is not in the
// LIST that the push works on. With Cyrus's own master the push takes the mailbox for one that is
// elsewhere, and wipes it (TestPushWipesWhatIsRenamed).
func TestRenameDuringAPush(t *testing.T) {
	t.Parallel()
	m := newRelayed(t, Options{Backends: 1})
	be1, relay := m.Node("be1"), m.relays["be1"]
	admin := signOn(t, be1, m.Admin())
	ok(t, admin, "CREATE user.u1")
	ok(t, admin, "CREATE user.u1.a")
	relay.Decide(answered("LIST", once(func() { ok(t, admin, "RENAME user.u1.a user.u1.b") })))
	m.push(t, be1)
	relay.Decide(nil)
	ok(t, signOn(t, be1, "u1"), "SELECT INBOX.b")
	m.push(t, be1)
	m.lives(t, "user.u1.b", be1)
}
