package cluster

import (
	"errors"
	"fmt"
	"maps"
	"sync"
	"testing"

	"github.com/hashicorp/raft"
)

// tellRig is a teller in term 5 whose log has reached commit, and whose messages a test sees.
type tellRig struct {
	*teller
	sends chan tale
	wg    sync.WaitGroup
}

type tale struct {
	to                     raft.ServerID
	term, index, indexTerm uint64
	answer                 chan<- error // errRefusedTale for a refusal
}

var errRefusedTale = errors.New("refused")

func newTellRig(t *testing.T, commit uint64) *tellRig {
	r := &tellRig{sends: make(chan tale, 10)}
	r.teller = &teller{
		commit: func() uint64 { return commit },
		termOf: func(index uint64) (uint64, error) { return index / 10, nil },
		send: func(to raft.Server, term, index, indexTerm uint64) (bool, error) {
			answer := make(chan error, 1)
			r.sends <- tale{to.ID, term, index, indexTerm, answer}
			err := <-answer
			if errors.Is(err, errRefusedTale) {
				return false, nil
			}
			return err == nil, err
		},
		spawn: r.wg.Go, told: func() {}, hearers: make(map[raft.ServerID]*hearer),
	}
	r.begin(5)
	t.Cleanup(func() {
		r.end()
		r.wg.Wait()
	})
	return r
}

// replicated is what the teller sees of a request of the library's: it was sent, and answered.
func (r *tellRig) replicated(to raft.ServerID, last, commit uint64) {
	r.inFlight(to, last, commit)(true, nil)
}

func (r *tellRig) inFlight(to raft.ServerID, last, commit uint64) func(accepted bool, err error) {
	req := &raft.AppendEntriesRequest{Term: 5, PrevLogEntry: last - 1, Entries: []*raft.Log{{Index: last}}, LeaderCommitIndex: commit}
	r.sending(raft.Server{ID: to}, req)
	return func(accepted bool, err error) { r.sent(to, req, accepted, err) }
}

func (r *tellRig) silent(t *testing.T, why string) {
	t.Helper()
	r.wg.Wait()
	select {
	case m := <-r.sends:
		t.Errorf("%s: %s was told of %d", why, m.to, m.index)
	default:
	}
}

// A node that waits is told at once, with the index and the term of an entry that it holds.
func TestTellNow(t *testing.T) {
	t.Parallel()
	r := newTellRig(t, 57)
	r.replicated("a", 57, 56)
	r.now("a", 57)
	m := <-r.sends
	if m.to != "a" || m.term != 5 || m.index != 57 || m.indexTerm != 5 {
		t.Errorf("sent %+v", m)
	}
	m.answer <- nil
	r.wg.Wait()
	r.now("a", 57)
	r.silent(t, "told already")
}

// The entry may be another leader's: then the message says so, and fits no log that has ours there.
func TestTellTermOfEntry(t *testing.T) {
	t.Parallel()
	r := newTellRig(t, 63)
	r.replicated("a", 63, 50)
	r.now("a", 61)
	m := <-r.sends
	if m.term != 5 || m.index != 63 || m.indexTerm != 6 {
		t.Errorf("sent %+v", m)
	}
	m.answer <- errRefusedTale
	r.wg.Wait()
	r.now("a", 63)
	r.silent(t, "it has refused, so what it holds is not known")
}

// A node that does not hold the entry yet is told when it does; one that a request under way tells is not.
func TestTellWhenHeld(t *testing.T) {
	t.Parallel()
	r := newTellRig(t, 57)
	r.now("a", 57)
	r.silent(t, "nothing is known about it")
	answered := r.inFlight("a", 57, 56)
	r.now("a", 57)
	r.silent(t, "it does not hold the entry")
	answered(true, nil)
	m := <-r.sends
	m.answer <- errors.New("connection lost")
	r.wg.Wait()
	r.silent(t, "it is out of reach")

	answered = r.inFlight("a", 58, 57)
	r.now("a", 57)
	r.silent(t, "the request under way tells it")
	answered(true, nil)
	r.silent(t, "that request has told it")

	answered = r.inFlight("a", 59, 57)
	answered(false, nil)
	r.now("a", 57)
	r.silent(t, "it has lost its log")
}

// One message at a time goes to a node, and tells the newest.
func TestTellCoalesces(t *testing.T) {
	t.Parallel()
	r := newTellRig(t, 57)
	r.replicated("a", 57, 10)
	r.now("a", 51)
	m := <-r.sends
	for i := uint64(52); i <= 57; i++ {
		r.now("a", i)
	}
	m.answer <- nil
	r.silent(t, "it was told of everything")
	if m.index != 57 {
		t.Errorf("told of %d", m.index)
	}
}

// All are told soon, but for those whom entries have told.
func TestTellSoon(t *testing.T) {
	t.Parallel()
	r := newTellRig(t, 57)
	for _, id := range []raft.ServerID{"a", "b", "c"} {
		r.replicated(id, 56, 50)
	}
	r.replicated("b", 57, 56)
	r.soon(56)
	told := map[raft.ServerID]uint64{}
	for range 2 {
		m := <-r.sends
		told[m.to] = m.index
		m.answer <- nil
	}
	if want := (map[raft.ServerID]uint64{"a": 56, "c": 56}); !maps.Equal(told, want) {
		t.Errorf("told %v, want %v", told, want)
	}
	r.silent(t, "all know")
}

// What came of another term counts for nothing, and nobody is told after the reign.
func TestTellInOneTermOnly(t *testing.T) {
	t.Parallel()
	r := newTellRig(t, 57)
	r.replicated("a", 57, 10)
	old := &raft.AppendEntriesRequest{Term: 4, PrevLogEntry: 90}
	r.sending(raft.Server{ID: "a"}, old)
	r.sent("a", old, true, nil)
	if h := r.hearers["a"]; h.match != 57 {
		t.Errorf("it is taken to hold %d entries", h.match)
	}
	r.end()
	r.now("a", 57)
	r.silent(t, "the reign is over")
	r.begin(6)
	r.now("a", 57)
	r.silent(t, "in this term nothing is known yet")
}

// A write costs one entry, whichever node it comes through, and is soon in every copy.
func TestCommitsCostNoEntries(t *testing.T) {
	t.Parallel()
	r := startRig(t, 3, 1)
	l := r.waitLeader()
	for _, n := range r.nodes { // registers each as a writer
		write(t, n, activate("user.first-"+n.cfg.NodeID))
	}
	before := l.engine.Load().raft.LastIndex()
	writes := 0
	for i := range 20 {
		for id, n := range r.nodes {
			vs := write(t, n, activate(fmt.Sprintf("user.%s.%d", id, i)))
			writes++
			for _, each := range r.nodes {
				if err := each.replica.wait(testContext(t), vs[0].Index); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	// Joins and promotions are over; a tick or a word of a node to the registry may come between.
	if entries := int(l.engine.Load().raft.LastIndex() - before); entries < writes || entries > writes+10 {
		t.Errorf("%d writes made %d entries", writes, entries)
	}
}

// Nodes that nobody knows to wait are told of commits, and do not have to wait for the library's commit timeout.
func TestFollowersHearSoon(t *testing.T) {
	t.Parallel()
	r := startRig(t, 3, 1)
	l := r.waitLeader()
	const writes = 30
	before := counted(t, l.metrics.told)
	for i := range writes {
		vs := write(t, l, activate(fmt.Sprint("user.d", i)))
		for _, n := range r.nodes { // so that the next entry tells nobody of this one
			if err := n.replica.wait(testContext(t), vs[0].Index); err != nil {
				t.Fatal(err)
			}
		}
	}
	// On a busy machine the timeout may come first now and then.
	if n, others := counted(t, l.metrics.told)-before, len(r.nodes)-1; n < float64(writes*others)/2 {
		t.Errorf("%v messages about %d writes to %d nodes", n, writes, others)
	}
}

// What a former leader says late harms nobody: those in a later term refuse it, whatever it says.
func TestFormerLeaderTellsNothing(t *testing.T) {
	t.Parallel()
	r := startRig(t, 3, 0)
	old := r.waitLeader()
	term := old.reign.Load().term
	write(t, old, activate("user.a"))
	l := r.moveLead()
	write(t, l, activate("user.b"))
	for _, n := range r.nodes {
		if n == old {
			continue
		}
		to := raft.Server{ID: raft.ServerID(n.cfg.NodeID), Address: raft.ServerAddress(n.Address())}
		last := n.engine.Load().raft.LastIndex()
		accepted, err := old.sendCommit(to, term, last, term)
		if err != nil || accepted {
			t.Errorf("%s: accepted %v, %v", n.cfg.NodeID, accepted, err)
		}
	}
	// Nor does the leader itself get through with an entry that the receiver does not hold, or holds of
	// another term.
	to := raft.Server{ID: raft.ServerID(old.cfg.NodeID), Address: raft.ServerAddress(old.Address())}
	e := l.engine.Load().raft
	for _, entry := range [][2]uint64{{e.LastIndex() + 5, e.CurrentTerm()}, {e.LastIndex(), term}} {
		if accepted, err := l.sendCommit(to, e.CurrentTerm(), entry[0], entry[1]); err != nil || accepted {
			t.Errorf("entry %v: accepted %v, %v", entry, accepted, err)
		}
	}
	r.equalDigests()
}
