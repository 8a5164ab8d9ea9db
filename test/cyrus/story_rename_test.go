//go:build cyrus

package cyrus

import (
	"fmt"
	"slices"
	"testing"

	"murder/test/dialogue"
)

// A rename onto a name that another backend holds: Cyrus deletes the old name in the map before it
// asks for the new one. The refusal brings the old record back, without anybody's help.
func TestRefusedRenameKeepsTheOldName(t *testing.T) {
	t.Parallel()
	m := newMurder(t, Options{})
	m.ours(t)
	be1, be2 := m.Node("be1"), m.Node("be2")
	ok(t, signOn(t, be1, m.Admin()), "CREATE user.u1")
	admin := signOn(t, be2, m.Admin())
	ok(t, admin, "CREATE user.u2")
	ok(t, admin, "CREATE user.u2.work")
	refused(t, admin, "RENAME user.u2 user.u1")
	m.lives(t, "user.u1", be1)
	m.lives(t, "user.u2", be2)
	m.lives(t, "user.u2.work", be2)
	m.history(t, "user.u2", "healed")
	m.arrives(t, "u1", "for the one who has the name")
	m.arrives(t, "u2", "for the one who wanted it")
	holds(t, be1, "u1", 1)
	holds(t, be2, "u2", 1)
}

// The session is cut off in the middle of a rename, at each of its steps. The backend takes the
// rename back; the map cannot know that, but it remembers, and the operator is told.
func TestRenameCutInHalf(t *testing.T) {
	t.Parallel()
	m := newRelayed(t, Options{Backends: 1})
	be1, relay := m.Node("be1"), m.relays["be1"]
	admin := signOn(t, be1, m.Admin())
	ok(t, admin, "CREATE user.u1")
	m.arrives(t, "u1", "before")
	for i, cut := range []struct {
		at    string
		fate  func(dialogue.Line) dialogue.Fate
		old   bool // the map still has the old name
		known string
	}{
		{"before DELETE", when("DELETE", always(dialogue.CutBefore)), true, ""},
		{"after the answer to DELETE", answered("DELETE", always(dialogue.CutAfter)), false, "cut-rename"},
		{"after the answer to RESERVE", answered("RESERVE", always(dialogue.CutAfter)), false, "cut-rename"},
		{"before ACTIVATE", when("ACTIVATE", always(dialogue.CutBefore)), false, "cut-rename"},
		{"before the answer to ACTIVATE", answered("ACTIVATE", always(dialogue.CutBefore)), false, "unconfirmed"},
	} {
		t.Run(cut.at, func(t *testing.T) {
			from, to := fmt.Sprintf("user.u1.from%d", i), fmt.Sprintf("user.u1.to%d", i)
			ok(t, admin, "CREATE %s", from)
			relay.Decide(cut.fate)
			refused(t, admin, "RENAME %s %s", from, to)
			relay.Decide(nil)
			names, err := admin.List("user.u1.*" + fmt.Sprint(i))
			if err != nil || !slices.Equal(names, []string{from}) {
				t.Fatalf("the backend has %q (%v), want only %s", names, err, from)
			}
			if cut.old {
				m.lives(t, from, be1)
				return
			}
			m.gone(t, from)
			name := from
			if cut.known == "unconfirmed" { // Cyrus has taken back what the map has confirmed
				name = to
				m.lives(t, to, be1)
			}
			m.history(t, name, cut.known)
			m.doctor(t, name, cut.known)
			if cut.known == "cut-rename" {
				m.repair(t, "restore", from)
				m.lives(t, from, be1)
			}
		})
	}
	m.push(t, be1) // clears what was reserved, or confirmed to nobody
	m.arrives(t, "u1", "after")
}
