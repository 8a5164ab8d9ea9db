package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"murder/cluster/admin"
	"murder/internal/mbox"
)

// handleCall answers what another member asks in JSON.
func (n *Node) handleCall(ctx context.Context, peer member, method string, body []byte) (any, error) {
	coordinatorOnly := func() error {
		if peer.Role != Coordinator {
			return refuse("node %s is a %s: only coordinators may ask for %s", peer.Node, peer.Role, method)
		}
		return nil
	}
	if err := n.admit(peer); err != nil {
		return nil, err // removed since it connected
	}
	switch method {
	case "status":
		return n.ownStatus(), nil
	case "record":
		if n.reign.Load() == nil {
			return nil, n.notLeading()
		}
		rec, _ := n.State().Node(peer.Node)
		return rec, nil
	case "leader-gone":
		req, err := decode[goneRequest](body)
		if err == nil {
			err = coordinatorOnly()
		}
		e := n.engine.Load()
		if err != nil || e == nil {
			return nil, err
		}
		return n.mayStandIn(ctx, e, req), nil
	case "lost":
		req, err := decode[lostRequest](body)
		if err == nil {
			err = coordinatorOnly()
		}
		e := n.engine.Load()
		if err == nil && e == nil {
			err = notProposed("node %s is only just starting", n.cfg.NodeID)
		}
		if err != nil {
			return nil, err
		}
		return nil, n.lost(e, peer.Node, req)
	case "digest":
		return n.ownDigest(ctx, body)
	case "authority":
		if err := coordinatorOnly(); err != nil {
			return nil, err
		}
		ca := n.ca.Load()
		if ca == nil {
			return nil, notProposed("node %s has not got the authority's key yet", n.cfg.NodeID)
		}
		key, err := encodeKey(ca.key)
		return authorityAnswer{key}, err
	case "gossip-key":
		key, err := n.readGossipKey()
		if err == nil && key == nil {
			err = notProposed("node %s has no gossip key: its gossip port is not configured", n.cfg.NodeID)
		}
		return gossipKeyAnswer{key}, err
	case "renew":
		req, err := decode[renewRequest](body)
		if err != nil {
			return nil, err
		}
		return n.issueRenewal(peer, req)
	case "join":
		req, err := decode[joinRequest](body)
		if err == nil {
			err = coordinatorOnly()
		}
		if err != nil {
			return nil, err
		}
		r := n.reign.Load()
		if r == nil {
			return nil, n.notLeading() // never passed on twice
		}
		return r.takeIn(ctx, req)
	case "member":
		req, err := decode[memberRequest](body)
		if err == nil {
			err = coordinatorOnly()
		}
		if err != nil {
			return nil, err
		}
		r := n.reign.Load()
		if r == nil {
			return nil, n.notLeading()
		}
		return nil, r.changeMember(ctx, req)
	case "drain", "undrain":
		if err := coordinatorOnly(); err != nil {
			return nil, err
		}
		return nil, n.standDownOrBack(ctx, method)
	case "finalize":
		if err := coordinatorOnly(); err != nil {
			return nil, err
		}
		r := n.reign.Load()
		if r == nil {
			return nil, n.notLeading()
		}
		return r.finalize(ctx)
	case "transfer":
		req, err := decode[admin.TransferRequest](body)
		if err == nil {
			err = coordinatorOnly()
		}
		if err != nil {
			return nil, err
		}
		if n.reign.Load() == nil {
			return nil, n.notLeading()
		}
		return nil, n.transferTo(ctx, req.To)
	}
	if n.cfg.Answers[method] != nil {
		if err := coordinatorOnly(); err != nil {
			return nil, err
		}
	}
	return n.answer(ctx, method, body)
}

// callLeader asks the leader, whoever that is, until a definite answer comes or ctx ends: by method over
// the link, or here while this node leads, which it may come to do meanwhile. The request must be harmless
// when repeated. Who then looks at this node sees what was done.
func (n *Node) callLeader(ctx context.Context, method string, in, out any, here func(*reign) error) error {
	for failures := 0; ; failures++ {
		var err error
		if r := n.reign.Load(); r != nil {
			err = here(r)
		} else {
			var l *link
			if l, err = n.leaderLink(ctx); err == nil {
				err = l.call(ctx, method, in, out)
			}
		}
		if err == nil {
			n.catchUp(ctx)
			return nil
		}
		var f *failure
		if !errors.As(err, &f) || f.class == classRefused {
			return err
		}
		if n.pause(ctx, failures) != nil {
			return fmt.Errorf("%w (%v)", mbox.ErrUnavailable, err)
		}
	}
}

// catchUp lets this node's copy follow, if that is possible soon.
func (n *Node) catchUp(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	n.Barrier(ctx)
}

func decode[T any](body []byte) (v T, err error) {
	if err := json.Unmarshal(body, &v); err != nil {
		return v, refuse("request: %v", err)
	}
	return v, nil
}
