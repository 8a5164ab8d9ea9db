//go:build cyrus

package cyrus

import (
	"strings"
	"testing"

	operator "murder/cluster/admin"
)

// Every change on a backend is in the map, on every node, by the time the backend answers OK.
func TestChangesOnABackendReachTheMap(t *testing.T) {
	t.Parallel()
	m := newMurder(t, Options{})
	be1 := m.Node("be1")
	admin := signOn(t, be1, m.Admin())

	ok(t, admin, "CREATE user.u1")
	if row := m.lives(t, "user.u1", be1); row.Location != be1.Server+"!default" || row.ACL != "u1\tlrswipkxtecdan\t" {
		t.Errorf("after CREATE: %+v", row)
	}
	ok(t, admin, "CREATE user.u1.second second")
	if row := m.lives(t, "user.u1.second", be1); row.Location != be1.Server+"!second" {
		t.Errorf("after CREATE on another partition: %+v", row)
	}

	ok(t, admin, "SETACL user.u1 u2 lrs")
	if row := m.lives(t, "user.u1", be1); !strings.Contains(row.ACL, "u2\tlrs\t") {
		t.Errorf("after SETACL: %+v", row)
	}
	if m.cluster != nil { // and what the operator sees
		for _, id := range m.cluster.Nodes() {
			var shown operator.Mailbox
			if err := m.cluster.MurderctlJSON(t.Context(), id, &shown, "mailbox", "show", "user.u1"); err != nil {
				t.Error(err)
			}
			if shown.Server != be1.Server || shown.State != "active" || !strings.Contains(shown.ACL, "u2\tlrs\t") {
				t.Errorf("murderctl at %s shows %+v", id, shown)
			}
		}
	}
	ok(t, admin, "DELETEACL user.u1 u2")
	if row := m.lives(t, "user.u1", be1); strings.Contains(row.ACL, "u2") {
		t.Errorf("after DELETEACL: %+v", row)
	}

	ok(t, admin, "CREATE user.u1.work")
	ok(t, admin, "CREATE user.u1.work.deep")
	ok(t, admin, "RENAME user.u1.work user.u1.play")
	m.gone(t, "user.u1.work")
	m.gone(t, "user.u1.work.deep")
	m.lives(t, "user.u1.play", be1)
	m.lives(t, "user.u1.play.deep", be1)

	ok(t, admin, "RENAME user.u1.second user.u1.second default")
	if row := m.lives(t, "user.u1.second", be1); row.Location != be1.Server+"!default" {
		t.Errorf("after a change of partition: %+v", row)
	}

	ok(t, admin, "RENAME user.u1 user.u3")
	for _, rest := range []string{"", ".play", ".play.deep", ".second"} {
		m.gone(t, "user.u1"+rest)
		m.lives(t, "user.u3"+rest, be1)
	}

	m.remove(t, admin, "user.u3.play.deep")
	m.gone(t, "user.u3.play.deep")
	m.remove(t, admin, "user.u3")
	deleted := 0
	for name := range m.rows(t, m.nodes[0], "") {
		if strings.HasPrefix(name, "user.") {
			t.Errorf("%s is left after the user's deletion", name)
		}
		if strings.HasPrefix(name, "DELETED.user.u3") {
			deleted++
		}
	}
	if deleted != 4 {
		t.Errorf("%d mailboxes await their expiry, want 4", deleted)
	}
	m.push(t, be1) // renames leave locations without their partition
}

// The administrator's own tool, as the manuals tell it.
func TestCyradm(t *testing.T) {
	t.Parallel()
	m := newMurder(t, Options{Backends: 1})
	be1 := m.Node("be1")
	script := "cm user.u1\ncm user.u1.Trash\nsam user.u1.Trash u2 lrs\nrenm user.u1.Trash user.u1.Rubbish\nlm user.u1*\n" +
		"cm user.u4\nsam user.u4 cyrus all\ndm user.u4\nquit\n"
	out, err := be1.ExecInput(script, "cyradm", "--user", m.Admin(), "--password", m.Password(), "--auth", "PLAIN",
		"--port", "143", be1.Host)
	if err != nil || !strings.Contains(out, "user.u1.Rubbish") {
		t.Fatalf("cyradm: %v\n%s", err, out)
	}
	if row := m.lives(t, "user.u1.Rubbish", be1); !strings.Contains(row.ACL, "u2\tlrs\t") {
		t.Errorf("the map says %+v", row)
	}
	m.gone(t, "user.u1.Trash")
	m.gone(t, "user.u4")
	m.push(t, be1)
}
