package cluster

import "testing"

// A voter stands in for a leader whose process has ended, and leaves one alone that only lost its link.
func TestStandIn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.configure = func(c *Config) { c.Timing = "wan" }
	r.grow(3, 1)
	old := r.waitLeader()
	id, addr, term := old.cfg.NodeID, old.Address(), old.engine.Load().raft.CurrentTerm()
	for _, n := range r.nodes {
		if n != old {
			n.standIn(n.engine.Load(), id, addr)
		}
	}
	if l := r.waitLeader(); l != old || l.engine.Load().raft.CurrentTerm() != term {
		t.Errorf("%s leads in term %d although %s lives", l.cfg.NodeID, l.engine.Load().raft.CurrentTerm(), id)
	}
	r.kill(id)
	for _, n := range r.nodes { // the learner must not
		n.standIn(n.engine.Load(), id, addr)
	}
	if l := r.waitLeader(); l.cfg.Role != Coordinator {
		t.Errorf("%s leads", l.cfg.NodeID)
	}
	write(t, r.nodes["f1"], activate("user.a"))
}
