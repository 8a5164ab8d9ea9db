package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"murder/fsm"
	"murder/internal/mbox"
)

// A leader that is cut off stops to answer, the others go on, and it catches up when it is back.
func TestPartition(t *testing.T) {
	t.Parallel()
	r := startRig(t, 3, 1)
	old := r.waitLeader()
	write(t, old, activate("user.before"))
	r.isolate(old.cfg.NodeID)
	f1 := r.nodes["f1"]
	write(t, f1, activate("user.during"))
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if _, err := old.Barrier(ctx); !errors.Is(err, mbox.ErrUnavailable) {
		t.Errorf("barrier of the cut-off leader: %v", err)
	}
	if _, ok := old.View().Get("user.during"); ok {
		t.Error("the cut-off leader knows what it cannot know")
	}
	r.heal()
	if _, err := old.Barrier(testContext(t)); err != nil {
		t.Fatal(err)
	}
	mustHave(t, old, "user.during")
	r.equalDigests()
}

// Without a quorum nothing is written, and the error says that nothing happened or that it is unknown.
func TestNoQuorum(t *testing.T) {
	t.Parallel()
	r := startRig(t, 3, 1)
	l := r.waitLeader().cfg.NodeID
	for _, id := range []string{"c1", "c2", "c3"} {
		if id != l {
			r.kill(id)
		}
	}
	f1 := r.nodes["f1"]
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_, err := f1.Write(ctx, []mbox.Write{activate("user.a")})
	if !errors.Is(err, mbox.ErrUnavailable) && !errors.Is(err, mbox.ErrUnknownOutcome) {
		t.Errorf("got %v", err)
	}
	if s := f1.Status(testContext(t)); s.Problem == "" {
		t.Error("status sees no problem")
	}
}

// An answer that got lost is asked for again, and the write has happened once.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	r := startRig(t, 3, 1)
	for _, n := range []*Node{r.nodes["f1"], r.waitLeader()} {
		submit := n.proposer.submit
		var lost int
		var repeats int
		n.proposer.submit = func(ctx context.Context, u *unit) ([]fsm.Result, uint64, error) {
			results, index, err := submit(ctx, u)
			if err == nil && lost < 3 {
				lost++
				return nil, 0, unknownOutcome("answer lost by a test")
			}
			for _, r := range results {
				if r.Repeat {
					repeats++
				}
			}
			return results, index, err
		}
		name := mbox.Name("user.once-" + n.cfg.NodeID)
		reserve := mbox.Write{Kind: mbox.Reserve, Name: name, Location: "b1!default", By: mbox.Session{ID: "s", Servers: []mbox.Server{"b1"}}}
		// Reserved by the first attempt: a second, as another write, would find the name taken.
		vs := write(t, n, reserve)
		if vs[0].Outcome != mbox.Done || lost != 3 || repeats == 0 {
			t.Errorf("%s: outcome %v after %d lost answers and %d repeats", n.cfg.NodeID, vs[0].Outcome, lost, repeats)
		}
		n.proposer.submit = submit
		if h := n.History(name); len(h) != 1 {
			t.Errorf("%s: it happened %d times: %v", n.cfg.NodeID, len(h), h)
		}
	}
}

// A process that the state machine has forgotten registers again and goes on.
func TestForgottenProposer(t *testing.T) {
	t.Parallel()
	r := startRig(t, 1, 0)
	n := r.nodes["c1"]
	write(t, n, activate("user.a"))
	n.proposer.mu.Lock()
	n.proposer.incarnation += 100
	n.proposer.mu.Unlock()
	write(t, n, activate("user.b"))
	mustHave(t, n, "user.b")
}

// Of two units that find the registration gone, the second leaves alone what the first has registered since,
// though the first incarnation of a new proposer has the number of the one before.
func TestForgottenTwice(t *testing.T) {
	t.Parallel()
	p := newProposer("c1")
	p.id, p.incarnation, p.next = 1, 1, 1
	spans := make([]*span, 2)
	for i := range spans {
		var err error
		if spans[i], err = p.begin(testContext(t), 1); err != nil {
			t.Fatal(err)
		}
	}
	p.forget(spans[0])
	p.submit = func(context.Context, *unit) ([]fsm.Result, uint64, error) {
		return []fsm.Result{{Proposer: 2, Incarnation: 1}}, 1, nil
	}
	if err := p.register(testContext(t)); err != nil {
		t.Fatal(err)
	}
	nonce := p.nonce
	p.forget(spans[1])
	if p.id != 2 || p.incarnation != 1 || p.nonce != nonce {
		t.Errorf("the fresh registration is gone: proposer %d, incarnation %d", p.id, p.incarnation)
	}
}

func TestPipelinedWritesKeepOrder(t *testing.T) {
	t.Parallel()
	r := startRig(t, 3, 1)
	stop := make(chan struct{})
	var written atomic.Int64
	var wg sync.WaitGroup
	for _, id := range []string{"f1", "c1", "c2"} {
		n := r.nodes[id]
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				// Each pair takes a name and gives it back: out of order, a verdict would tell.
				s := mbox.Session{ID: "s-" + id, Servers: []mbox.Server{"b1"}}
				var ws []mbox.Write
				for j := range 20 {
					name := mbox.Name(fmt.Sprintf("user.%s-%d", id, j))
					ws = append(ws,
						mbox.Write{Kind: mbox.Reserve, Name: name, Location: "b1!p", By: s},
						mbox.Write{Kind: mbox.Activate, Name: name, Location: "b1!p", ACL: "anyone\tl\t", By: s},
						mbox.Write{Kind: mbox.Delete, Name: name, By: s})
				}
				vs, err := n.Write(testContext(t), ws)
				if err != nil {
					t.Errorf("%s: %v", id, err)
					return
				}
				if k := slices.IndexFunc(vs, func(v mbox.Verdict) bool { return v.Outcome != mbox.Done }); k >= 0 {
					t.Errorf("%s: write %d of round %d: %v", id, k, i, vs[k].Outcome)
					return
				}
				written.Add(1)
			}
		})
	}
	for range 2 { // leaders come and go meanwhile
		l := r.waitLeader()
		if err := l.Transfer(testContext(t), ""); err != nil {
			t.Logf("transfer: %v", err)
		}
		before := written.Load()
		r.eventually("writing goes on", func() bool { return written.Load() >= before+60 })
	}
	close(stop)
	wg.Wait()
	r.equalDigests()
}

// Reads cost no entries of the log while a majority of voters answers.
func TestReadsWriteNothing(t *testing.T) {
	t.Parallel()
	r := startRig(t, 3, 1)
	l, f1 := r.waitLeader(), r.nodes["f1"]
	if _, err := f1.Barrier(testContext(t)); err != nil { // opens the links
		t.Fatal(err)
	}
	before := l.engine.Load().raft.LastIndex()
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			if _, err := f1.Barrier(testContext(t)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	// A round that was not confirmed in time on a busy machine costs an entry.
	if entries := l.engine.Load().raft.LastIndex() - before; entries > 20 {
		t.Errorf("200 reads took %d entries", entries)
	}
}

// Learners cannot confirm a leader. Raft's own VerifyLeader believes them, which is why it is not used: a
// version of the library that no longer does shows here.
func TestLearnersConfirmNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.configure = func(c *Config) { c.Timing = "wan" } // a lease that does not run out before the question
	r.grow(3, 2)
	l := r.waitLeader()
	for _, id := range []string{"c1", "c2", "c3"} {
		if id != l.cfg.NodeID {
			r.isolate(id)
		}
	}
	// Before its lease runs out the leader still thinks that it leads.
	if err := l.engine.Load().raft.VerifyLeader().Error(); err != nil {
		t.Errorf("the library does not count learners any more: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if _, err := l.Barrier(ctx); !errors.Is(err, mbox.ErrUnavailable) {
		t.Errorf("a leader without voters answered a linearizable read: %v", err)
	}
}

// A configuration change is an entry that changes no copy; reads after it must not wait for one that does.
func TestReadAfterConfigurationChange(t *testing.T) {
	t.Parallel()
	r := startRig(t, 3, 1)
	l := r.waitLeader()
	if err := l.engine.Load().raft.AddNonvoter("ghost", "127.0.0.1:1", 0, time.Second).Error(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	for id, n := range r.nodes {
		if _, err := n.Barrier(ctx); err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
}

// With overlapping requests a follower can get stuck for ever after a short store error.
func TestPipeliningIsOff(t *testing.T) {
	t.Parallel()
	r := startRig(t, 1, 0)
	n := r.nodes["c1"]
	_, err := n.engine.Load().trans.AppendEntriesPipeline("c1", raft.ServerAddress(n.Address()))
	if !errors.Is(err, raft.ErrPipelineReplicationNotSupported) {
		t.Errorf("got %v", err)
	}
}

// A node whose log store fails ends, and the others go on.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	r := startRig(t, 3, 0)
	l := r.waitLeader()
	write(t, l, activate("user.a"))
	ended := r.mayEnd(l.cfg.NodeID)
	r.disk(l.cfg.NodeID).fail(syscall.ENOSPC)
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	l.Write(ctx, []mbox.Write{activate("user.b")})
	if code := <-ended; code != ExitStore {
		t.Errorf("exit %d", code)
	}
	r.kill(l.cfg.NodeID) // as the exit would have done
	for _, n := range r.nodes {
		write(t, n, activate("user.c-"+n.cfg.NodeID))
	}
}
