package cluster

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"murder/fsm"
)

// The epoch of a cluster rises when it is recovered from a lost quorum (recover.go). What was left out then
// may still exist, and together be a majority of what it remembers: it could elect a leader, and by raft's
// rules everybody else would have to follow it and forget what was written since. So:
//
//   - A raft connection carries the dialler's epoch in the name of its protocol, and a node takes none of an
//     epoch before its own. A later one it takes over: it has slept through a recovery.
//   - A leader that meets an authenticated node of a later epoch is of those that were left out. It stops.
//
// A node's epoch is what its copy says, or what it has heard of, and survives restarts.

// raftProtocol is the ALPN name for raft connections in an epoch.
func raftProtocol(epoch uint64) string {
	if epoch == 0 {
		return alpnRaft
	}
	return fmt.Sprintf("%s;epoch=%d", alpnRaft, epoch)
}

// raftEpoch reads such a name.
func raftEpoch(protocol string) (epoch uint64, ok bool) {
	rest, ok := strings.CutPrefix(protocol, alpnRaft)
	if !ok || rest == "" {
		return 0, ok
	}
	number, ok := strings.CutPrefix(rest, ";epoch=")
	epoch, err := strconv.ParseUint(number, 10, 64)
	return epoch, ok && err == nil
}

// epochOf is what a copy says.
func epochOf(v *fsm.View) uint64 {
	epoch, _ := strconv.ParseUint(v.Setting(fsm.SettingEpoch), 10, 64)
	return epoch
}

// noteEpoch takes over a later epoch that this node has learnt of from its copy or from a member.
func (n *Node) noteEpoch(epoch uint64, from string) {
	for {
		own := n.port.epoch.Load()
		if epoch <= own {
			return
		}
		if n.reign.Load() != nil && epochOf(n.State()) < epoch {
			n.leftOut(epoch, from)
			return
		}
		if !n.port.epoch.CompareAndSwap(own, epoch) {
			continue
		}
		n.acks.forget() // what was acknowledged may be gone
		n.log.Warn("the cluster was recovered from a lost quorum", "epoch", epoch, "peer", from)
		if e := n.engine.Load(); e != nil {
			n.keepIdentity(e, func(id *identity) { id.Epoch = epoch })
			n.port.sever() // who is of an epoch before does not come back
			e.trans.CloseStreams()
		}
		return
	}
}

// leftOut ends a leader that the rest of the cluster has gone on without.
func (n *Node) leftOut(epoch uint64, by string) {
	reason := fmt.Sprintf("node %s says that the cluster was recovered without this coordinator (epoch %d, here %d): empty the data directory and join this node again", by, epoch, n.port.epoch.Load())
	n.log.Error("this node stops", "err", reason)
	n.cfg.hooks.exit(ExitCorrupt, reason)
}

// meetSilent makes sure that a leader hears of a later epoch: it asks the members that it has not heard of.
func (r *reign) meetSilent(ctx context.Context) {
	r.node.State().Nodes(func(rec fsm.Node) bool {
		if !r.heardLately(rec.ID) {
			r.node.wg.Go(func() {
				ctx, cancel := context.WithTimeout(ctx, dialBack)
				defer cancel()
				r.node.links.get(ctx, rec.ID, rec.Address) // its greeting says it
			})
		}
		return true
	})
}
