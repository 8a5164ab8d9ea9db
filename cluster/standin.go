package cluster

import (
	"cmp"
	"errors"
	"net"
	"slices"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
)

const (
	standInStep  = 150 * time.Millisecond // between two voters that would stand in
	refusalLimit = 200 * time.Millisecond
	refusalPause = 10 * time.Millisecond
	refusalTries = 20
)

// standIn makes this node a candidate at once when the leader's process has ended. Raft by itself waits
// for a silent leader to be given up twice, by the candidate and by who is to vote for it, which takes
// more than a second; a broken connection and a port where nobody listens tell the same at once. A leader
// that hangs, or a machine that is gone, still takes raft's time.
//
// It is the request that a leader sends who hands over, here from this node to itself. An election at the
// wrong moment costs some milliseconds and never more: who may win it is decided as in any other.
func (n *Node) standIn(e *engine, leader, addr string) {
	voters := votersOf(e.raft)
	slices.SortFunc(voters, func(a, b raft.Server) int { return cmp.Compare(a.ID, b.ID) })
	voters = slices.DeleteFunc(voters, func(s raft.Server) bool { return string(s.ID) == leader })
	rank := slices.IndexFunc(voters, func(s raft.Server) bool { return string(s.ID) == n.cfg.NodeID })
	if rank < 0 || n.draining.Load() {
		return
	}
	term := e.raft.CurrentTerm()
	wait := time.Duration(rank) * standInStep // one at a time, or they would share the votes
	for range refusalTries {
		select {
		case <-time.After(wait):
		case <-n.ctx.Done():
			return
		}
		id, _ := n.Leader()
		if id != leader || e.raft.State() != raft.Follower || e.raft.CurrentTerm() != term {
			return
		}
		if refuses(addr) {
			n.becomeCandidate(e, voters[rank], leader)
			return
		}
		wait = refusalPause // the connections of a process that ends may close before its port
	}
}

func (n *Node) becomeCandidate(e *engine, own raft.Server, leader string) {
	n.log.Info("the leader's process has ended, standing in", "leader", leader)
	req := raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax,
		ID: []byte(own.ID), Addr: e.trans.EncodePeer(own.ID, own.Address)}}
	if err := e.trans.TimeoutNow(own.ID, own.Address, &req, new(raft.TimeoutNowResponse)); err != nil {
		n.log.Warn("standing in failed", "err", err)
	}
}

// refuses reports whether a machine answers and nobody listens at the port.
func refuses(addr string) bool {
	conn, err := net.DialTimeout("tcp", addr, refusalLimit)
	if err == nil {
		conn.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}
