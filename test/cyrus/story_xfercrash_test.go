//go:build cyrus

package cyrus

import (
	"testing"

	"murder/test/dialogue"
	"murder/test/imapline"
)

// moving prepares a user with a folder and a message on be1, and returns be1's administrator, the
// names, and a relay in the way of the move: the address to which be1 is told to send the user.
func moving(t *testing.T, m *murder) (admin *imapline.Conn, names []string) {
	t.Helper()
	names = []string{"user.u1", "user.u1.work", "user.u1.work.deep"}
	admin = signOn(t, m.Node("be1"), m.Admin())
	for _, name := range names {
		ok(t, admin, "CREATE %s", name)
	}
	m.arrives(t, "u1", "before")
	return admin, names
}

// reserved checks that names are in transfer, so that mail for them waits.
func (m *murder) reserved(t testing.TB, names []string) {
	t.Helper()
	for _, name := range names {
		if row := m.record(t, name); row.Kind != "RESERVE" {
			t.Errorf("%s should be in transfer, the map says %+v", name, row)
		}
	}
	m.waits(t, "u1")
}

// The source dies right after it has announced the move. When it comes back it takes the user back.
func TestXferSourceDiesAfterDeactivate(t *testing.T) {
	t.Parallel()
	m := newRelayed(t, Options{})
	be1, be2 := m.Node("be1"), m.Node("be2")
	admin, names := moving(t, m)
	count := 0
	m.relays["be1"].Decide(answered("DEACTIVATE", func() dialogue.Fate {
		if count++; count == len(names) {
			be1.Kill()
		}
		return dialogue.Pass
	}))
	if _, err := admin.Do("XFER user.u1 %s", be2.Server); err == nil {
		t.Error("the source answered although it was killed")
	}
	be1.Kill() // returns when it is gone
	m.reserved(t, names)
	m.relays["be1"].Decide(nil)
	if err := be1.Start(); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		m.lives(t, name, be1)
	}
	m.push(t, be2) // puts away what it had received: the user lives on be1
	m.push(t, be2) // and tells of what it has put away
	for _, name := range names {
		m.lives(t, name, be1)
	}
	m.arrives(t, "u1", "after")
	holds(t, be1, "u1", 2)
}

// The destination dies in the middle of the move. The source gives the move up by itself; what the
// destination has received is known to be a part, and goes at its next start.
func TestXferDestinationDies(t *testing.T) {
	t.Parallel()
	m := newRelayed(t, Options{})
	be1, be2 := m.Node("be1"), m.Node("be2")
	admin, names := moving(t, m)
	count := 0
	m.relays["be1"].Decide(answered("DEACTIVATE", func() dialogue.Fate {
		if count++; count == len(names) {
			be2.Kill()
		}
		return dialogue.Pass
	}))
	refused(t, admin, "XFER user.u1 %s", be2.Server)
	m.relays["be1"].Decide(nil)
	for _, name := range names {
		m.lives(t, name, be1)
	}
	m.arrives(t, "u1", "meanwhile")
	if err := be2.Start(); err != nil {
		t.Fatal(err)
	}
	m.push(t, be2) // tells of what it has put away
	if list, err := signOn(t, be2, m.Admin()).List("user.u1*"); err != nil || len(list) != 0 {
		t.Errorf("be2 keeps %q (%v)", list, err)
	}
	for _, name := range names {
		m.lives(t, name, be1)
	}
	holds(t, be1, "u1", 2)
	// The second attempt succeeds.
	ok(t, admin, "XFER user.u1 %s", be2.Server)
	for _, name := range names {
		m.lives(t, name, be2)
	}
	m.push(t, be1)
	m.push(t, be1)
	m.push(t, be2) // what it had put away was still the same mailbox to Cyrus, and is gone from there
	holds(t, be2, "u1", 2)
}

// The source dies when the destination has everything but has not been told to announce it. Two
// copies exist; the source's push at its start decides for the source or leaves the names in
// transfer, and no push of either destroys the only copy.
func TestXferSourceDiesBeforeThePush(t *testing.T) {
	t.Parallel()
	m := newRelayed(t, Options{})
	be1, be2 := m.Node("be1"), m.Node("be2")
	admin, names := moving(t, m)
	relay, err := dialogue.Listen(m.options.Net.Host(71)+":143", be2.Addr(IMAPPort))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(relay.Close)
	relay.Decide(when("MUPDATEPUSH", func() dialogue.Fate {
		be1.Kill()
		return dialogue.CutBefore
	}))
	if _, err := admin.Do("XFER user.u1 %s", m.options.Net.Host(71)); err == nil {
		t.Error("the source answered although it was killed")
	}
	be1.Kill() // returns when it is gone
	m.reserved(t, names)
	holds(t, be2, "u1", 1)
	m.push(t, be2) // must not wipe
	holds(t, be2, "u1", 1)
	m.reserved(t, names)
	if err := be1.Start(); err != nil {
		t.Fatal(err)
	}
	m.finish(t, names)
}

// The destination's announcement is lost: the source has put its copy away, so the destination has
// the only one. Its push does not wipe it; the operator completes the move.
func TestXferAnnouncementIsLost(t *testing.T) {
	t.Parallel()
	m := newRelayed(t, Options{})
	be1, be2 := m.Node("be1"), m.Node("be2")
	admin, names := moving(t, m)
	m.relays["be2"].Decide(when("ACTIVATE", always(dialogue.CutBefore)))
	if r, err := admin.Do("XFER user.u1 %s", be2.Server); err != nil {
		t.Fatal(err)
	} else {
		t.Logf("the source says %s %s", r.Status, r.Text)
	}
	m.relays["be2"].Decide(nil)
	m.reserved(t, names)
	holds(t, be2, "u1", 1)
	m.push(t, be2) // must not wipe
	holds(t, be2, "u1", 1)
	m.push(t, be1)
	holds(t, be2, "u1", 1)
	m.reserved(t, names)
	for _, name := range names {
		m.repair(t, "resolve", name, "--holder", be2.Server, "--force")
		m.lives(t, name, be2)
	}
	m.push(t, be2)
	m.push(t, be1)
	m.arrives(t, "u1", "after")
	holds(t, be2, "u1", 2)
}

// finish brings a move to an end that was cut off, as an operator would: whoever the map names has
// the data, else the destination is told to announce what it has.
func (m *murder) finish(t *testing.T, names []string) {
	t.Helper()
	be1, be2 := m.Node("be1"), m.Node("be2")
	holder := be1
	row := m.record(t, names[0])
	t.Logf("after the restart of the source: %+v", row)
	if row.Kind == "RESERVE" {
		holder = be2
		for _, name := range names {
			m.repair(t, "resolve", name, "--holder", be2.Server, "--force")
		}
	}
	for range 2 {
		m.push(t, be2)
		m.push(t, be1)
	}
	for _, name := range names {
		m.lives(t, name, holder)
	}
	m.arrives(t, "u1", "after")
	holds(t, holder, "u1", 2)
	for _, n := range m.Backends() {
		if n == holder {
			continue
		}
		if list, err := signOn(t, n, m.Admin()).List("user.u1*"); err != nil || len(list) != 0 {
			t.Errorf("%s has %q too (%v)", n.Name, list, err)
		}
	}
}
