package cluster

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"murder/fsm"
)

// Drain takes a node out of service and lets it run: it is no longer ready, the registry says draining,
// and it does not lead. It goes on to vote and to follow. Refused if the cluster could not do without the
// node. Undrain or a restart of the node ends it.
func (n *Node) Drain(ctx context.Context, node string) error {
	return n.changeMember(ctx, memberRequest{Do: "drain", Node: node})
}

// Undrain puts a drained node back into service.
func (n *Node) Undrain(ctx context.Context, node string) error {
	return n.changeMember(ctx, memberRequest{Do: "undrain", Node: node})
}

// Drained reports whether this node is out of service: another one leads, and clients are to go.
func (n *Node) Drained() bool { return n.idle.Load() }

// drain is the leader's part: another node is asked to stand down, or to come back.
func (r *reign) drain(ctx context.Context, rec fsm.Node, do string) error {
	n := r.node
	if rec.ID == n.cfg.NodeID {
		return n.standDownOrBack(ctx, do)
	}
	l, err := n.links.get(ctx, rec.ID, rec.Address)
	if err == nil {
		err = l.call(ctx, do, struct{}{}, nil)
	}
	if err == nil || classOf(err) == classRefused {
		return err
	}
	return notProposed("node %s could not be asked to %s: %v", rec.ID, do, err)
}

func (n *Node) standDownOrBack(ctx context.Context, do string) error {
	free, err := n.takeTurn(ctx)
	if err != nil {
		return notProposed("node %s is still busy with another change of its service", n.cfg.NodeID)
	}
	defer free()
	if do == "drain" {
		// Who asked is cut off when the leader changes; that must not stop the change half-way.
		if err := n.standDown(context.WithoutCancel(ctx)); err != nil {
			return refuse("node %s stays in service: %v: see in murderctl cluster status why no other coordinator can lead, and drain it again", n.cfg.NodeID, err)
		}
		return nil
	}
	n.idle.Store(false)
	n.draining.Store(false)
	return n.announce(ctx, n.engine.Load())
}

// StandDown prepares this node for its end, or for a time without clients: it is no longer ready, hands
// over the lead, and says in the registry that it is draining. If another node cannot lead, the node
// stays as it was. Shutdown does the same, whatever comes of it. Calls wait for each other.
func (n *Node) StandDown(ctx context.Context) error {
	free, err := n.takeTurn(ctx)
	if err != nil {
		return err
	}
	defer free()
	return n.standDown(ctx)
}

// takeTurn lets one at a time take this node out of service or back: of two that fail, neither must leave it as
// the other made it.
func (n *Node) takeTurn(ctx context.Context) (free func(), err error) {
	select {
	case n.standing <- struct{}{}:
		return func() { <-n.standing }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (n *Node) standDown(ctx context.Context) error {
	before := n.draining.Swap(true)
	e := n.engine.Load()
	if e != nil {
		if err := n.handOver(ctx, e); err != nil {
			n.draining.Store(before)
			return err
		}
	}
	n.idle.Store(true)
	if e == nil {
		return nil
	}
	n.sayDraining(ctx)
	return nil
}

// sayDraining notes in the registry that this node drains, if that can be done at once. Otherwise keepUp
// does it.
func (n *Node) sayDraining(ctx context.Context) {
	rec, ok := n.State().Node(n.cfg.NodeID)
	if _, known := n.Leader(); !known || !ok || !n.synced.Load() || rec.State == fsm.NodeDraining {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := n.propose(ctx, fsm.SetNodeState{ID: n.cfg.NodeID, State: fsm.NodeDraining}); err != nil {
		n.log.Info("not noted as draining", "err", err)
	}
}

// handOverLimit is the time of three attempts that take as long as they may.
const handOverLimit = 6 * time.Second

// handOver transfers leadership, in attempts of at most two seconds. It returns nil if this node does not
// lead; if it did, only when another one does.
func (n *Node) handOver(ctx context.Context, e *engine) error {
	ctx, cancel := context.WithTimeout(ctx, handOverLimit)
	defer cancel()
	begun := time.Now()
	for failures := 0; ; failures++ {
		var err error
		switch {
		case e.raft.State() == raft.Leader:
			err = n.transferTo(ctx, "")
		case failures == 0:
			return nil
		default: // its own attempt succeeded late, or it has lost the lead, to another or to nobody
			err = n.waitOtherLeader(ctx, n.cfg.NodeID)
		}
		if err == nil {
			n.log.Info("leadership handed over", "dur", time.Since(begun))
			return nil
		}
		n.log.Warn("leadership transfer failed", "err", err)
		// Another transfer may be under way, which is as good.
		if len(votersOf(e.raft)) < 2 || n.pause(ctx, failures) != nil {
			return fmt.Errorf("nobody else leads: %w", err)
		}
	}
}
