package cluster

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"murder/cluster/admin"
	"murder/fsm"
	"murder/internal/mbox"
)

func (r *rig) stateOf(id string) fsm.NodeState {
	for _, n := range r.nodes {
		rec, _ := n.State().Node(id)
		return rec.State
	}
	return 0
}

func TestDrain(t *testing.T) {
	t.Parallel()
	r := startRig(t, 3, 1)
	ctx := testContext(t)
	old := r.waitLeader()
	id := old.cfg.NodeID
	var other *Node
	for _, n := range r.nodes {
		if n != old && n.cfg.Role == Coordinator {
			other = n
		}
	}
	if err := r.nodes["f1"].Drain(ctx, id); !isRefusal(err) {
		t.Errorf("drained by a frontend: %v", err)
	}
	for range 2 { // again does no harm
		if err := other.Drain(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	if l := r.waitLeader(); l == old {
		t.Error("the drained node leads")
	}
	if old.Ready(ctx, admin.ReadyQuery{}).OK {
		t.Error("the drained node is ready")
	}
	r.eventually("the registry says so", func() bool { return r.stateOf(id) == fsm.NodeDraining })
	write(t, old, activate("user.drained")) // it goes on to serve what it has

	// A drained node is the last to be asked to lead, and gives the lead away.
	if err := r.waitLeader().Transfer(ctx, id); err != nil {
		t.Fatal(err)
	}
	r.eventually("the drained node gives the lead away", func() bool { l := r.leader(); return l != nil && l != old })
	r.eventually("another is preferred", func() bool {
		l := r.waitLeader()
		s, err := l.successor(testContext(t), l.engine.Load(), "")
		return l != old && err == nil && string(s.ID) != id
	})
	if err := other.Undrain(ctx, id); err != nil {
		t.Fatal(err)
	}
	r.eventually("back in service", func() bool { return r.stateOf(id) == fsm.NodeActive && old.Ready(ctx, admin.ReadyQuery{}).OK })

	// Without a voter to spare it is refused, and the node stays in service.
	for _, n := range r.nodes {
		if n.cfg.Role == Coordinator && n != r.waitLeader() {
			r.kill(n.cfg.NodeID)
			break
		}
	}
	r.eventually("refused", func() bool {
		l := r.waitLeader()
		err := l.Drain(ctx, l.cfg.NodeID)
		return isRefusal(err) && strings.Contains(err.Error(), "are needed") && l.Ready(ctx, admin.ReadyQuery{}).OK
	})
}

// A leader that cannot hand over stays in service, and says so, to each of two who drain it at once.
func TestDrainWithoutHandOver(t *testing.T) {
	t.Parallel()
	r := startRig(t, 3, 0)
	l := r.waitLeader()
	id := l.cfg.NodeID
	r.net.noHandOver.Store(true)
	ctx, cancel := context.WithTimeout(testContext(t), 3*handOverLimit)
	defer cancel()
	errs := make(chan error, 2)
	for range cap(errs) {
		go func() { errs <- l.Drain(ctx, id) }()
	}
	for range cap(errs) {
		for failed := false; !failed; {
			select {
			case err := <-errs:
				failed = true
				if !isRefusal(err) || !strings.Contains(err.Error(), "node "+id+" stays in service") || !strings.Contains(err.Error(), "murderctl cluster status") {
					t.Errorf("drained: %v", err)
				}
			case <-time.After(drainLook):
			}
			if l.Drained() {
				t.Fatal("its clients are to go")
			}
		}
	}
	if h := l.Ready(ctx, admin.ReadyQuery{Leader: true}); !h.OK {
		t.Errorf("not in service: %+v", h)
	}
	r.eventually("the registry says so", func() bool { return r.stateOf(id) == fsm.NodeActive })
	write(t, l, activate("user.a"))

	r.net.noHandOver.Store(false)
	if err := l.Drain(ctx, id); err != nil {
		t.Fatal(err)
	}
	if !l.Drained() || r.waitLeader() == l {
		t.Error("it has not handed over")
	}
}

const drainLook = 5 * time.Millisecond

// A leader that loses the lead while it hands over, to nobody, is not out of service either.
func TestDrainWithoutMajority(t *testing.T) {
	t.Parallel()
	r := startRig(t, 3, 0)
	l := r.waitLeader()
	r.net.noHandOver.Store(true)
	failed := make(chan error, 1)
	go func() { failed <- l.StandDown(testContext(t)) }()
	r.eventually("it tries", l.draining.Load)
	for id := range r.nodes {
		if id != l.cfg.NodeID {
			r.isolate(id)
		}
	}
	if err := <-failed; err == nil || !strings.Contains(err.Error(), "nobody else leads") {
		t.Errorf("it stood down: %v", err)
	}
	if l.Drained() || l.draining.Load() {
		t.Error("its clients are to go")
	}
	r.net.noHandOver.Store(false)
	r.heal()
	write(t, r.waitLeader(), activate("user.a"))
}

// A restart ends a drain.
func TestDrainEndsWithRestart(t *testing.T) {
	t.Parallel()
	r := startRig(t, 3, 1)
	if err := r.nodes["c1"].Drain(testContext(t), "f1"); err != nil {
		t.Fatal(err)
	}
	r.kill("f1")
	r.open(r.cfgs["f1"])
	r.eventually("back in service", func() bool { return r.stateOf("f1") == fsm.NodeActive })
}

// The sessions of a node that has died are ended early, those of others not.
func TestSessionsOfLostNode(t *testing.T) {
	t.Parallel()
	r := startRig(t, 1, 0)
	n := r.waitLeader()
	for _, session := range []string{"f1-abc-1", "f2-abc-1", "c1-abc-1", "f1-abc"} {
		w := mbox.Write{Kind: mbox.Reserve, Name: mbox.Name("user." + session), Location: "b1!p", By: mbox.Session{ID: session, Servers: []mbox.Server{"b1"}}}
		if vs := write(t, n, w); vs[0].Outcome != mbox.Done {
			t.Fatal(vs)
		}
	}
	ended := func(session string) bool {
		l, ok := n.State().Lease(session)
		return ok && l.Ended
	}
	now := time.Now()
	// A leader since just now has not had the time to hear of anybody.
	young := &reign{node: n, engine: n.engine.Load(), batcher: n.reign.Load().batcher, begun: now}
	if gone := young.goneSessions(n.State()); len(gone) > 0 {
		t.Errorf("given up at once: %v", gone)
	}
	old := &reign{node: n, engine: young.engine, batcher: young.batcher, begun: now.Add(-time.Hour),
		positions: map[string]position{"f1": {at: now.Add(-goneAfter)}, "f2": {at: now}}}
	old.endGone(testContext(t))
	r.eventually("its session is ended", func() bool { return ended("f1-abc-1") })
	for _, session := range []string{"f2-abc-1", "c1-abc-1", "f1-abc"} {
		if ended(session) {
			t.Errorf("session %s is ended", session)
		}
	}
	if gone := old.goneSessions(n.State()); len(gone) > 0 {
		t.Errorf("ended twice: %v", gone)
	}
}

func TestNodeOf(t *testing.T) {
	t.Parallel()
	for session, want := range map[string]string{"c1-9f-3": "c1", "c1-b-9f-3": "c1-b", "restore": "", "a-b": "", "-9f-3": ""} {
		if got := nodeOf(session); got != want {
			t.Errorf("%q: %q", session, got)
		}
	}
}

// A leader on which no write works after a transfer that failed ends itself.
func TestWedgedTransfer(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	code := make(chan int, 1)
	var wedged atomic.Bool
	r.configure = func(c *Config) {
		c.hooks.exit = func(c int, _ string) { code <- c }
		c.hooks.tryWrite = func(ctx context.Context, rf *raft.Raft) error {
			if wedged.Load() {
				return raft.ErrLeadershipTransferInProgress
			}
			return tryWrite(ctx, rf)
		}
	}
	r.grow(1, 0)
	n := r.waitLeader()
	n.checkWrites(n.engine.Load()) // returns: writes work
	if len(code) > 0 {
		t.Fatal("a leader that can write ends itself")
	}
	wedged.Store(true)
	begun := time.Now()
	n.checkWrites(n.engine.Load())
	select {
	case c := <-code:
		if d := time.Since(begun); c != ExitStore || d < wedgeLimit {
			t.Errorf("exit %d after %s", c, d)
		}
	default:
		t.Error("it goes on")
	}
	// One that does not lead any more has nothing to fear.
	e := n.engine.Load()
	r.kill("c1")
	n.checkWrites(e)
	if len(code) > 0 {
		t.Error("a former leader ends itself")
	}
}

// A leader that cannot begin its work hands over as any other does: to a voter that answers, and with a look
// whether writes still work if that fails.
func TestStepDownBesideTheDead(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var broken atomic.Pointer[string]
	r.configure = func(c *Config) {
		id := c.NodeID
		c.hooks.begin = func() error {
			if b := broken.Load(); b != nil && *b == id {
				return errors.New("broken by a test")
			}
			return nil
		}
	}
	r.grow(3, 0)
	old := r.waitLeader()
	var dead, other string
	for id := range r.nodes {
		switch {
		case id == old.cfg.NodeID:
		case dead == "":
			dead = id
		default:
			other = id
		}
	}
	broken.Store(&other)
	r.kill(dead)
	if err := old.Transfer(testContext(t), other); err != nil {
		t.Fatal(err)
	}
	r.eventually("the one that can lead leads", func() bool { return r.leader() == old })
	write(t, old, activate("user.after"))
}

// A voter that lives but gets no entries is helped by another leader, once in a while.
func TestStuckVoter(t *testing.T) {
	t.Parallel()
	r := startRig(t, 3, 0)
	write(t, r.waitLeader(), activate("user.a"))
	look := func(lastHelp time.Time) (n *Node, helped bool) {
		n = r.waitLeader()
		reign := n.reign.Load()
		if reign == nil {
			return n, false
		}
		for id := range r.nodes {
			if id != n.cfg.NodeID {
				reign.pretendStuck(id)
			}
		}
		n.unstuck.set(lastHelp)
		reign.watchVoters(testContext(t))
		return n, !n.unstuck.get().Equal(lastHelp)
	}
	if n, helped := look(time.Now().Add(-stuckInterval / 2)); helped {
		t.Errorf("%s gave the lead away again so soon", n.cfg.NodeID)
	}
	r.eventually("another leads", func() bool {
		n, helped := look(time.Now().Add(-2 * stuckInterval))
		return helped && n.reign.Load() == nil
	})
}

// A leader that tries to hand over to voters that are gone goes on to lead.
func TestTransferToTheDead(t *testing.T) {
	t.Parallel()
	r := startRig(t, 3, 0)
	l := r.waitLeader()
	var dead string
	for id := range r.nodes {
		if id != l.cfg.NodeID {
			dead = id
		}
	}
	r.kill(dead)
	for range 3 {
		if err := l.Transfer(testContext(t), dead); err == nil {
			t.Error("a dead node leads")
		}
	}
	// Even if it dies after it was asked.
	s := raft.Server{}
	for _, v := range votersOf(l.engine.Load().raft) {
		if string(v.ID) == dead {
			s = v
		}
	}
	write(t, l, activate("user.missed"))
	for range 3 {
		l.impatient.set(time.Now().Add(5 * time.Second))
		if err := l.engine.Load().raft.LeadershipTransferToServer(s.ID, s.Address).Error(); err == nil {
			t.Error("a dead node leads")
		}
	}
	write(t, l, activate("user.after"))
}

// pretendStuck makes a voter's last report an old one that has not moved.
func (r *reign) pretendStuck(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	p := r.positions[id]
	p.at, p.moved, p.last = now, now.Add(-stuckAfter-time.Second), 1
	r.positions[id] = p
}
