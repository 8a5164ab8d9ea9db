//go:build cyrus

package cyrus

import (
	"slices"
	"testing"
)

// Slashes between levels, folders beside INBOX, and a dot in a user's name: what users see through
// the frontend, what administrators write on a backend, and what stands in the map.
func TestSlashesAndFoldersBesideInbox(t *testing.T) {
	t.Parallel()
	m := newMurder(t, Options{Unix: true, Users: []string{"john.doe", "u2"}})
	be1, be2 := m.Node("be1"), m.Node("be2")
	admin1, admin2 := signOn(t, be1, m.Admin()), signOn(t, be2, m.Admin())
	ok(t, admin1, "CREATE user/john.doe")
	ok(t, admin2, "CREATE user/u2")
	ok(t, admin2, "CREATE user/u2/both")
	ok(t, admin2, "SETACL user/u2/both john.doe lrswi")
	ok(t, admin2, "CREATE office")
	m.lives(t, "user.john^doe", be1)

	c := m.login(t, "john.doe")
	ok(t, c, "CREATE work")
	ok(t, c, "CREATE work/v1.2")
	m.lives(t, "user.john^doe.work.v1^2", be1)
	names, err := c.List("*")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"INBOX", "work/v1.2", "Other Users/u2/both", "Shared Folders/office"} {
		if !slices.Contains(names, want) {
			t.Errorf("LIST through the frontend has no %q: %q", want, names)
		}
	}
	ok(t, c, "SELECT work/v1.2")
	ok(t, c, "SELECT %q", "Other Users/u2/both")
	if err := c.Append("Other Users/u2/both", "Subject: across\r\n\r\nhello\r\n"); err != nil {
		t.Error(err)
	}
	u2 := m.login(t, "u2")
	if r := ok(t, u2, "STATUS both (MESSAGES)"); !contains(r.Lines, "MESSAGES 1") {
		t.Errorf("u2 sees %q", r.Lines)
	}
}
