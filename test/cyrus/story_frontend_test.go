//go:build cyrus

package cyrus

import (
	"fmt"
	"slices"
	"testing"
)

// A Cyrus frontend of the old installation follows one of our nodes and serves the same mailboxes:
// sign-on, LIST, SELECT, APPEND, CREATE and a shared folder on the other backend.
func TestCyrusFrontendFollowsUs(t *testing.T) {
	t.Parallel()
	m := newMurder(t, Options{Frontends: 1})
	be1, be2, fe := m.Node("be1"), m.Node("be2"), m.Node("fe1")
	admin1, admin2 := signOn(t, be1, m.Admin()), signOn(t, be2, m.Admin())
	ok(t, admin1, "CREATE user.u1")
	ok(t, admin2, "CREATE user.u2")
	ok(t, admin2, "CREATE user.u2.shared")
	ok(t, admin2, "SETACL user.u2.shared u1 lrswi")

	u1 := signOn(t, fe, "u1")
	ok(t, u1, "SELECT INBOX") // the frontend asks for a NOOP when it misses a name: no waiting
	if err := u1.Append("INBOX", "Subject: one\r\n\r\nhello\r\n"); err != nil {
		t.Fatal(err)
	}
	ok(t, u1, "CREATE INBOX.work")
	ok(t, u1, "SELECT INBOX.work")
	m.lives(t, "user.u1.work", be1)
	ok(t, u1, "SELECT INBOX")
	ok(t, u1, "COPY 1 user.u2.shared")
	if r := ok(t, u1, "STATUS user.u2.shared (MESSAGES)"); !contains(r.Lines, "MESSAGES 1") {
		t.Errorf("the copy on the other backend: %q", r.Lines)
	}
	names, err := u1.List("*")
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"INBOX", "INBOX.work", "user.u2.shared"}; !slices.Equal(names, want) {
		t.Errorf("LIST through the Cyrus frontend: %q, want %q", names, want)
	}

	t.Run("made and used at once", func(t *testing.T) {
		for i := range 50 {
			name := fmt.Sprintf("user.u1.n%d", i)
			ok(t, admin1, "CREATE %s", name)
			ok(t, u1, "SELECT INBOX.n%d", i)
		}
	})
	t.Run("every change is seen at once", func(t *testing.T) { // M3
		u2 := signOn(t, fe, "u2")
		for i := range 10 {
			from, to := fmt.Sprint("from", i), fmt.Sprint("to", i)
			ok(t, u1, "CREATE INBOX.%s", from)
			ok(t, u1, "SELECT INBOX.%s", from)
			ok(t, u1, "SETACL INBOX.%s u2 lr", from)
			ok(t, u2, "SELECT user.u1.%s", from)
			ok(t, u2, "UNSELECT") // Cyrus before 3.6 ends the sessions that have a mailbox open when it is renamed
			ok(t, u1, "SELECT INBOX")
			ok(t, u1, "RENAME INBOX.%s INBOX.%s", from, to)
			refused(t, u1, "SELECT INBOX.%s", from)
			ok(t, u1, "SELECT INBOX.%s", to)
			ok(t, u2, "SELECT user.u1.%s", to)
			ok(t, u2, "UNSELECT")
			ok(t, u1, "SELECT INBOX")
			ok(t, u1, "DELETE INBOX.%s", to)
			refused(t, u1, "SELECT INBOX.%s", to)
			refused(t, u2, "SELECT user.u1.%s", to)
		}
		m.push(t, be1) // renames leave locations without their partition
	})
	t.Run("restart of the frontend", func(t *testing.T) {
		if err := fe.Restart(); err != nil {
			t.Fatal(err)
		}
		c := signOn(t, fe, "u1")
		again, err := c.List("*")
		if err != nil || len(again) != len(names)+50 {
			t.Errorf("LIST after the restart: %d names, want %d (%v)", len(again), len(names)+50, err)
		}
	})
	t.Run("restart of the node that it follows", func(t *testing.T) {
		c := m.ours(t)
		if err := c.Kill("f1"); err != nil {
			t.Fatal(err)
		}
		ok(t, admin1, "CREATE user.u1.meanwhile")
		if err := c.Start("f1"); err != nil {
			t.Fatal(err)
		}
		c1 := signOn(t, fe, "u1")
		eventually(t, func() error { _, err := c1.OK("SELECT INBOX.meanwhile"); return err })
		list, err := signOn(t, fe, "u1").List("*")
		if err != nil || len(list) != len(names)+51 {
			t.Errorf("LIST after the restart of f1: %d names, want %d (%v)", len(list), len(names)+51, err)
		}
	})
}

// Cyrus's slave can lose a good name when it merges a dump (TestSlaveLosesAGoodName). Behind our
// node it does not: the rows in doubt are repeated after the dump.
func TestCyrusFrontendKeepsEveryName(t *testing.T) {
	t.Parallel()
	m := newMurder(t, Options{Backends: 1, Frontends: 1, Conf: map[string][]string{"": {"delete_mode: immediate"}}})
	m.ours(t)
	be1, fe := m.Node("be1"), m.Node("fe1")
	admin := signOn(t, be1, m.Admin())
	want := []string{"user.u1", "user.u1.a", "user.u1.a-b"}
	for _, name := range append(slices.Clone(want), "user.u1.a.b") {
		ok(t, admin, "CREATE %q", name)
	}
	names := func() []string {
		c, err := fe.IMAP(m.Admin())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		list, err := c.List("user.*")
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	eventually(t, func() error {
		if l := names(); len(l) != 4 {
			return fmt.Errorf("names are %q", l)
		}
		return nil
	})
	if err := fe.Stop(); err != nil {
		t.Fatal(err)
	}
	m.remove(t, admin, "user.u1.a.b")
	m.push(t, be1)
	if err := fe.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if l := names(); !slices.Equal(l, want) {
			return fmt.Errorf("names are %q, want %q", l, want)
		}
		return nil
	})
}
