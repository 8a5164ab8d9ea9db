package cluster

import (
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"murder/internal/mbox"
)

// A learner forgets what it has applied, without a snapshot, and follows a new leader all the same.
func TestLearnerForgetsItsLog(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.configure = func(c *Config) { c.SnapshotInterval = time.Hour }
	r.grow(3, 1)
	f := r.nodes["f1"]
	fill := func(from, to int) {
		for i := from; i < to; i++ {
			write(t, f, activate(fmt.Sprint("user.u", i)))
		}
	}
	const entries = 2 * learnerTrailing
	fill(0, entries)
	log := f.engine.Load().stores.log
	first, err := log.FirstIndex()
	last, _ := log.LastIndex()
	if err != nil || last < entries || last-first > learnerTrailing+64 {
		t.Fatalf("the log goes from %d to %d (%v)", first, last, err)
	}
	old := r.waitLeader()
	r.kill(old.cfg.NodeID)
	r.eventually("another leader", func() bool { return r.leader() != nil })
	fill(entries, entries+10)
	if got := f.View().Len(); got != entries+10 {
		t.Errorf("%d mailboxes", got)
	}
	// After a gap that is longer than what it keeps the leader's log serves it, and no snapshot.
	r.isolate("f1")
	var ws []mbox.Write
	l := r.waitLeader()
	for i := range 2 * learnerTrailing {
		ws = append(ws[:0], activate(fmt.Sprint("user.v", i)))
		write(t, l, ws...)
	}
	r.heal()
	r.eventually("the learner has caught up", func() bool { return f.View().Len() == entries+10+2*learnerTrailing })
	if list, err := f.engine.Load().stores.snapshots.List(); err != nil || len(list) > 1 {
		t.Errorf("%d snapshots, %v", len(list), err)
	}
}

func TestRecentLog(t *testing.T) {
	t.Parallel()
	applied := uint64(0)
	l := newRecentLog(func() uint64 { return applied })
	add := func(from, to uint64) (first, last uint64) {
		for i := from; i <= to; i++ {
			if err := l.StoreLog(&raft.Log{Index: i}); err != nil {
				t.Fatal(err)
			}
		}
		first, _ = l.FirstIndex()
		last, _ = l.LastIndex()
		return first, last
	}
	if first, last := add(1, 1000); first != 1 || last != 1000 {
		t.Errorf("nothing is applied, and the log goes from %d to %d", first, last)
	}
	applied = 900
	if first, last := add(1001, 1001); first != 900-learnerTrailing+1 || last != 1001 {
		t.Errorf("the log goes from %d to %d", first, last)
	}
	applied = 5000 // a snapshot has overtaken the log
	if first, last := add(1002, 1002); first != 1002-learnerTrailing+1 || last != 1002 {
		t.Errorf("the log goes from %d to %d", first, last)
	}
}
