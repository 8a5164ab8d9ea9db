package fsm

import (
	"fmt"
	"testing"

	"murder/internal/mbox"
)

// Every cell of the reply matrix. Server a owns the name, if anybody does; the actor is a or b.
func TestMatrix(t *testing.T) {
	const n = mbox.Name("user.u.box")
	at := func(s mbox.Server, partition string) mbox.Location { return mbox.At(s, partition) }
	type rec = mbox.Entry
	create := rec{Location: "a.example!p1", State: mbox.Reserved}
	transfer := rec{Location: "a.example!p1", State: mbox.Reserved, Transfer: true}
	active := rec{Location: "a.example!p1", State: mbox.Active, ACL: acl}
	activeAt := func(l mbox.Location) rec { return rec{Location: l, State: mbox.Active, ACL: acl} }
	none := rec{}

	starts := map[string]func(*rig){
		"absent": func(*rig) {},
		"tombstoneA": func(r *rig) {
			r.write(activate(n, "a.example!p1", acl, by("0", srvA)))
			r.write(remove(n, by("0", srvA)))
		},
		"create":     func(r *rig) { r.write(reserve(n, "a.example!p1", by("0", srvA))) },
		"active":     func(r *rig) { r.write(activate(n, "a.example!p1", acl, by("0", srvA))) },
		"activeBare": func(r *rig) { r.write(activate(n, "a.example!", acl, by("0", srvA))) },
		"transfer": func(r *rig) {
			r.write(activate(n, "a.example!p1", acl, by("0", srvA)))
			r.write(deactivate(n, "a.example!p1", by("0", srvA)))
		},
	}
	const (
		R = mbox.Reserve
		A = mbox.Activate
		D = mbox.Deactivate
		X = mbox.Delete
	)
	for _, c := range []struct {
		start     string
		kind      mbox.Kind
		server    mbox.Server
		partition string
		flags     mbox.SessionFlags
		outcome   mbox.Outcome
		after     rec
		changed   bool
	}{
		{"absent", R, srvA, "p1", 0, mbox.Done, create, true},
		{"absent", A, srvA, "p1", 0, mbox.Done, active, true},
		{"absent", D, srvA, "p1", 0, mbox.NotExist, none, false},
		{"absent", X, srvA, "", 0, mbox.Done, none, false},
		{"absent", X, srvA, "", mbox.DenyUnknownDelete, mbox.NotExist, none, false},

		{"tombstoneA", R, srvA, "p1", 0, mbox.Done, create, true},
		{"tombstoneA", A, srvA, "p1", 0, mbox.Done, active, true},
		{"tombstoneA", D, srvA, "p1", 0, mbox.NotExist, none, false},
		{"tombstoneA", X, srvA, "", 0, mbox.Done, none, false},
		{"tombstoneA", X, srvA, "", mbox.DenyUnknownDelete, mbox.Done, none, false},
		{"tombstoneA", R, srvB, "p1", 0, mbox.Done, rec{Location: "b.example!p1", State: mbox.Reserved}, true},
		{"tombstoneA", A, srvB, "p1", 0, mbox.Done, activeAt("b.example!p1"), true},
		{"tombstoneA", D, srvB, "p1", 0, mbox.NotExist, none, false},
		{"tombstoneA", X, srvB, "", 0, mbox.Done, none, false},
		{"tombstoneA", X, srvB, "", mbox.DenyUnknownDelete, mbox.NotExist, none, false},

		{"create", R, srvA, "p1", 0, mbox.Done, create, false},
		{"create", R, srvA, "p2", 0, mbox.Done, rec{Location: "a.example!p2", State: mbox.Reserved}, true},
		{"create", A, srvA, "p1", 0, mbox.Done, active, true},
		{"create", D, srvA, "p1", 0, mbox.NotActive, create, false},
		{"create", X, srvA, "", 0, mbox.Done, none, true},
		{"create", R, srvB, "p1", 0, mbox.Exists, create, false},
		{"create", A, srvB, "p1", 0, mbox.Conflict, create, false},
		{"create", A, srvB, "p1", mbox.Permissive, mbox.Done, activeAt("b.example!p1"), true},
		{"create", D, srvB, "p1", 0, mbox.NotActive, create, false},
		{"create", X, srvB, "", 0, mbox.Conflict, create, false},

		{"transfer", R, srvA, "p1", 0, mbox.Done, transfer, false},
		{"transfer", R, srvA, "p2", 0, mbox.Done, transfer, false},
		{"transfer", A, srvA, "p1", 0, mbox.Done, active, true},
		{"transfer", A, srvA, "p1", mbox.Sync, mbox.Done, active, true},
		{"transfer", D, srvA, "p1", 0, mbox.Done, transfer, false},
		{"transfer", X, srvA, "", 0, mbox.Done, none, true},
		{"transfer", X, srvA, "", mbox.Sync, mbox.Done, transfer, false},
		{"transfer", R, srvB, "p1", 0, mbox.Exists, transfer, false},
		{"transfer", A, srvB, "p1", 0, mbox.Done, activeAt("b.example!p1"), true},
		{"transfer", A, srvB, "p1", mbox.Sync, mbox.InTransfer, transfer, false},
		{"transfer", A, srvB, "p1", mbox.Sync | mbox.CompleteTransfer, mbox.Done, activeAt("b.example!p1"), true},
		{"transfer", D, srvB, "p1", 0, mbox.NotActive, transfer, false},
		{"transfer", X, srvB, "", 0, mbox.Conflict, transfer, false},

		{"active", R, srvA, "p1", 0, mbox.Done, active, false},
		{"active", R, srvA, "", 0, mbox.Done, active, false},
		{"activeBare", R, srvA, "p1", 0, mbox.Done, activeAt("a.example!"), false},
		{"active", A, srvA, "p1", 0, mbox.Done, active, false}, // identical
		{"active", A, srvA, "", 0, mbox.Done, activeAt("a.example!"), true},
		{"active", D, srvA, "p1", 0, mbox.Done, transfer, true},
		{"active", X, srvA, "", 0, mbox.Done, none, true},
		{"active", R, srvA, "p2", 0, mbox.Exists, active, false},
		{"active", A, srvA, "p2", 0, mbox.Done, activeAt("a.example!p2"), true},
		{"active", D, srvA, "p2", 0, mbox.Done, rec{Location: "a.example!p2", State: mbox.Reserved, Transfer: true}, true},
		{"active", R, srvB, "p1", 0, mbox.Exists, active, false},
		{"active", R, srvB, "p1", mbox.Permissive, mbox.Exists, active, false},
		{"active", A, srvB, "p1", 0, mbox.Conflict, active, false},
		{"active", A, srvB, "p1", mbox.Permissive, mbox.Done, activeAt("b.example!p1"), true},
		{"active", A, srvB, "p1", mbox.Takeover | mbox.Sync, mbox.Done, activeAt("b.example!p1"), true},
		{"active", D, srvB, "p1", 0, mbox.Conflict, active, false},
		{"active", D, srvB, "p1", mbox.Permissive, mbox.Done, rec{Location: "b.example!p1", State: mbox.Reserved, Transfer: true}, true},
		{"active", X, srvB, "", 0, mbox.Conflict, active, false},
		{"active", X, srvB, "", mbox.Permissive, mbox.Done, none, true},
		{"active", X, "", "", 0, mbox.Done, none, true},
		{"active", X, "", "", mbox.DenyUnboundDelete, mbox.Unbound, active, false},
	} {
		t.Run(fmt.Sprintf("%s %v by %s %s %d", c.start, c.kind, c.server, c.partition, c.flags), func(t *testing.T) {
			r := newRig(t)
			starts[c.start](r)
			s := mbox.Session{ID: "1", Identity: "who", Flags: c.flags}
			if c.server != "" {
				s.Servers = []mbox.Server{c.server}
			}
			w := mbox.Write{Kind: c.kind, Name: n, By: s}
			if c.kind != X {
				w.Location = at(c.server, c.partition)
			}
			if c.kind == A {
				w.ACL = acl
			}
			before := r.get(n)
			r.want(w, c.outcome, c.after, c.changed)
			for _, ch := range r.last.Changes {
				if ch.Old != before.Location || ch.Name != n || ch.Index != r.index || ch.State != c.after.State {
					t.Errorf("change is %+v", ch)
				}
			}
			switch c.outcome {
			case mbox.Exists, mbox.Conflict, mbox.InTransfer:
				if got := r.last.Results[0].Holder; got != "a.example!p1" {
					t.Errorf("holder is %q", got)
				}
			}
			restored(t, r.m)
		})
	}
}

func TestRemoveIf(t *testing.T) {
	r := newRig(t)
	r.write(activate("x", "a!p", acl, by("1", srvA)))
	index := r.index
	r.write(activate("x", "a!q", acl, by("1", srvA)))
	w := mbox.Write{Kind: mbox.Remove, Name: "x", IfIndex: index, By: mbox.Session{Identity: "operator"}}
	r.want(w, mbox.Changed, mbox.Entry{Location: "a!q", State: mbox.Active, ACL: acl}, false)
	w.IfIndex++
	r.want(w, mbox.Done, mbox.Entry{}, true)
	r.want(w, mbox.NotExist, mbox.Entry{}, false)
	r.wantHistory("x", EventActivated, EventUpdated, EventRemoved)
}

func TestActivateIf(t *testing.T) {
	if MaxVersion < versionActivateIf {
		t.Skip("this binary does not know it")
	}
	r := newRig(t)
	r.do(SetClusterVersion{Version: versionActivateIf})
	w := activate("x", "a!p", acl, by("1", srvA))
	w.IfIndex = 1
	r.want(w, mbox.Changed, mbox.Entry{}, false)
	w.IfIndex = mbox.IfAbsent
	r.want(w, mbox.Done, mbox.Entry{Location: "a!p", State: mbox.Active, ACL: acl}, true)
	index := r.index
	w.Location = "a!q"
	r.want(w, mbox.Changed, mbox.Entry{Location: "a!p", State: mbox.Active, ACL: acl}, false)
	w.IfIndex = index
	r.want(w, mbox.Done, mbox.Entry{Location: "a!q", State: mbox.Active, ACL: acl}, true)
	r.want(w, mbox.Changed, mbox.Entry{Location: "a!q", State: mbox.Active, ACL: acl}, false)
	r.wantHistory("x", EventActivated, EventUpdated)
}

// Before the cluster version that opened it nobody looks at the condition: older copies cannot.
func TestActivateIfTooEarly(t *testing.T) {
	r := newRig(t)
	r.do(SetClusterVersion{Version: versionActivateIf - 1})
	w := activate("x", "a!p", acl, by("1", srvA))
	w.IfIndex = 1
	r.want(w, mbox.Done, mbox.Entry{Location: "a!p", State: mbox.Active, ACL: acl}, true)
}

// A unified server whose list is old claims a mailbox that b has deleted.
func TestOutdated(t *testing.T) {
	if MaxVersion < versionOutdated {
		t.Skip("this binary does not know it")
	}
	const n = mbox.Name("user.u.box")
	deleted := func(r *rig) {
		r.write(activate(n, "b.example!p", acl, by("0", srvB)))
		r.write(remove(n, by("0", srvB)))
	}
	const old = mbox.Sync | mbox.Unified
	for _, c := range []struct {
		what    string
		before  func(*rig)
		flags   mbox.SessionFlags
		version uint32
		want    mbox.Outcome
	}{
		{"deleted", deleted, old, versionOutdated, mbox.Outdated},
		{"deleted in a move", func(r *rig) {
			r.write(activate(n, "b.example!p", acl, by("0", srvB)))
			r.write(deactivate(n, "b.example!p", by("0", srvB)))
			r.write(remove(n, by("0", srvB)))
		}, old, versionOutdated, mbox.Outdated},
		{"not by its list", deleted, mbox.Unified, versionOutdated, mbox.Done},
		{"not unified: the list has its own mailboxes only", deleted, mbox.Sync, versionOutdated, mbox.Done},
		{"as with Cyrus's own master", deleted, old | mbox.Permissive, versionOutdated, mbox.Done},
		{"too early", deleted, old, versionOutdated - 1, mbox.Done},
		{"never there", func(*rig) {}, old, versionOutdated, mbox.Done},
		{"was being created, but never there", func(r *rig) {
			r.write(reserve(n, "b.example!p", by("0", srvB)))
			r.write(remove(n, by("0", srvB)))
		}, old, versionOutdated, mbox.Done},
		{"its own", func(r *rig) {
			r.write(activate(n, "a.example!p", acl, by("0", srvA)))
			r.write(remove(n, by("0", srvA)))
		}, old, versionOutdated, mbox.Done},
		{"it makes one", func(r *rig) {
			deleted(r)
			r.write(reserve(n, "a.example!p", by("1", srvA, old)))
		}, old, versionOutdated, mbox.Done},
	} {
		t.Run(c.what, func(t *testing.T) {
			r := newRig(t)
			r.do(SetClusterVersion{Version: c.version})
			c.before(r)
			got := r.write(activate(n, "a.example!p", acl, by("1", srvA, c.flags)))
			if got != c.want || (r.get(n).State == mbox.Active) != (got == mbox.Done) {
				t.Fatalf("%v, want %v; the record is %+v", got, c.want, r.get(n))
			}
			if got == mbox.Done {
				return
			}
			if holder := r.last.Results[0].Holder; holder != "b.example!p" {
				t.Errorf("deleted from %q", holder)
			}
			if lines := r.history(n); lines[len(lines)-1] != EventConflict {
				t.Errorf("history %v", lines)
			}
			if claims := r.m.View().Conflict(n); len(claims) > 0 {
				t.Errorf("nobody holds it, and the register has %+v", claims)
			}
		})
	}
}

// An ACTIVATE of the old name with nothing in it, right after a rename of a special-use folder.
func TestPhantom(t *testing.T) {
	const n = mbox.Name("user.u.Sent")
	for _, c := range []struct {
		what     string
		location mbox.Location
		acl      mbox.ACL
		after    uint64
		applied  bool
	}{
		{"empty", "a.example!", "", 1000, false},
		{"empty, no separator", "a.example", "", 1000, false},
		{"late", "a.example!", "", 60_000, true},
		{"with ACL", "a.example!", acl, 1000, true},
		{"with partition", "a.example!p", "", 1000, true},
		{"other server", "b.example!", "", 1000, true},
	} {
		r := newRig(t)
		r.write(activate(n, "a.example!p", acl, by("1", srvA)))
		r.write(remove(n, by("1", srvA)))
		r.pass(c.after)
		if got := r.write(activate(n, c.location, c.acl, by("2", srvA))); got != mbox.Done {
			t.Errorf("%s: %v", c.what, got)
		}
		if applied := r.get(n).State == mbox.Active; applied != c.applied {
			t.Errorf("%s: applied %v, want %v", c.what, applied, c.applied)
		}
		if !c.applied {
			r.wantHistory(n, EventActivated, EventDeleted, EventPhantom)
		}
	}
}
