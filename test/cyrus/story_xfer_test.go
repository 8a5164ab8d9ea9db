//go:build cyrus

package cyrus

import (
	"fmt"
	"testing"
)

// M4. A user with folders and mail moves from one backend to the other, by Cyrus's own XFER.
func TestXferOfAUser(t *testing.T) {
	t.Parallel()
	m := newMurder(t, Options{})
	be1, be2 := m.Node("be1"), m.Node("be2")
	admin1, admin2 := signOn(t, be1, m.Admin()), signOn(t, be2, m.Admin())
	names := []string{"user.u1"}
	for i := range 50 {
		names = append(names, fmt.Sprintf("user.u1.f%d", i))
	}
	for _, name := range names {
		ok(t, admin1, "CREATE %s", name)
	}
	u1 := signOn(t, be1, "u1")
	if err := u1.Append("INBOX.f3", "Subject: moved\r\n\r\nhello\r\n"); err != nil {
		t.Fatal(err)
	}
	ok(t, u1, "SELECT INBOX.f3")
	ok(t, u1, "STORE 1 +FLAGS (\\Flagged)")
	u1.Close()

	before := ok(t, m.login(t, "u1"), "STATUS INBOX.f3 (UIDVALIDITY MESSAGES)").Lines
	ok(t, admin1, "XFER user.u1 %s", be2.Server)
	for _, name := range names {
		m.lives(t, name, be2)
	}
	c := m.login(t, "u1")
	eventually(t, func() error { _, err := c.OK("SELECT INBOX"); return err }) // the frontend hears of the move by itself
	if after := ok(t, c, "STATUS INBOX.f3 (UIDVALIDITY MESSAGES)").Lines; fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("before the move %q, after it %q", before, after)
	}
	ok(t, c, "SELECT INBOX.f3")
	if r := ok(t, c, "FETCH 1 (FLAGS BODY.PEEK[HEADER.FIELDS (SUBJECT)])"); !contains(r.Lines, "moved") || !contains(r.Lines, "\\Flagged") {
		t.Errorf("the moved message: %q", r.Lines)
	}
	if err := c.Append("INBOX.f4", "Subject: new\r\n\r\nhello\r\n"); err != nil {
		t.Errorf("APPEND after the move: %v", err)
	}

	// And back. Cyrus 3.6 keeps the source's files ("Could not delete local mailbox during move");
	// its next push finds that they live elsewhere and puts them away.
	m.push(t, be1)
	ok(t, admin2, "SETACL user.u1 %s lrswipkxtecda", m.Admin())
	ok(t, admin2, "XFER user.u1 %s", be1.Server)
	for _, name := range names {
		m.lives(t, name, be1)
	}
	c = m.login(t, "u1")
	eventually(t, func() error { _, err := c.OK("SELECT INBOX.f4"); return err })
	m.push(t, be2)
}
