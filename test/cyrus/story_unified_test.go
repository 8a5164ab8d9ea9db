//go:build cyrus

package cyrus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"murder/test/imapline"
)

// A unified Murder: every server has mailboxes and is a frontend to the others. With Cyrus's own master
// its slave spoils the server's own mailboxes (TestUnifiedSlaveSpoilsItsOwnEntries). Here
// it does not hear of them.
func TestUnifiedServersFollowUs(t *testing.T) {
	t.Parallel()
	m := newMurder(t, Options{Unified: true, LoginOf: map[string]string{"be1": "unified1", "be2": "unified2"}}, "--set", "mupdate.identities.unified1.unified=true",
		"--set", "mupdate.identities.unified2.unified=true",
		"--mupdate-backend", "unified1:labpass=be1.rig.test", "--mupdate-backend", "unified2:labpass=be2.rig.test")
	m.ours(t)
	be1, be2 := m.Node("be1"), m.Node("be2")
	admin1, admin2 := signOn(t, be1, m.Admin()), signOn(t, be2, m.Admin())
	ok(t, admin1, "CREATE user.u1")
	ok(t, admin2, "CREATE user.u2")
	ok(t, admin2, "CREATE user.u2.shared")
	ok(t, admin2, "SETACL user.u2.shared u1 lrswi")

	// u1 at home and at the other server, with a folder of another user on the other server.
	for _, at := range m.Backends() {
		u1 := signOn(t, at, "u1")
		eventually(t, func() error { _, err := u1.OK("SELECT INBOX"); return err })
		if err := u1.Append("INBOX", "Subject: by way of "+at.Name+"\r\n\r\nhello\r\n"); err != nil {
			t.Errorf("APPEND by way of %s: %v", at.Name, err)
		}
		ok(t, u1, "CREATE INBOX.%s", at.Name)
		ok(t, u1, "SELECT INBOX.%s", at.Name)
		m.lives(t, "user.u1."+at.Name, at) // Cyrus: made where it was asked for
		// Not COPY: from a mailbox of its own to one elsewhere Cyrus 3.6 stumbles over its own literal.
		if err := u1.Append("user.u2.shared", "Subject: by way of "+at.Name+"\r\n\r\nhello\r\n"); err != nil {
			t.Errorf("APPEND to be2 by way of %s: %v", at.Name, err)
		}
		names, err := u1.List("*")
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(names, "user.u2.shared") || !slices.Contains(names, "INBOX."+at.Name) {
			t.Errorf("LIST by way of %s: %q", at.Name, names)
		}
	}
	holds(t, be1, "u1", 2)
	if r := ok(t, signOn(t, be2, "u2"), "STATUS INBOX.shared (MESSAGES)"); !contains(r.Lines, "MESSAGES 2)") {
		t.Errorf("the shared folder: %q", r.Lines)
	}
	m.arrives(t, "u1", "through our frontend")

	ok(t, admin1, "RENAME user.u1.be1 user.u1.renamed")
	ok(t, admin1, "SETACL user.u1.renamed u2 lrs")
	if _, err := admin1.OK("SETQUOTA user.u1 (STORAGE 100000)"); err != nil {
		// Cyrus 3.12 dies of it where a folder of the user is on another server (mailbox.c: it has no unique id).
		if !atLeast(t, 3, 12) || errors.As(err, new(*imapline.RefusedError)) {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if _, err := be1.WaitLog(ctx, "signaled to death by signal 11"); err != nil {
			t.Fatal(err)
		}
		admin1 = signOn(t, be1, m.Admin())
	}
	if r := ok(t, admin1, "GETQUOTA user.u1"); !contains(r.Lines, " 100000)") {
		t.Errorf("the quota: %q", r.Lines)
	}
	m.remove(t, admin2, "user.u1.be2")
	eventually(t, func() error {
		names, err := signOn(t, be2, "u1").List("INBOX.*")
		if err != nil || !slices.Equal(names, []string{"INBOX.renamed"}) {
			return fmt.Errorf("LIST at be2: %q %v", names, err)
		}
		return nil
	})
	u1 := signOn(t, be1, "u1")
	ok(t, u1, "SELECT INBOX.renamed")
	// A name that has just been deleted on one server is free on the other, and its own after that.
	eventually(t, func() error { _, err := u1.OK("CREATE INBOX.be2"); return err })
	m.lives(t, "user.u1.be2", be1)
	ok(t, admin1, "SETQUOTA user.u1 (STORAGE 200000)") // all of its folders are here now

	// Cyrus cannot move a user to a unified server: there the name is in the list already, as one that
	// is elsewhere. Nothing must come of it.
	if _, err := admin1.Do("XFER user.u1 %s", be2.Server); err != nil {
		t.Fatal(err)
	}
	m.lives(t, "user.u1", be1)
	m.lives(t, "user.u1.renamed", be1)
	holds(t, be1, "u1", 3)
	for _, at := range m.Backends() {
		if err := at.Restart(); err != nil {
			t.Fatal(err)
		}
		ok(t, signOn(t, at, "u1"), "SELECT INBOX")
		ok(t, signOn(t, at, "u2"), "SELECT INBOX")
	}
	for _, at := range m.Backends() {
		m.push(t, at) // a rename leaves a location without its partition
	}
	m.lives(t, "user.u1.be2", be1)
}
