package fsm

import (
	"fmt"
	"testing"

	"murder/internal/mbox"
)

func TestConflictRegister(t *testing.T) {
	const n = mbox.Name("user.u")
	start := func() *rig {
		r := newRig(t)
		r.write(activate(n, "a.example!p", acl, by("1", srvA)))
		r.write(activate(n, "b.example!p", "v\tl\t", by("2", srvB)))
		r.write(activate(n, "b.example!q", "v\tl\t", by("2", srvB)))
		return r
	}
	r := start()
	got := r.m.View().Conflict(n)
	want := Conflict{Name: n, Holder: srvA, Claimant: srvB, Claim: "b.example!q", ACL: "v\tl\t", First: 2, Last: 3, Count: 2,
		At: 1000, Identity: "be-b", Peer: "192.0.2.1"}
	if len(got) != 1 || got[0] != want {
		t.Fatalf("conflict: %+v", got)
	}
	r.wantHistory(n, EventActivated, EventConflict, EventConflict)

	for what, c := range map[string]struct {
		command  Command
		resolved bool
	}{
		"the holder repeats itself": {MailboxWrite{Write: activate(n, "a.example!p2", acl, by("3", srvA))}, false},
		"the holder deletes":        {MailboxWrite{Write: remove(n, by("3", srvA))}, true},
		// Refused, and so its mailbox is still there: a rename begins with a DELETE, too.
		"the claimant deletes":       {MailboxWrite{Write: remove(n, by("3", srvB))}, false},
		"a third deletes":            {MailboxWrite{Write: remove(n, by("3", "c.example"))}, false},
		"takeover":                   {MailboxWrite{Write: activate(n, "b.example!p", acl, by("3", srvB, mbox.Takeover))}, true},
		"operator":                   {Resolve{What: RegisterConflicts, Name: n}, true},
		"operator, one claimant":     {Resolve{What: RegisterConflicts, Name: n, Claimant: srvB}, true},
		"operator, another claimant": {Resolve{What: RegisterConflicts, Name: n, Claimant: "c.example"}, false},
		"the holder starts a move":   {MailboxWrite{Write: deactivate(n, "a.example!p", by("3", srvA))}, false},
	} {
		r := start()
		r.do(c.command)
		if got := !r.m.View().InConflict(n); got != c.resolved {
			t.Errorf("%s: resolved %v, want %v", what, got, c.resolved)
		}
		restored(t, r.m)
	}
}

// A refused RESERVE is in the history, but no conflict: whoever sent it undoes what it made. And what is
// known to be a leftover contests nothing.
func TestRefusalsWithoutConflict(t *testing.T) {
	const n = mbox.Name("user.u")
	for _, version := range []uint32{1, 2} {
		r := newRig(t)
		r.do(SetClusterVersion{version})
		r.write(activate(n, "a.example!p", acl, by("1", srvA)))
		r.write(reserve(n, "b.example!p", by("2", srvB)))
		want := []EventKind{EventActivated, EventConflict}[:version]
		r.wantHistory(n, want...)
		if r.m.View().InConflict(n) {
			t.Errorf("version %d: a refused RESERVE is a conflict", version)
		}
		r.write(deactivate(n, "a.example!p", by("1", srvA)))
		r.write(activate(n, "b.example!p", acl, by("2", srvB)))
		if got := r.write(activate(n, "a.example!p", acl, by("1", srvA))); got != mbox.Conflict {
			t.Errorf("version %d: the source comes back: %v", version, got)
		}
		r.wantHistory(n, append(want, EventDeactivated, EventMoved, EventConflict)...)
		if got := r.m.View().InConflict(n); got != (version == 1) {
			t.Errorf("version %d: in conflict %v", version, got)
		}
	}
}

// Claims that found no room may be about any name.
func TestFullConflictRegister(t *testing.T) {
	r := newRig(t)
	r.write(activate("x", "a.example!p", acl, by("1", srvA)))
	if r.m.View().InConflict("x") {
		t.Error("contested by nobody")
	}
	for i := range maxConflicts {
		n := mbox.Name(fmt.Sprint(i))
		r.m.conflicts.set(conflictKey(n, srvB), Conflict{Name: n, Claimant: srvB})
	}
	r.do(Empty{})
	if !r.m.View().InConflict("x") {
		t.Error("not contested although the register is full")
	}
}

// Claims of a name do not touch those of another that begins alike.
func TestConflictNames(t *testing.T) {
	r := newRig(t)
	for _, n := range []mbox.Name{"a", "a.b", "a b"} {
		r.write(activate(n, "a.example!p", acl, by("1", srvA)))
		r.write(activate(n, "b.example!p", acl, by("2", srvB)))
		r.write(activate(n, "c.example!p", acl, by("2", "c.example")))
	}
	r.write(remove("a", by("1", srvA)))
	v := r.m.View()
	if len(v.Conflict("a")) != 0 || len(v.Conflict("a.b")) != 2 || len(v.Conflict("a b")) != 2 {
		t.Errorf("conflicts: %v %v %v", v.Conflict("a"), v.Conflict("a.b"), v.Conflict("a b"))
	}
}

func TestHistoryIsBounded(t *testing.T) {
	r := newRig(t)
	for i := range 2 * maxEventsPerName {
		r.write(activate("x", mbox.At(srvA, fmt.Sprint(i)), acl, by("1", srvA)))
	}
	if got := len(r.history("x")); got != maxEventsPerName {
		t.Errorf("%d events of one name", got)
	}
	var all []Envelope
	for i := range maxEvents + 100 {
		w := activate(mbox.Name(fmt.Sprintf("n%d", i)), "a.example!p", "", by("1", srvA))
		if all = append(all, Envelope{Command: MailboxWrite{Write: w}}); len(all) == MaxCommands {
			r.batch(all...)
			all = nil
		}
	}
	r.batch(all...)
	if got := r.m.events.len(); got != maxEvents || r.m.eventNames.Len() != maxEvents {
		t.Errorf("%d events, %d by name", got, r.m.eventNames.Len())
	}
	if len(r.history("x")) != 0 {
		t.Error("the oldest events are still there")
	}
	restored(t, r.m)
}

// A backend that claims everything erases neither the history of one name nor that of all.
func TestRefusedClaimsKeepHistory(t *testing.T) {
	claim := func(n mbox.Name) Envelope {
		return Envelope{Command: MailboxWrite{Write: activate(n, "b.example!p", acl, by("2", srvB))}}
	}
	name := func(i int) mbox.Name { return mbox.Name(fmt.Sprintf("n%d", i)) }
	const names = maxRefused + 100
	grow := func(version uint32) *rig {
		r := newRig(t)
		r.m.clusterVersion = version
		for i := range names {
			r.batch(Envelope{Command: MailboxWrite{Write: activate(name(i), "a.example!p", acl, by("1", srvA))}})
		}
		for range maxEvents / names * 2 {
			for i := range names {
				r.batch(claim(name(i)))
			}
		}
		return r
	}
	r := grow(versionFairHistory)
	if got := r.m.refusals.Len(); got != maxRefused {
		t.Errorf("%d refused claims", got)
	}
	for _, n := range []mbox.Name{name(0), name(names - 1)} {
		if got := r.history(n); len(got) == 0 || got[0] != EventActivated {
			t.Errorf("history of %s: %v", n, got)
		}
	}
	for range 2 * maxEventsPerName {
		r.batch(claim("n7"))
	}
	if got := r.history("n7"); len(got) != 1+maxRefusedPerName || got[0] != EventActivated {
		t.Errorf("history of one name: %v", got)
	}
	restored(t, r.m)

	// Before that version all copies forget alike, and catch up when it is raised.
	r = grow(versionFairHistory - 1)
	if got := r.m.refusals.Len(); got <= maxRefused {
		t.Errorf("%d refused claims before", got)
	}
	r.m.clusterVersion = versionFairHistory
	back := restored(t, r.m)
	r.batch(claim("n9"))
	if got := r.m.refusals.Len(); got != maxRefused {
		t.Errorf("%d refused claims after", got)
	}
	if _, err := back.Apply(r.index, r.log[len(r.log)-1]); err != nil {
		t.Fatal(err)
	}
	wantSame(t, r.m, back)
}
