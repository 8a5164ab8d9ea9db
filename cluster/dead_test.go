package cluster

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"murder/fsm"
)

// mortal is a cluster whose nodes are dead soon, if dead ones are removed at all.
func mortal(t *testing.T, cleanup bool, coordinators, learners int) *rig {
	r := newRig(t)
	r.configure = func(c *Config) {
		c.CleanupDeadServers, c.Timing = cleanup, "wan" // under a new leader the time begins anew
		c.hooks.deadCoordinator, c.hooks.deadLearner = 6*time.Second, 4*time.Second
	}
	r.grow(coordinators, learners)
	return r
}

func (r *rig) registered(id string) bool {
	_, ok := r.waitLeader().State().Node(id)
	return ok
}

// A coordinator that stands by takes the place of a voter that is dead, a dead learner goes, and whoever
// comes back later is told.
func TestDeadServersAreReplaced(t *testing.T) {
	t.Parallel()
	r := mortal(t, true, 3, 1)
	ctx := testContext(t)
	spare := r.open(r.config("c4", Coordinator))
	if err := spare.Join(ctx, r.token(Coordinator)); err != nil {
		t.Fatal(err)
	}
	l := r.waitLeader().cfg.NodeID
	victim := r.followers(l)[0].cfg.NodeID
	if victim == "c4" {
		victim = r.followers(l)[1].cfg.NodeID
	}
	r.kill(victim)
	r.kill("f1")
	r.eventually("the dead voter and the dead learner are gone", func() bool { return !r.registered(victim) && !r.registered("f1") })
	r.waitVoters(3)
	if !slices.ContainsFunc(r.followers(l), func(n *Node) bool { return n == spare }) {
		t.Error("the spare one does not follow")
	}
	write(t, spare, activate("user.a"))
	back := r.open(r.cfgs[victim])
	r.eventually("it is told", func() bool { return back.Status(ctx).Problem != "" && back.refusal.Load() != nil })
	r.leaderCounts(3)
}

// leaderCounts waits until the leader counts so many voters: others may not belong any more.
func (r *rig) leaderCounts(want int) {
	r.t.Helper()
	r.eventually(fmt.Sprintf("%d voters", want), func() bool {
		l := r.leader()
		return l != nil && len(votersOf(l.engine.Load().raft)) == want
	})
}

// Without a replacement a dead voter stays, and so does everybody when this is off.
func TestDeadServersStay(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		cleanup bool
		change  func(*reign)
	}{
		{"off", false, func(*reign) {}},
		{"no replacement", true, func(*reign) {}},
		{"drained", true, func(r *reign) {
			rec, _ := r.node.State().Node("c3")
			rec.State = fsm.NodeDraining
			r.node.propose(testContext(t), fsm.RegisterNode{Node: rec})
			r.node.cfg.Voters = 1
		}},
		{"a new leader counts anew", true, func(r *reign) { r.begun = time.Now(); r.node.cfg.Voters = 1 }},
		{"fewer are enough", true, func(r *reign) { r.node.cfg.Voters = 1 }}, // two of two would be alive: none to spare
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := mortal(t, false, 3, 0)
			if r.waitLeader().cfg.NodeID == "c3" {
				if err := r.waitLeader().Transfer(testContext(t), "c1"); err != nil {
					t.Fatal(err)
				}
			}
			l := r.waitLeader()
			r.kill("c3")
			// A leader that has led for long, and has not heard of c3 for long.
			old := &reign{node: l, engine: l.engine.Load(), batcher: l.reign.Load().batcher, kick: make(chan struct{}, 1),
				begun: time.Now().Add(-time.Hour), positions: map[string]position{"c1": {at: time.Now()}, "c2": {at: time.Now()}}}
			l.cfg.CleanupDeadServers = c.cleanup
			c.change(old)
			for range 3 {
				if err := old.cleanUp(testContext(t)); err != nil {
					t.Error(err)
				}
			}
			if _, there := l.State().Node("c3"); !there {
				t.Error("c3 was removed")
			}
			if n := len(votersOf(l.engine.Load().raft)); n != 3 {
				t.Errorf("%d voters", n)
			}
		})
	}
}
