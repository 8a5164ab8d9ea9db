package cluster

import (
	"net"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// waning is a cluster of three voters and a learner in which raft alone would need several seconds to
// replace a leader.
func waning(t *testing.T) *rig {
	r := newRig(t)
	r.configure = func(c *Config) { c.Timing = "wan" }
	r.grow(3, 1)
	r.linkUp()
	return r
}

// linkUp waits until every voter holds a link to the leader: what breaks it is noticed from then on.
func (r *rig) linkUp() {
	r.t.Helper()
	r.eventually("links to the leader", func() bool {
		l := r.leader()
		for _, n := range r.nodes {
			if l == nil || n != l && n.cfg.Role == Coordinator && (n.links.peek(l.cfg.NodeID) == nil || !n.links.peek(l.cfg.NodeID).alive()) {
				return false
			}
		}
		return true
	})
}

// stoodIn are the nodes that have stood in for a leader.
func (r *rig) stoodIn() []string {
	var ids []string
	for id, n := range r.nodes {
		if !n.stoodIn.get().IsZero() {
			ids = append(ids, id)
		}
	}
	return ids
}

// standInNow lets all nodes look at once, as when their links to a leader have broken, and waits for them.
func (r *rig) standInNow(leader string) {
	done := make(chan struct{})
	looking := 0
	for id, n := range r.nodes {
		if id != leader {
			looking++
			go func() { n.standIn(testContext(r.t), n.engine.Load(), leader); done <- struct{}{} }()
		}
	}
	for range looking {
		<-done
	}
}

func (r *rig) followers(leader string) []*Node {
	var ns []*Node
	for id, n := range r.nodes {
		if n.cfg.Role == Coordinator && id != leader {
			ns = append(ns, n)
		}
	}
	return ns
}

// unmoved asserts that the same node leads in the same term and that nobody has stood in.
func (r *rig) unmoved(old *Node, term uint64) {
	r.t.Helper()
	if l := r.waitLeader(); l != old || l.engine.Load().raft.CurrentTerm() != term {
		r.t.Errorf("%s leads in term %d, not %s in term %d", l.cfg.NodeID, l.engine.Load().raft.CurrentTerm(), old.cfg.NodeID, term)
	}
	if ids := r.stoodIn(); len(ids) > 0 {
		r.t.Errorf("%v stood in", ids)
	}
}

// One voter, and only one, stands in for a leader whose process has ended.
func TestStandIn(t *testing.T) {
	t.Parallel()
	r := waning(t)
	old := r.waitLeader()
	id, term := old.cfg.NodeID, old.engine.Load().raft.CurrentTerm()
	r.kill(id)
	l := r.waitLeader()
	write(t, r.nodes["f1"], activate("user.a"))
	if now := l.engine.Load().raft.CurrentTerm(); now != term+1 {
		t.Errorf("%d elections", now-term)
	}
	if ids := r.stoodIn(); len(ids) != 1 || ids[0] != l.cfg.NodeID {
		t.Errorf("%v stood in, %s leads", ids, l.cfg.NodeID)
	}
	back := r.open(r.cfgs[id])
	r.eventually("the old leader follows", func() bool { leader, ok := back.Leader(); return ok && leader == l.cfg.NodeID })
}

// A leader that lost its connections, or that a majority can reach, is left alone.
func TestStandInLeavesTheLivingAlone(t *testing.T) {
	t.Parallel()
	r := waning(t)
	old := r.waitLeader()
	id, term := old.cfg.NodeID, old.engine.Load().raft.CurrentTerm()

	r.sever()
	r.standInNow(id)
	r.unmoved(old, term)

	// One follower alone is refused, as by a firewall.
	r.forbid(r.followers(id)[0].cfg.NodeID, id)
	r.standInNow(id)
	r.unmoved(old, term)
	r.heal()

	// A network that is gone refuses nothing.
	r.isolate(id)
	r.standInNow(id)
	if ids := r.stoodIn(); len(ids) > 0 {
		t.Errorf("%v stood in for a leader that cannot be reached", ids)
	}
	r.heal()
	write(t, r.nodes["f1"], activate("user.a"))
}

// A port that another program has taken, or the same one started again, says nothing.
func TestStandInNotWithPortTaken(t *testing.T) {
	t.Parallel()
	r := waning(t)
	old := r.waitLeader()
	id, addr := old.cfg.NodeID, old.Address()
	for _, n := range r.followers(id) { // nobody looks before the port is taken
		n.stoodIn.set(time.Now())
	}
	r.kill(id)
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Skipf("the port is gone: %v", err)
	}
	defer ln.Close()
	for _, n := range r.followers(id) {
		n.stoodIn.set(time.Time{})
	}
	r.standInNow(id)
	if ids := r.stoodIn(); len(ids) > 0 {
		t.Errorf("%v stood in", ids)
	}
}

// A node that drains does not stand in, the other does.
func TestStandInNotWhileDraining(t *testing.T) {
	t.Parallel()
	r := waning(t)
	id := r.waitLeader().cfg.NodeID
	first := "c1"
	if id == first {
		first = "c2"
	}
	r.nodes[first].draining.Store(true)
	r.kill(id)
	if l := r.waitLeader().cfg.NodeID; l == first {
		t.Errorf("%s leads although it drains", l)
	}
	if ids := r.stoodIn(); len(ids) != 1 || ids[0] == first {
		t.Errorf("%v stood in", ids)
	}
}

// A majority of the voters must be left to agree.
func TestStandInNotAlone(t *testing.T) {
	t.Parallel()
	r := waning(t)
	id := r.waitLeader().cfg.NodeID
	other := r.followers(id)[0].cfg.NodeID
	r.kill(other)
	r.kill(id)
	last := r.followers("")[0]
	term := last.engine.Load().raft.CurrentTerm()
	r.standInNow(id)
	if now := last.engine.Load().raft.CurrentTerm(); now != term || !last.stoodIn.get().IsZero() {
		t.Errorf("the last voter went from term %d to %d", term, now)
	}
}

// Of two voters one comes before the other, whoever looks: the one with the longer log that may stand in.
func TestWhoStandsIn(t *testing.T) {
	t.Parallel()
	inOrder := []voterLog{{"c3", 4, 10, false}, {"c1", 4, 9, false}, {"c2", 4, 9, false}, {"c4", 3, 99, false}, {"c5", 5, 100, true}, {"c0", 4, 100, true}}
	for i, a := range inOrder {
		for j, b := range inOrder {
			if a.before(b) != (i < j) {
				t.Errorf("%+v before %+v: %v", a, b, a.before(b))
			}
		}
	}
}

// Who has let another stand in does not do so itself, and the other way round.
func TestYield(t *testing.T) {
	t.Parallel()
	now := time.Now()
	var a, b yielding
	if !a.to(now) || a.stand(now) || !a.stand(now.Add(standInStep)) {
		t.Error("one that has yielded stands in")
	}
	if !b.stand(now) || b.to(now) || !b.to(now.Add(standInStep)) {
		t.Error("one that stands in yields")
	}
}

// A voter with the longer log stands in, although another comes first by its id.
func TestStandInWithLongestLog(t *testing.T) {
	t.Parallel()
	r := waning(t)
	old := r.waitLeader()
	id := old.cfg.NodeID
	first, second := "c1", "c2"
	switch id {
	case "c1":
		first, second = "c2", "c3"
	case "c2":
		second = "c3"
	}
	r.separate(id, true, first) // it gets no more entries
	write(t, old, activate("user.missed"))
	r.kill(id)
	r.heal()
	if l := r.waitLeader(); l.cfg.NodeID != second {
		t.Errorf("%s leads", l.cfg.NodeID)
	}
	mustHave(t, r.nodes[second], "user.missed")
	if ids := r.stoodIn(); len(ids) != 1 || ids[0] != second {
		t.Errorf("%v stood in", ids)
	}
}

// However often leaders die, a node stands in once in a while only; raft's own elections do the rest.
func TestStandInIsBounded(t *testing.T) {
	t.Parallel()
	r := waning(t)
	old := r.waitLeader()
	e := old.engine.Load()
	one := r.followers(old.cfg.NodeID)[0]
	term := e.raft.CurrentTerm()
	for range 20 {
		one.becomeCandidate(one.engine.Load(), old.cfg.NodeID)
	}
	r.eventually("the one election", func() bool { l := r.leader(); return l == one })
	if now := one.engine.Load().raft.CurrentTerm(); now != term+1 {
		t.Errorf("%d terms", now-term)
	}
	write(t, r.nodes["f1"], activate("user.a"))
}

// A leader that is started again at once becomes a follower of whoever has been elected meanwhile, and
// nothing is lost.
func TestStandInForRestartedLeader(t *testing.T) {
	t.Parallel()
	r := startRig(t, 3, 1)
	for i := range 3 {
		l := r.waitLeader()
		id, term := l.cfg.NodeID, l.engine.Load().raft.CurrentTerm()
		name := "user.restart-" + id
		write(t, l, activate(name))
		r.kill(id)
		r.open(r.cfgs[id])
		write(t, r.nodes["f1"], activate(name+"-after"))
		now := r.waitLeader()
		mustHave(t, now, name)
		if n := now.engine.Load().raft.CurrentTerm(); n > term+3 {
			t.Errorf("round %d: from term %d to %d", i, term, n)
		}
		r.linkUp()
	}
	r.equalDigests()
}

// A voter that led before has idle connections to processes that have ended since. Its requests for votes do
// not get lost with them, as the library's own would.
func TestVotesOverOldConnections(t *testing.T) {
	t.Parallel()
	r := waning(t)
	old := r.waitLeader()
	write(t, old, activate("user.a"))
	if err := old.Transfer(testContext(t), ""); err != nil {
		t.Fatal(err)
	}
	old.draining.Store(true) // it asks for no votes of its own
	trans := old.engine.Load().trans
	ask := func(n *Node, request func(raft.ServerID, raft.ServerAddress, *raft.RequestPreVoteRequest, *raft.RequestPreVoteResponse) error) error {
		id, addr := raft.ServerID(old.cfg.NodeID), raft.ServerAddress(old.Address())
		return request(raft.ServerID(n.cfg.NodeID), raft.ServerAddress(n.Address()), &raft.RequestPreVoteRequest{
			RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(id), Addr: trans.EncodePeer(id, addr)}, Term: 1}, new(raft.RequestPreVoteResponse))
	}
	others := r.followers(old.cfg.NodeID)
	for i, n := range others {
		if err := ask(n, trans.RequestPreVote); err != nil { // an old connection is used up, or one goes to the pool
			t.Logf("%s: %v", n.cfg.NodeID, err)
		}
		r.kill(n.cfg.NodeID)
		others[i] = r.open(r.cfgs[n.cfg.NodeID])
	}
	if err := ask(others[0], trans.RequestPreVote); err == nil {
		t.Error("there was no old connection, or the library has learnt it")
	}
	if err := ask(others[1], (&patientTransport{trans, old}).RequestPreVote); err != nil {
		t.Error(err)
	}
}
