package cluster

import (
	"context"
	"time"

	"github.com/hashicorp/raft"

	"murder/fsm"
)

// A node that is gone stays a member until an operator removes it, unless Config.CleanupDeadServers says
// otherwise: a cluster that shrinks by itself, because a switch was down for a while, is worth less than one
// that waits. What is wanted there is replacement, so
//
//   - a coordinator must have been silent for a day, a learner for an hour, in which one node led all the
//     time: each leader counts from its own beginning;
//   - a voter goes only when as many voters as are configured are alive without it, and more than are needed
//     then. If a coordinator stands by and keeps up, it is made a voter first;
//   - nobody goes who drains: somebody is at work there;
//   - one goes at a time, and none while any voter but those has fallen silent lately.
const (
	deadCoordinator = 24 * time.Hour
	deadLearner     = time.Hour
)

// cleanUp removes at most one dead node, or makes a voter of its replacement.
func (r *reign) cleanUp(ctx context.Context) error {
	n := r.node
	if !n.cfg.CleanupDeadServers {
		return nil
	}
	voters := map[string]bool{}
	alive, dead := 0, 0
	for _, s := range votersOf(r.engine.raft) {
		id := string(s.ID)
		voters[id] = true
		switch rec, _ := n.State().Node(id); {
		case r.heardLately(id):
			alive++
		case r.isDead(rec):
			dead++
		}
	}
	if alive+dead < len(voters) {
		return nil // another is silent, but not for long: it may be the network
	}
	var victim string
	replace := false
	n.State().Nodes(func(rec fsm.Node) bool {
		switch {
		case !r.isDead(rec):
		case !voters[rec.ID]:
			victim = rec.ID
		case alive >= n.cfg.Voters && alive > (len(voters)-1)/2+1:
			victim = rec.ID
		default:
			replace = true
		}
		return victim == ""
	})
	switch {
	case victim != "":
		n.log.Warn("node has been silent for too long and is removed", "peer", victim, "dur", r.silence(victim).Round(time.Second))
		r.kickSoon() // raft's configuration follows the registry
		return n.propose(ctx, fsm.RemoveNode{ID: victim})
	case replace:
		return r.replaceDead(ctx)
	}
	return nil
}

// replaceDead makes a voter of a coordinator that stands by.
func (r *reign) replaceDead(ctx context.Context) error {
	for _, s := range serversOf(r.engine.raft) {
		if s.Suffrage == raft.Voter || !r.ready(string(s.ID)) {
			continue
		}
		r.node.log.Warn("node becomes a voter in place of one that is dead", "peer", string(s.ID))
		return await(ctx, r.engine.raft.AddVoter(s.ID, s.Address, 0, raftCallLimit))
	}
	return nil
}

func (r *reign) isDead(rec fsm.Node) bool {
	limit := r.node.cfg.hooks.deadLearner
	if rec.Role == fsm.RoleCoordinator {
		limit = r.node.cfg.hooks.deadCoordinator
	}
	return rec.ID != "" && rec.ID != r.node.cfg.NodeID && rec.State != fsm.NodeDraining && r.silence(rec.ID) >= limit
}

// silence is how long a node has not been heard of under this leader.
func (r *reign) silence(node string) time.Duration {
	heard := r.begun
	if p, ok := r.position(node); ok && p.at.After(heard) {
		heard = p.at
	}
	return time.Since(heard)
}
