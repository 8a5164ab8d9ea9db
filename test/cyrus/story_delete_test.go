//go:build cyrus

package cyrus

import (
	"strings"
	"testing"
)

// Deletion in two steps, as Debian sets it: the name changes to one that awaits its expiry, and
// cyr_expire takes that out of the map too.
func TestDeletedMailboxesExpire(t *testing.T) {
	t.Parallel()
	m := newMurder(t, Options{Backends: 1})
	be1 := m.Node("be1")
	admin := signOn(t, be1, m.Admin())
	ok(t, admin, "CREATE user.u1")
	ok(t, admin, "CREATE user.u1.gone")
	m.remove(t, admin, "user.u1.gone")
	m.gone(t, "user.u1.gone")
	if out, err := be1.Exec("cyr_expire", "-E", "1", "-D", "0", "-X", "0"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for name := range m.rows(t, m.nodes[0], "") {
		if strings.HasPrefix(name, "DELETED.") {
			t.Errorf("%s is left after its expiry", name)
		}
	}
	m.lives(t, "user.u1", be1)
}

// Deletion at once: the backend tells nobody (TestImmediateDeleteIsNotTold), so the name stays in the
// map and mail for it waits, until the backend's next push.
func TestImmediateDeletion(t *testing.T) {
	t.Parallel()
	m := newMurder(t, Options{Backends: 1, Conf: map[string][]string{"": {"delete_mode: immediate"}}})
	be1 := m.Node("be1")
	admin := signOn(t, be1, m.Admin())
	for _, name := range []string{"user.u1", "user.u1.gone", "user.u2"} {
		ok(t, admin, "CREATE %s", name)
	}
	m.remove(t, admin, "user.u1.gone")
	m.remove(t, admin, "user.u2")
	m.lives(t, "user.u1.gone", be1)
	m.lives(t, "user.u2", be1)
	if r := m.deliver(t, "u2", "to nobody"); r.Code == 250 {
		t.Errorf("mail for a mailbox that is gone: %s", r)
	}
	u1 := m.login(t, "u1")
	refused(t, u1, "SELECT INBOX.gone")
	ok(t, u1, "SELECT INBOX")
	m.push(t, be1)
	m.gone(t, "user.u1.gone")
	m.gone(t, "user.u2")
	m.lives(t, "user.u1", be1)
	if r := m.deliver(t, "u2", "to nobody"); r.Code/100 != 5 {
		t.Errorf("mail for a user who is gone: %s", r)
	}
}

// Quotas, annotations and special uses are the backend's own. Some of them make it ACTIVATE the
// mailbox again: the record stays as it was.
func TestQuotasAndAnnotationsLeaveTheRecord(t *testing.T) {
	t.Parallel()
	m := newMurder(t, Options{Backends: 1})
	be1 := m.Node("be1")
	admin := signOn(t, be1, m.Admin())
	ok(t, admin, "CREATE user.u1")
	ok(t, signOn(t, be1, "u1"), "CREATE INBOX.Sent (USE (\\Sent))")
	before := m.rows(t, m.nodes[0], "")
	for _, command := range []string{
		"SETQUOTA user.u1 (STORAGE 100000)",
		"SETQUOTA user.u1 ()",
	} {
		ok(t, admin, "%s", command)
	}
	u1 := signOn(t, be1, "u1")
	for _, command := range []string{
		`SETMETADATA INBOX (/shared/comment "mine")`,
		`SETMETADATA INBOX.Sent (/private/comment "sent" /shared/vendor/cmu/cyrus-imapd/expire "30")`,
		`SETMETADATA INBOX.Sent (/shared/vendor/cmu/cyrus-imapd/sharedseen "true")`,
	} {
		ok(t, u1, "%s", command)
	}
	after := m.rows(t, m.nodes[0], "")
	for name, row := range before {
		if after[name] != row {
			t.Errorf("%s: before %+v, after %+v", name, row, after[name])
		}
	}
	if len(after) != len(before) {
		t.Errorf("before %v\nafter %v", before, after)
	}
	// A renamed special-use folder may be announced under its old name once more (an ACTIVATE without
	// partition and rights): nothing of the old name may stay.
	ok(t, u1, "RENAME INBOX.Sent INBOX.Posted")
	m.gone(t, "user.u1.Sent")
	m.lives(t, "user.u1.Posted", be1)
	m.push(t, be1)
}
