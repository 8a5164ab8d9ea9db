//go:build cyrus

package cyrus

import (
	"path/filepath"
	"strings"
	"testing"

	operator "murder/cluster/admin"
)

// Mistakes that destroy mailboxes with Cyrus's own master.

// A backend starts under another name. All its mailboxes belong to somebody else now, so Cyrus would put
// them away, every one.
func TestBackendUnderAnotherName(t *testing.T) {
	t.Parallel()
	const wrong = "be1-new.rig.test"
	m := newMurder(t, Options{Backends: 1})
	m.ours(t)
	be1 := m.Node("be1")
	right := be1.Server
	admin := signOn(t, be1, m.Admin())
	names := []string{"user.u1", "user.u1.a", "user.u1.a-b", "user.u2"}
	for _, name := range names {
		ok(t, admin, "CREATE %s", name)
	}
	m.arrives(t, "u1", "before")
	start := func(server string) {
		t.Helper()
		if err := be1.Stop(); err != nil {
			t.Fatal(err)
		}
		if err := be1.Rename(server); err != nil {
			t.Fatal(err)
		}
		if err := be1.Start(); err != nil {
			t.Fatal(err)
		}
		list, err := signOn(t, be1, m.Admin()).List("*")
		if err != nil || len(list) != len(names) {
			t.Errorf("as %s be1 has %q (%v), want %q", server, list, err, names)
		}
		holds(t, be1, "u1", 1)
	}
	start(wrong)
	if log := m.cluster.Logs(1000); !strings.Contains(log, "a backend has a mailbox that is held by another") || !strings.Contains(log, "backend="+wrong) {
		t.Error("no coordinator says that the backend has another name")
	}
	start(right)
	for _, name := range names {
		m.lives(t, name, be1)
	}
	m.arrives(t, "u2", "after")

	// It was no mistake after all: the operator gives everything to the new name.
	start(wrong)
	var done struct{ Resolved int }
	if err := m.ctl(&done, "mailbox", "resolve", "--against", right, "--holder", wrong, "--yes"); err != nil || done.Resolved != len(names) {
		t.Errorf("murderctl mailbox resolve: %+v %v", done, err)
	}
	for _, name := range names {
		m.lives(t, name, be1)
	}
	var conflicts []operator.Conflict
	if err := m.ctl(&conflicts, "mailbox", "conflicts"); err != nil || len(conflicts) != 0 {
		t.Errorf("after the decision: %+v %v", conflicts, err)
	}
	m.push(t, be1)
}

// The map comes back from a backup that is older than a move: it says that a user lives where only a
// leftover was, and the backend that has the mail would put it away.
func TestMapFromAnOldBackup(t *testing.T) {
	t.Parallel()
	m := newMurder(t, Options{})
	m.ours(t)
	be1, be2 := m.Node("be1"), m.Node("be2")
	admin1 := signOn(t, be1, m.Admin())
	ok(t, admin1, "CREATE user.u1")
	m.arrives(t, "u1", "before")
	file := filepath.Join(t.TempDir(), "old.backup")
	if _, err := m.cluster.Murderctl(t.Context(), "c1", "backup", "save", file); err != nil {
		t.Fatal(err)
	}
	ok(t, admin1, "XFER user.u1 %s", be2.Server)
	m.push(t, be1) // puts away what is left there
	m.push(t, be1)
	m.arrives(t, "u1", "after the move")
	holds(t, be2, "u1", 2)

	if _, err := m.cluster.Murderctl(t.Context(), "c1", "backup", "restore", file, "--yes"); err != nil {
		t.Fatal(err)
	}
	m.lives(t, "user.u1", be1) // so the map believes
	m.push(t, be2)
	holds(t, be2, "u1", 2)
	m.doctor(t, "user.u1", "conflict")
	// Each backend says again what it has and has not, and the map is right.
	m.push(t, be1)
	m.push(t, be2)
	m.lives(t, "user.u1", be2)
	m.arrives(t, "u1", "in the end")
	holds(t, be2, "u1", 3)
}
