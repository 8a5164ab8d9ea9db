package fsm

import (
	"fmt"
	"testing"

	"murder/internal/mbox"
)

func (r *rig) register(nodeID, nonce string) Result {
	r.t.Helper()
	return r.refused(RegisterProposer{nodeID, nonce}, NotRefused)
}

func TestRepeatedWrite(t *testing.T) {
	r := newRig(t)
	p := r.register("f1", "nonce")
	send := func(sequence, lowWater uint64, w mbox.Write) Result {
		return r.batch(Envelope{p.Proposer, p.Incarnation, sequence, lowWater, MailboxWrite{Write: w}})[0]
	}
	first := send(1, 1, reserve("x", "a.example!p", by("1", srvA)))
	refused := send(2, 1, activate("x", "b.example!p", acl, by("2", srvB)))
	send(3, 1, remove("x", by("1", srvA)))
	digest := r.m.Digest()

	// The repeats would now be decided in another way.
	again := send(1, 1, reserve("x", "a.example!p", by("1", srvA)))
	if first.Repeat || !again.Repeat || again.Verdict != first.Verdict || len(r.last.Changes) != 0 {
		t.Errorf("first %+v, again %+v", first, again)
	}
	if again := send(2, 1, activate("x", "b.example!p", acl, by("2", srvB))); again.Verdict != refused.Verdict || refused.Outcome != mbox.Conflict {
		t.Errorf("first %+v, again %+v", refused, again)
	}
	if r.m.Digest() != digest {
		t.Error("a repeat changed something")
	}
	r.m = restored(t, r.m)
	if again := send(1, 1, reserve("x", "a.example!p", by("1", srvA))); !again.Repeat {
		t.Errorf("after restore: %+v", again)
	}
	send(5, 3, remove("y", by("1", srvA)))
	if got := send(2, 1, activate("x", "a.example!p", acl, by("2", srvB))); got.Outcome != mbox.NotProcessed {
		t.Errorf("below low-water: %+v", got)
	}
	if got := send(4, 3, activate("x", "a.example!p", acl, by("2", srvA))); got.Outcome != mbox.Done || got.Repeat {
		t.Errorf("late but above low-water: %+v", got)
	}
	if got := send(3, 3, remove("x", by("1", srvA))); !got.Repeat {
		t.Errorf("at low-water: %+v", got)
	}
	restored(t, r.m)
}

func TestRepeatWithinBatch(t *testing.T) {
	r := newRig(t)
	p := r.register("f1", "nonce")
	e := Envelope{p.Proposer, p.Incarnation, 1, 1, MailboxWrite{Write: remove("x", by("1", srvA, mbox.DenyUnknownDelete))}}
	got := r.batch(e, e)
	if got[0].Repeat || !got[1].Repeat || got[1].Outcome != mbox.NotExist {
		t.Errorf("results: %+v", got)
	}
}

func TestIncarnations(t *testing.T) {
	r := newRig(t)
	a := r.register("f1", "x")
	if again := r.register("f1", "x"); again.Proposer != a.Proposer || again.Incarnation != a.Incarnation {
		t.Errorf("same process: %+v and %+v", a, again)
	}
	b := r.register("f1", "y")
	c := r.register("f2", "x")
	if b.Proposer != a.Proposer || b.Incarnation <= a.Incarnation || c.Proposer == a.Proposer {
		t.Errorf("pairs: %+v %+v %+v", a, b, c)
	}
	r.pass(silentTime / 2)
	send := func(p Result, sequence uint64) mbox.Outcome {
		return r.batch(Envelope{p.Proposer, p.Incarnation, sequence, 1, MailboxWrite{Write: remove("x", by("1", srvA))}})[0].Outcome
	}
	send(b, 1)
	r.pass(silentTime / 2)
	r.tick()
	if got := send(a, 1); got != mbox.NotProcessed {
		t.Errorf("silent incarnation: %v", got)
	}
	if got := send(b, 2); got != mbox.Done {
		t.Errorf("incarnation that spoke: %v", got)
	}
	if d := r.register("f2", "z"); d.Proposer == c.Proposer {
		t.Errorf("a pair might be given twice: %+v after %+v", d, c)
	}
	r.refused(RegisterNode{node("f1", 1)}, NotRefused)
	// A node may remove itself.
	if got := r.batch(Envelope{b.Proposer, b.Incarnation, 3, 1, RemoveNode{"f1"}})[0]; got.Refusal != NotRefused {
		t.Errorf("remove: %+v", got)
	}
	if got := send(b, 4); got != mbox.NotProcessed {
		t.Errorf("removed node: %v", got)
	}
	restored(t, r.m)
}

// Nodes that are started again and again lose their own oldest incarnations and lock out nobody.
func TestIncarnationsOfNode(t *testing.T) {
	r := newRig(t)
	first := r.register("f1", "first")
	for i := range maxIncarnations - 1 {
		r.register("f1", fmt.Sprint(i))
	}
	r.refused(RegisterProposer{"f2", "x"}, RefusedFull) // as in version 1
	r.refused(SetClusterVersion{2}, NotRefused)
	last := r.register("f1", "last")
	other := r.register("f2", "other")
	for i := range maxIncarnations {
		last = r.register("f1", fmt.Sprint("again ", i))
	}
	if n := r.m.proposers.rows.Len(); n != maxIncarnationsOfNode+1 {
		t.Errorf("%d incarnations", n)
	}
	if last.Proposer != first.Proposer || last.Incarnation != first.Incarnation+2*maxIncarnations {
		t.Errorf("first %+v, last %+v", first, last)
	}
	send := func(p Result) mbox.Outcome {
		return r.batch(Envelope{p.Proposer, p.Incarnation, 1, 1, MailboxWrite{Write: remove("x", by("1", srvA))}})[0].Outcome
	}
	for _, tt := range []struct {
		p    Result
		want mbox.Outcome
	}{{first, mbox.NotProcessed}, {last, mbox.Done}, {other, mbox.Done}} {
		if got := send(tt.p); got != tt.want {
			t.Errorf("%+v: %v", tt.p, got)
		}
	}
	restored(t, r.m)
}

func TestResultsAreBounded(t *testing.T) {
	r := newRig(t)
	p := r.register("f1", "nonce")
	for i := range uint64(maxResults + 10) {
		r.batch(Envelope{p.Proposer, p.Incarnation, i + 1, 1, MailboxWrite{Write: remove("x", by("1", srvA))}})
	}
	if inc, _ := r.m.proposers.rows.Min(); len(inc.results) != maxResults || inc.lowWater != 11 {
		t.Errorf("%d results, low-water %d", len(inc.results), inc.lowWater)
	}
	restored(t, r.m)
}
