package cluster

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"murder/cluster/admin"
	"murder/fsm"
)

// keepMembers makes raft's configuration follow the registry: what is registered takes part, at the
// address that it registered; coordinators that keep up become voters.
func (r *reign) keepMembers(ctx context.Context) {
	t := time.NewTicker(membershipInterval)
	defer t.Stop()
	for {
		if err := r.reconcile(ctx); err != nil && ctx.Err() == nil {
			r.node.log.Warn("membership change failed", "err", err)
		}
		if err := r.finalizeWhenDue(ctx); err != nil && ctx.Err() == nil {
			r.node.log.Warn("raising the cluster version failed", "err", err)
		}
		if err := r.cleanUp(ctx); err != nil && ctx.Err() == nil {
			r.node.log.Warn("replacing a dead node failed", "err", err)
		}
		if r.node.replica.diverged.Load() {
			r.giveUp(errDiverged)
		}
		r.watchVoters(ctx)
		r.meetSilent(ctx)
		if r.node.draining.Load() && len(votersOf(r.engine.raft)) > 1 {
			if err := r.node.transferTo(ctx, ""); err != nil && ctx.Err() == nil {
				r.node.log.Warn("leading although draining", "err", err)
			}
		}
		select {
		case <-t.C:
		case <-r.kick:
		case <-ctx.Done():
			return
		}
	}
}

// reconcile makes at most one change: raft allows one at a time.
func (r *reign) reconcile(ctx context.Context) error {
	f := r.engine.raft.GetConfiguration()
	if err := f.Error(); err != nil {
		return err
	}
	servers := f.Configuration().Servers
	var err error
	done := false
	r.node.State().Nodes(func(rec fsm.Node) bool {
		at := slices.IndexFunc(servers, func(s raft.Server) bool { return string(s.ID) == rec.ID })
		id, addr := raft.ServerID(rec.ID), raft.ServerAddress(rec.Address)
		switch {
		case at < 0:
			r.node.log.Info("adding node", "peer", rec.ID, "address", rec.Address)
			err, done = await(ctx, r.engine.raft.AddNonvoter(id, addr, f.Index(), raftCallLimit)), true
		case servers[at].Address != addr:
			r.node.log.Info("node has a new address", "peer", rec.ID, "address", rec.Address)
			change := r.engine.raft.AddNonvoter
			if servers[at].Suffrage == raft.Voter {
				change = r.engine.raft.AddVoter
			}
			err, done = await(ctx, change(id, addr, f.Index(), raftCallLimit)), true
		}
		return !done
	})
	if !done && err == nil {
		done, err = r.dropUnregistered(ctx, servers)
	}
	if done || err != nil {
		if err == nil {
			r.kickSoon()
		}
		return err
	}
	return r.promote(ctx, f.Index(), servers)
}

// dropUnregistered takes one server out that has been removed from the registry.
func (r *reign) dropUnregistered(ctx context.Context, servers []raft.Server) (bool, error) {
	v := r.node.State()
	if _, ok := v.Node(r.node.cfg.NodeID); !ok {
		return false, nil // a cluster that is just beginning
	}
	for _, s := range servers {
		if _, ok := v.Node(string(s.ID)); !ok {
			r.node.log.Info("removing node", "peer", string(s.ID))
			err := await(ctx, r.engine.raft.RemoveServer(s.ID, 0, raftCallLimit))
			r.node.acks.drop(s.ID)
			return true, err
		}
	}
	return false, nil
}

func (r *reign) kickSoon() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// promote makes voters of coordinators that have kept up for a while. An even number of voters is
// worth no more than one less, so from an odd number two are promoted, one after the other.
func (r *reign) promote(ctx context.Context, index uint64, servers []raft.Server) error {
	voters := 0
	var ready []raft.Server
	for _, s := range servers {
		if s.Suffrage == raft.Voter {
			voters++
		} else if r.ready(string(s.ID)) {
			ready = append(ready, s)
		}
	}
	want := 1
	if voters%2 == 1 {
		want = 2
	}
	if len(ready) < want || voters+want > r.node.cfg.Voters {
		return nil
	}
	s := ready[0]
	r.node.log.Info("node becomes a voter", "peer", string(s.ID), "voters", voters+1)
	err := await(ctx, r.engine.raft.AddVoter(s.ID, s.Address, index, raftCallLimit))
	r.kickSoon()
	return err
}

// ready reports whether a learner may become a voter. One without a log on disk never may: a voter
// that forgets its vote breaks raft.
func (r *reign) ready(id string) bool {
	rec, ok := r.node.State().Node(id)
	return ok && rec.Role == fsm.RoleCoordinator && rec.DurableLog && rec.State != fsm.NodeDraining &&
		rec.Attributes[attrNoVote] == "" && r.keepsUp(id, r.node.cfg.PromoteAfter)
}

// keepsUp reports whether a node is heard of and has been close behind for a while.
func (r *reign) keepsUp(id string, d time.Duration) bool {
	p, ok := r.position(id)
	now := time.Now()
	return ok && !p.diverged && now.Sub(p.at) < 3*beatInterval && !p.caughtUp.IsZero() && now.Sub(p.caughtUp) >= d
}

// Transfer hands leadership to another voter: to, or the one that is furthest if to is empty. It
// returns when this node knows the new leader.
func (n *Node) Transfer(ctx context.Context, to string) error {
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	old, _ := n.Leader()
	if n.reign.Load() != nil {
		return n.transferTo(ctx, to)
	}
	l, err := n.leaderLink(ctx)
	if err != nil {
		return err
	}
	err = l.call(ctx, "transfer", admin.TransferRequest{To: to}, nil)
	if err != nil && classOf(err) != classUnknown {
		return err
	}
	// The answer may have been lost with the link, which is given up when the leader changes.
	return n.waitOtherLeader(ctx, old)
}

func (n *Node) waitOtherLeader(ctx context.Context, old string) error {
	for failures := 0; ; failures++ {
		if id, ok := n.Leader(); ok && id != old {
			return nil
		}
		if err := n.pause(ctx, failures); err != nil {
			return fmt.Errorf("transferring leadership: no new leader was seen: %w", err)
		}
	}
}

// transferTo hands the lead to a voter that answers now. The library cannot give up a transfer to one that
// does not: a second one to it would wedge this leader (hashicorp/raft issue 696).
func (n *Node) transferTo(ctx context.Context, to string) (err error) {
	begun := time.Now()
	defer func() { n.metrics.transfer(begun, err) }()
	e := n.engine.Load()
	target, err := n.successor(ctx, e, to)
	if err != nil {
		return fmt.Errorf("transferring leadership: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, transferLimit)
	defer cancel()
	n.impatient.set(time.Now().Add(transferLimit + 2*n.timing.heartbeat))
	if err := await(ctx, e.raft.LeadershipTransferToServer(target.ID, target.Address)); err != nil {
		n.wg.Go(func() { n.checkWrites(e) })
		return fmt.Errorf("transferring leadership: to %s: %w", target.ID, err)
	}
	return n.waitOtherLeader(ctx, n.cfg.NodeID)
}

const transferLimit = 2 * time.Second

const (
	stuckAfter    = 10 * time.Second
	stuckInterval = 10 * time.Minute // between two transfers for this reason
)

// watchVoters looks for a voter that is alive but gets no entries, which has happened to the library.
// A new leader starts afresh with it.
func (r *reign) watchVoters(ctx context.Context) {
	last := r.engine.raft.LastIndex()
	first, err := r.engine.stores.log.FirstIndex()
	if err != nil {
		return
	}
	for _, s := range votersOf(r.engine.raft) {
		id := string(s.ID)
		p, ok := r.position(id)
		now := time.Now()
		// One that is further back is being sent a snapshot, which takes its time.
		if !ok || now.Sub(p.at) > 3*beatInterval || p.last >= last || p.last+1 < first || now.Sub(p.moved) < stuckAfter {
			continue
		}
		r.node.log.Error("voter is alive but gets no entries", "peer", id, "at", p.last, "last", last, "dur", now.Sub(p.moved))
		if r.node.unstuck.pass(stuckInterval) {
			if err := r.node.transferTo(ctx, ""); err != nil {
				r.node.log.Warn("leadership transfer failed", "err", err)
			}
		}
		return
	}
}

// wedgeLimit is how long a leader may be unable to write after a transfer that failed.
const wedgeLimit = 5 * time.Second

// checkWrites ends the process if a transfer that failed has left the library refusing every write for
// good (hashicorp/raft issue 696): nothing but a restart helps then. It asks the library itself, for the
// leader may be one that has not begun its work, or has given it up.
func (n *Node) checkWrites(e *engine) {
	ctx, cancel := context.WithTimeout(n.ctx, wedgeLimit)
	defer cancel()
	for failures := 0; ; failures++ {
		err := n.cfg.hooks.tryWrite(ctx, e.raft)
		if err == nil || e.raft.State() != raft.Leader || n.ctx.Err() != nil {
			return
		}
		if n.pause(ctx, failures) != nil {
			n.log.Error("no write works since a leadership transfer failed: this node stops", "err", err)
			n.cfg.hooks.exit(ExitStore, "no write works since a leadership transfer failed")
			return
		}
	}
}

// tryWrite writes an entry of the library's own, which changes nothing.
func tryWrite(ctx context.Context, r *raft.Raft) error { return await(ctx, r.Barrier(0)) }

// successor chooses among the other voters, or takes the one that is asked for. The first that answers is
// taken: one that was heard of lately, does not drain, runs the newest version, and is furthest, in this
// order. One whose copy is known to be wrong never is.
func (n *Node) successor(ctx context.Context, e *engine, to string) (raft.Server, error) {
	type candidate struct {
		raft.Server
		rank [4]uint64
	}
	var list []candidate
	r, v := n.reign.Load(), n.State()
	wrong := ""
	for _, s := range votersOf(e.raft) {
		id := string(s.ID)
		if id == n.cfg.NodeID || to != "" && id != to {
			continue
		}
		var p position
		if r != nil {
			p, _ = r.position(id)
		}
		if p.diverged {
			wrong = id
			continue
		}
		rec, _ := v.Node(id)
		list = append(list, candidate{s, [4]uint64{uint64(flag(time.Since(p.at) < 3*beatInterval)),
			uint64(flag(rec.State != fsm.NodeDraining)), uint64(rec.MaxCluster), p.last}})
	}
	slices.SortStableFunc(list, func(a, b candidate) int { return slices.Compare(b.rank[:], a.rank[:]) })
	for _, c := range list {
		if n.answers(ctx, string(c.ID), string(c.Address)) {
			return c.Server, nil
		}
	}
	switch {
	case len(list) > 0:
		return raft.Server{}, notProposed("node %s does not answer", list[0].ID)
	case wrong != "":
		return raft.Server{}, refuse("the copy of node %s differs from that of a majority of the voters, so it must not lead", wrong)
	case to != "":
		return raft.Server{}, refuse("node %s is not another voter: see murderctl cluster status", to)
	}
	return raft.Server{}, refuse("there is no other voter to lead")
}
