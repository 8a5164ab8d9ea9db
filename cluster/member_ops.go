package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"

	"github.com/hashicorp/raft"

	"murder/fsm"
)

// attrNoVote in a node's record keeps a demoted coordinator from being promoted again.
const attrNoVote = "no-vote"

// memberRequest is an operator's change of one member, carried out by the leader.
type memberRequest struct {
	Do      string `json:"do"` // promote, demote, remove, address, drain, undrain
	Node    string `json:"node"`
	Address string `json:"address,omitempty"`
	Force   bool   `json:"force,omitempty"` // promote: to an even number of voters
}

// Promote makes a voter of a coordinator that has caught up. Without force it does not make the number of voters
// even.
func (n *Node) Promote(ctx context.Context, node string, force bool) error {
	return n.changeMember(ctx, memberRequest{Do: "promote", Node: node, Force: force})
}

// Demote makes a learner of a voter, until it is promoted by hand.
func (n *Node) Demote(ctx context.Context, node string) error {
	return n.changeMember(ctx, memberRequest{Do: "demote", Node: node})
}

// Remove takes a node out of the cluster for good: its certificate is worth nothing from then on.
func (n *Node) Remove(ctx context.Context, node string) error {
	return n.changeMember(ctx, memberRequest{Do: "remove", Node: node})
}

// SetAddress tells the cluster where a node is. A node that runs does so itself.
func (n *Node) SetAddress(ctx context.Context, node, address string) error {
	return n.changeMember(ctx, memberRequest{Do: "address", Node: node, Address: address})
}

func (n *Node) changeMember(ctx context.Context, req memberRequest) error {
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	return n.callLeader(ctx, "member", req, nil, func(r *reign) error { return r.changeMember(ctx, req) })
}

func (r *reign) changeMember(ctx context.Context, req memberRequest) error {
	n := r.node
	rec, ok := n.State().Node(req.Node)
	if !ok {
		return refuse("node %s is not a member: see murderctl cluster status", req.Node)
	}
	var voter bool
	voters := votersOf(r.engine.raft)
	for _, s := range voters {
		voter = voter || string(s.ID) == req.Node
	}
	leads := req.Node == n.cfg.NodeID
	switch req.Do {
	case "promote":
		switch {
		case voter:
			return nil
		case rec.Role != fsm.RoleCoordinator || !rec.DurableLog:
			return refuse("node %s is a %s without a log on disk: only coordinators can vote", req.Node, rec.Role)
		case len(voters)%2 == 1 && !req.Force:
			return refuse("with node %s there would be %d voters, and an even number can lose no more of them than one less: promote two, the first with --force", req.Node, len(voters)+1)
		case !r.keepsUp(req.Node, 0):
			return refuse("node %s has not caught up: wait until murderctl cluster status shows no lag", req.Node)
		}
		if err := r.setAttribute(ctx, rec, attrNoVote, ""); err != nil {
			return err
		}
		return r.change(ctx, func() raft.Future {
			return r.engine.raft.AddVoter(raft.ServerID(req.Node), raft.ServerAddress(rec.Address), 0, raftCallLimit)
		})
	case "demote", "remove":
		if leads {
			return refuse("node %s leads: move the leader first with murderctl cluster transfer", req.Node)
		}
		if voter {
			if err := r.spare(ctx, req.Node); err != nil {
				return err
			}
		}
		if req.Do == "remove" {
			return r.remove(ctx, req.Node)
		}
		if err := r.setAttribute(ctx, rec, attrNoVote, "1"); err != nil || !voter {
			return err
		}
		return r.change(ctx, func() raft.Future {
			return r.engine.raft.DemoteVoter(raft.ServerID(req.Node), 0, raftCallLimit)
		})
	case "drain", "undrain":
		if req.Do == "drain" && voter {
			if err := r.spare(ctx, req.Node); err != nil {
				return err
			}
		}
		return r.drain(ctx, rec, req.Do)
	case "address":
		host, _, err := net.SplitHostPort(req.Address)
		if ip := net.ParseIP(host); err != nil || host == "" || ip != nil && ip.IsUnspecified() {
			return refuse("address %q: want a host and a port that other nodes can dial", req.Address)
		}
		rec.Address = req.Address
		if err := r.replaceRecord(ctx, rec); err != nil {
			return err
		}
		r.kickSoon()
		return nil
	}
	return refuse("unknown change %q of a member", req.Do)
}

// setAttribute changes one attribute. Before cluster version 2 that takes the whole record.
func (r *reign) setAttribute(ctx context.Context, rec fsm.Node, key, value string) error {
	one := fsm.SetNodeAttribute{ID: rec.ID, Key: key, Value: value}
	if r.node.State().Enabled(one) {
		return r.node.propose(ctx, one)
	}
	return r.replaceRecord(ctx, withAttribute(rec, key, value))
}

// replaceRecord registers a record that was read and changed. If it is not what it was any more, nothing happens
// and the operation is to be tried again.
func (r *reign) replaceRecord(ctx context.Context, rec fsm.Node) error {
	err := r.node.propose(ctx, fsm.RegisterNode{Node: rec})
	var refused *RefusedError
	if errors.As(err, &refused) && refused.Refusal == fsm.RefusedChanged {
		return notProposed("the record of node %s was changed meanwhile", rec.ID)
	}
	return err
}

func withAttribute(rec fsm.Node, key, value string) fsm.Node {
	attrs := maps.Clone(rec.Attributes)
	if attrs == nil {
		attrs = make(map[string]string)
	}
	if value == "" {
		delete(attrs, key)
	} else {
		attrs[key] = value
	}
	rec.Attributes = attrs
	return rec
}

func (r *reign) change(ctx context.Context, f func() raft.Future) error {
	if err := await(ctx, f()); err != nil {
		return fmt.Errorf("changing the voters: %w", err)
	}
	return nil
}

// remove takes a node out of the registry; that raft's configuration follows is keepMembers' work,
// which a new leader takes up if this one is lost.
func (r *reign) remove(ctx context.Context, node string) error {
	if err := r.node.propose(ctx, fsm.RemoveNode{ID: node}); err != nil {
		return err
	}
	for failures := 0; ; failures++ {
		gone := true
		for _, s := range serversOf(r.engine.raft) {
			gone = gone && string(s.ID) != node
		}
		if gone {
			return nil
		}
		r.kickSoon()
		if err := r.node.pause(ctx, failures); err != nil {
			return fmt.Errorf("node %s is no longer registered, but still counted among the servers: %w", node, err)
		}
	}
}

// spare checks that the voters that are alive are enough without one of them. They are asked: what was
// heard of them may be seconds old, and a leader that has only just begun has heard nothing.
func (r *reign) spare(ctx context.Context, node string) error {
	alive, voters := 0, 0
	for _, s := range votersOf(r.engine.raft) {
		id := string(s.ID)
		if id == node {
			continue
		}
		voters++
		if r.node.answers(ctx, id, string(s.Address)) {
			alive++
		}
	}
	if need := voters/2 + 1; alive < need {
		return refuse("without node %s only %d of %d voters would be alive and %d are needed: start the others first", node, alive, voters, need)
	}
	return nil
}
