package fsm

import (
	"slices"
	"testing"

	"murder/internal/mbox"
)

func (r *rig) tick() []mbox.Name {
	r.do(Tick{At: 2000})
	var gone []mbox.Name
	for _, c := range r.last.Changes {
		if c.State != mbox.Absent {
			r.t.Errorf("tick made %+v", c)
		}
		gone = append(gone, c.Name)
	}
	return gone
}

func (r *rig) wantGone(want ...mbox.Name) {
	r.t.Helper()
	if got := r.tick(); !slices.Equal(got, want) {
		r.t.Errorf("tick at %d: gone %v, want %v", r.m.Clock(), got, want)
	}
}

func TestCreateLease(t *testing.T) {
	r := newRig(t)
	r.write(reserve("x", "a!p", by("1", srvA)))
	r.pass(leaseTime - 1)
	r.wantGone()
	r.pass(1)
	r.wantGone("x")
	r.wantHistory("x", EventReserved, EventExpired)
	if n := r.m.View().Leases(); n != 0 {
		t.Errorf("%d leases left", n)
	}
	if got := r.write(reserve("x", "b!p", by("2", srvB))); got != mbox.Done {
		t.Errorf("after expiry: %v", got)
	}
}

// Any write of a session renews all that it holds; what others do does not.
func TestLeaseRenewal(t *testing.T) {
	r := newRig(t)
	r.write(reserve("x", "a!p", by("1", srvA)))
	r.write(reserve("y", "a!p", by("2", srvA)))
	r.pass(100 * second)
	r.write(remove("unknown", by("1", srvA)))
	r.pass(100 * second)
	r.wantGone("y")
	r.pass(20 * second)
	r.wantGone("x")
}

// R7: a name that a session reserved and did not use is free soon after the end of the session.
func TestLeaseEndOfSession(t *testing.T) {
	r := newRig(t)
	r.write(reserve("x", "a!p", by("1", srvA)))
	r.write(reserve("y", "a!p", by("1", srvA)))
	r.write(activate("y", "a!p", acl, by("1", srvA)))
	r.write(endSession("1"))
	r.pass(leaseAfterEnd - 1)
	r.wantGone()
	r.pass(1)
	r.wantGone("x")
	if got := r.get("y"); got.State != mbox.Active {
		t.Errorf("activated name is %+v", got)
	}
}

func TestLeasesExpireInOrder(t *testing.T) {
	r := newRig(t)
	r.write(reserve("late", "a!p", by("1", srvA)))
	r.pass(10 * second)
	r.write(reserve("b", "a!p", by("3", srvA)))
	r.write(reserve("a", "a!p", by("3", srvA)))
	r.write(reserve("c", "a!p", by("2", srvA)))
	r.write(endSession("3"))
	r.write(endSession("2"))
	r.pass(leaseTime)
	r.wantGone("c", "a", "b", "late")
}

// R8: a new leader starts all leases again, and a clock that goes back shortens none.
func TestLeaseAcrossTerms(t *testing.T) {
	r := newRig(t)
	r.pass(1000 * second)
	r.write(reserve("x", "a!p", by("1", srvA)))
	r.pass(119 * second)
	r.do(NewTerm{Term: 2, Leader: "c2"})
	r.pass(119 * second)
	r.wantGone()
	r.clock -= 500 * second
	r.wantGone()
	if got := r.m.Clock(); got != 1238*second {
		t.Errorf("clock is %d", got)
	}
	r.clock = 1239 * second
	r.wantGone("x")
}

// The reservation goes with its session when another session of the server takes it over.
func TestLeaseChangesHands(t *testing.T) {
	r := newRig(t)
	r.write(reserve("x", "a!p", by("1", srvA)))
	r.pass(second)
	r.write(reserve("x", "a!p", by("2", srvA)))
	r.write(endSession("1"))
	r.pass(60 * second)
	r.wantGone()
	if _, ok := r.m.View().Lease("1"); ok {
		t.Error("the first session is still remembered")
	}
	r.write(activate("x", "a!p", acl, by("3", srvA)))
	if n := r.m.View().Leases(); n != 0 {
		t.Errorf("%d leases left", n)
	}
}

func TestTransferHold(t *testing.T) {
	r := newRig(t)
	r.write(activate("x", "a.example!p", acl, by("1", srvA)))
	r.pass(5 * second)
	r.write(deactivate("x", "a.example!p", by("2", srvA)))
	h, ok := r.m.View().Transfer("x")
	want := Hold{Name: "x", Transfer: true, Session: "2", Since: 5 * second, Location: "a.example!p", ACL: acl}
	if !ok || h != want {
		t.Errorf("transfer is %+v", h)
	}
	r.write(endSession("2"))
	r.pass(3600 * second)
	r.wantGone()
	if h, _ := r.m.View().Transfer("x"); !h.SessionGone {
		t.Error("the end of the session is not marked")
	}
	r.write(deactivate("x", "a.example!p", by("3", srvA))) // the retry, on a new session
	if h, _ := r.m.View().Transfer("x"); h.SessionGone || h.Session != "3" {
		t.Errorf("after the retry: %+v", h)
	}
	r.write(remove("x", by("3", srvA, mbox.Sync)))
	if h, _ := r.m.View().Transfer("x"); !h.SourceDropped {
		t.Error("the source's DELETE is not marked")
	}
	r.write(activate("x", "b.example!p", acl, by("4", srvB)))
	if _, ok := r.m.View().Hold("x"); ok {
		t.Error("the hold outlived the move")
	}
	r.wantHistory("x", EventActivated, EventDeactivated, EventSourceDropped, EventMoved)
}

func TestRenameHealed(t *testing.T) {
	r := newRig(t)
	r.write(activate("new", "b.example!p", acl, by("1", srvB)))
	r.write(activate("old", "a.example!p", acl, by("2", srvA)))
	r.write(remove("old", by("3", srvA)))
	if got := r.write(reserve("new", "a.example!p", by("3", srvA))); got != mbox.Exists {
		t.Fatalf("RESERVE of a held name: %v", got)
	}
	want := mbox.Entry{Name: "old", Location: "a.example!p", ACL: acl, State: mbox.Active, Index: r.index}
	if got := r.get("old"); got != want {
		t.Errorf("old name is %+v", got)
	}
	if len(r.last.Changes) != 1 || r.last.Changes[0] != (mbox.Change{Entry: want}) {
		t.Errorf("changes: %+v", r.last.Changes)
	}
	r.wantHistory("old", EventActivated, EventDeleted, EventHealed)
	r.write(endSession("3"))
	r.m.View().CutRenames(func(c CutRename) bool { t.Errorf("listed as cut: %+v", c); return true })
}

func TestRenameNotHealed(t *testing.T) {
	for what, between := range map[string]mbox.Write{
		"another write":     remove("unknown", by("3", srvA)),
		"name taken":        activate("old", "b.example!p", acl, by("4", srvB)),
		"another's DELETE":  {Kind: mbox.Deactivate, Name: "old", Location: "a.example!p", By: by("3", srvA)},
		"RESERVE succeeded": reserve("free", "a.example!p", by("3", srvA)),
	} {
		r := newRig(t)
		r.write(activate("new", "b.example!p", acl, by("1", srvB)))
		r.write(activate("old", "a.example!p", acl, by("2", srvA)))
		r.write(remove("old", by("3", srvA)))
		r.write(between)
		r.write(reserve("new", "a.example!p", by("3", srvA)))
		if got := r.get("old"); got.Location == "a.example!p" {
			t.Errorf("%s: healed", what)
		}
	}
}

// What another session deleted since is not this one's to restore.
func TestRenameNotHealedForAnother(t *testing.T) {
	r := newRig(t)
	r.write(activate("new", "b.example!p", acl, by("1", srvB)))
	r.write(activate("old", "a.example!p", acl, by("2", srvA)))
	r.write(remove("old", by("3", srvA)))
	r.write(activate("old", "a.example!p", acl, by("4", srvA)))
	r.write(remove("old", by("4", srvA)))
	r.write(reserve("new", "a.example!p", by("3", srvA)))
	if got := r.get("old"); got.State != mbox.Absent {
		t.Errorf("restored: %+v", got)
	}
}

func TestTransferOrphaned(t *testing.T) {
	for what, c := range map[string]struct {
		writes []mbox.Write
		want   bool
	}{
		"in progress":    {nil, false},
		"session over":   {[]mbox.Write{endSession("2")}, true},
		"taken up again": {[]mbox.Write{endSession("2"), deactivate("x", "a.example!p", by("3", srvA))}, false},
		"source dropped": {[]mbox.Write{remove("x", by("3", srvA, mbox.Sync))}, true},
		"moved":          {[]mbox.Write{endSession("2"), activate("x", "b.example!p", acl, by("3", srvB))}, false},
	} {
		r := newRig(t)
		r.write(activate("x", "a.example!p", acl, by("1", srvA)))
		r.write(deactivate("x", "a.example!p", by("2", srvA)))
		for _, w := range c.writes {
			r.write(w)
		}
		if got := r.m.View().TransferOrphaned("x"); got != c.want {
			t.Errorf("%s: %v", what, got)
		}
	}
}

func TestCutRename(t *testing.T) {
	cuts := func(r *rig) (names []mbox.Name) {
		r.m.View().CutRenames(func(c CutRename) bool {
			names = append(names, c.Name)
			return true
		})
		return names
	}
	start := func() *rig {
		r := newRig(t)
		r.write(activate("old", "a.example!p", acl, by("2", srvA)))
		r.write(remove("old", by("3", srvA)))
		return r
	}

	r := start()
	r.write(endSession("3"))
	if got := cuts(r); !slices.Equal(got, []mbox.Name{"old"}) {
		t.Errorf("after DELETE and the end: %v", got)
	}
	if tomb, ok := r.m.View().Tombstone("old"); !ok || tomb.ACL != acl || tomb.Location != "a.example!p" || tomb.Session != "3" {
		t.Errorf("tombstone: %+v", tomb)
	}
	r.wantHistory("old", EventActivated, EventDeleted, EventCutRename)
	if got := r.do(Resolve{What: RegisterCutRenames, Name: "old", Identity: "op"}); got.Refusal != NotRefused || len(cuts(r)) != 0 {
		t.Errorf("resolve: %+v, %v left", got, cuts(r))
	}
	if got := r.do(Resolve{What: RegisterCutRenames, Name: "old"}); got.Refusal != RefusedUnknown {
		t.Errorf("resolve twice: %+v", got)
	}

	r = start() // cut after RESERVE new; nobody says that the session is over
	r.write(reserve("new", "a.example!p", by("3", srvA)))
	r.pass(leaseTime)
	r.wantGone("new")
	if got := cuts(r); !slices.Equal(got, []mbox.Name{"old"}) {
		t.Errorf("after DELETE, RESERVE and silence: %v", got)
	}
	r.write(activate("old", "a.example!p", acl, by("4", srvA)))
	if got := cuts(r); len(got) != 0 {
		t.Errorf("after the name came back: %v", got)
	}

	r = start() // complete
	r.write(reserve("new", "a.example!p", by("3", srvA)))
	r.write(activate("new", "a.example!p", acl, by("3", srvA)))
	r.write(endSession("3"))
	if got := cuts(r); len(got) != 0 || r.m.View().Leases() != 0 {
		t.Errorf("after a complete rename: %v", got)
	}

	r = newRig(t) // the final removal of a mailbox whose deletion was delayed is no rename
	r.write(activate("ex.org!DELETED.user.u.5F3C", "a.example!p", acl, by("2", srvA)))
	r.write(remove("ex.org!DELETED.user.u.5F3C", by("3", srvA)))
	r.write(endSession("3"))
	if got := cuts(r); len(got) != 0 {
		t.Errorf("in the tree of deleted mailboxes: %v", got)
	}
}

// A DELETE is the first half of a rename only if something went wrong after it. To cluster version 1 every
// session that ends with one is suspect.
func TestWholeDelete(t *testing.T) {
	end := func(flags ...mbox.SessionFlags) mbox.Write {
		w := endSession("3")
		w.By = by("3", srvA, flags...)
		return w
	}
	taken := activate("new", "b.example!p", acl, by("4", srvB, mbox.Takeover))
	for _, c := range []struct {
		what    string
		version uint32
		writes  []mbox.Write
		cut     bool
	}{
		{"LOGOUT", 2, []mbox.Write{end(mbox.LoggedOut)}, false},
		{"LOGOUT in version 1", 1, []mbox.Write{end(mbox.LoggedOut)}, true},
		{"no LOGOUT", 2, []mbox.Write{end()}, true},
		{"silence", 2, nil, true},
		{"a reservation that was not used, and LOGOUT", 2, []mbox.Write{reserve("new", "a.example!p", by("3", srvA)), end(mbox.LoggedOut)}, true},
		{"a refused ACTIVATE", 2, []mbox.Write{reserve("new", "a.example!p", by("3", srvA)), taken,
			activate("new", "a.example!p", acl, by("3", srvA)), end()}, true},
	} {
		r := newRig(t)
		r.do(SetClusterVersion{c.version})
		r.write(activate("old", "a.example!p", acl, by("2", srvA)))
		r.write(remove("old", by("3", srvA)))
		for _, w := range c.writes {
			r.write(w)
		}
		r.pass(leaseTime)
		r.tick()
		cut := r.m.cuts.len() == 1
		if cut != c.cut || r.m.leases.len() != 0 {
			t.Errorf("%s: cut %v, want %v; %d leases", c.what, cut, c.cut, r.m.leases.len())
		}
	}
}

// The RESERVE of a rename was refused before it came here: the old name comes back all the same, and the
// session goes on.
func TestRenameRefusedElsewhere(t *testing.T) {
	refused := mbox.Write{Kind: mbox.EndSession, Name: "old", By: by("3", srvA, mbox.RenameRefused)}
	r := newRig(t)
	r.do(SetClusterVersion{versionSessionEnd})
	r.write(activate("old", "a.example!p", acl, by("2", srvA)))
	r.write(remove("old", by("3", srvA)))
	r.write(refused)
	if got := r.get("old"); got.State != mbox.Active || got.ACL != acl {
		t.Errorf("old name is %+v", got)
	}
	r.wantHistory("old", EventActivated, EventDeleted, EventHealed)
	r.write(reserve("new", "a.example!p", by("3", srvA)))
	r.write(refused) // said twice
	if l, _ := r.m.View().Lease("3"); l.Ended {
		t.Error("the session has ended")
	}
	r.write(endSession("3"))
	r.pass(leaseAfterEnd)
	r.wantGone("new")
	if r.m.cuts.len() != 0 {
		t.Error("listed as cut")
	}
	// It may be said late: behind the DELETE of something else, which stays deleted.
	r.write(activate("other", "a.example!p", acl, by("2", srvA)))
	r.write(remove("old", by("4", srvA)))
	r.write(remove("other", by("4", srvA)))
	refused.By.ID = "4"
	r.write(refused)
	if r.get("old").State != mbox.Active {
		t.Error("old name is gone")
	}
	if _, ok := r.m.View().Get("other"); ok {
		t.Error("what was deleted for good is back")
	}
}

func TestTombstonesAge(t *testing.T) {
	r := newRig(t)
	r.write(activate("x", "a.example!p", acl, by("2", srvA)))
	r.write(remove("x", by("3", srvA)))
	r.write(endSession("3"))
	r.pass(tombstoneTime - 1)
	r.tick()
	if _, ok := r.m.View().Tombstone("x"); !ok {
		t.Error("gone too early")
	}
	r.pass(1)
	r.tick()
	if _, ok := r.m.View().Tombstone("x"); ok || r.m.cuts.len() != 0 {
		t.Error("still there")
	}
}

// A reservation that ran out does not hide the mailbox that had the name before.
func TestTombstoneOfMailboxWins(t *testing.T) {
	r := newRig(t)
	r.write(activate("x", "a.example!p", acl, by("2", srvA)))
	r.write(remove("x", by("2", srvA)))
	r.write(reserve("x", "b.example!p", by("3", srvB)))
	r.pass(leaseTime)
	r.wantGone("x")
	if tomb, _ := r.m.View().Tombstone("x"); tomb.Location != "a.example!p" {
		t.Errorf("tombstone: %+v", tomb)
	}
}

func TestUnconfirmed(t *testing.T) {
	r := newRig(t)
	r.write(activate("x", "a.example!p", acl, by("2", srvA)))
	w := endSession("2")
	w.Name = "x"
	r.write(w)
	r.wantHistory("x", EventActivated, EventUnconfirmed)

	// The word may come twice, or when others have changed the record.
	r.do(SetClusterVersion{versionSessionEnd})
	r.write(w)
	r.wantHistory("x", EventActivated, EventUnconfirmed)
	r.write(activate("x", "a.example!q", acl, by("3", srvA)))
	r.write(w)
	r.wantHistory("x", EventActivated, EventUnconfirmed, EventUpdated)
	w.By.ID = "3"
	r.write(activate("x", "b.example!p", acl, by("4", srvB))) // refused, and no change
	r.write(w)
	r.wantHistory("x", EventActivated, EventUnconfirmed, EventUpdated, EventConflict, EventUnconfirmed)

	// It may come after the reservation has run out.
	r.write(reserve("y", "a.example!p", by("5", srvA)))
	r.pass(leaseTime)
	r.wantGone("y")
	w.Name, w.By.ID = "y", "5"
	r.write(w)
	r.wantHistory("y", EventReserved, EventExpired, EventUnconfirmed)
}
