package cluster

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
)

// Raft by itself waits for a silent leader to be given up twice, by the candidate and by who is to vote for
// it, which takes more than a second. That the leader's process has ended can be known at once: its
// connections break, and its machine refuses new ones. Then a voter stands in.
//
// How: it acts on the request that a leader sends who hands over, here from the node to itself. That is an
// election timeout come early, which raft allows at any time: who wins is decided by terms, logs and votes
// on disk as in any other election. No read depends on a lease (confirm.go), so nothing else rests on a
// leader's being left alone. What could be lost by standing in at the wrong moment is a leader that works,
// and some milliseconds with it; these keep it from happening:
//
//   - A majority of the voters must find the leader's port refused and their link to it broken. A voter that
//     alone is cut off, by a fault in one direction or a firewall, stands in for nobody.
//   - A process that was stopped, hangs, or is too busy still has its port open: the kernel takes the
//     connection. So has one that was started again, or another program at the same port. A machine or a
//     network that is gone refuses nothing. All these take raft's own time.
//   - One voter stands in, not all: of those that agree, the one with the longest log, without which it
//     could not win, and of several the first by id. Another does so only when that one did not get there.
//   - A node stands in once in standInPause at most, so that terms cannot run away whatever else is wrong.
//   - Learners and nodes that drain never do.
const (
	standInPause = 5 * time.Second
	standInStep  = 150 * time.Millisecond // for the one before to win its election
	standInTurns = 3
	askGoneLimit = 300 * time.Millisecond
	refusalLimit = 100 * time.Millisecond
	refusalPause = 20 * time.Millisecond // the connections of a process that ends may close before its port
	refusalTries = 4
)

// watchLeaderLink stands in when the link to the leader breaks because the leader's process has ended.
func (n *Node) watchLeaderLink(e *engine) {
	for n.ctx.Err() == nil {
		n.leaderMu.Lock()
		changed := n.leaderChanged
		n.leaderMu.Unlock()
		addr, id := e.raft.LeaderWithID()
		var lost <-chan struct{}
		if leader := string(id); leader != "" && leader != n.cfg.NodeID {
			ctx, cancel := context.WithTimeout(n.ctx, dialBack)
			if l, err := n.links.get(ctx, leader, string(addr)); err == nil {
				lost = l.done
			}
			cancel()
		}
		select {
		case <-lost:
			n.standIn(n.ctx, e, string(id))
		case <-changed:
			continue
		case <-n.ctx.Done():
			return
		case <-time.After(keepUpInterval):
			continue
		}
		select { // who leads next comes to be known, or the link comes back
		case <-changed:
		case <-n.ctx.Done():
		case <-time.After(keepUpInterval):
		}
	}
}

// standIn makes this node a candidate if it is the one to stand in for a leader whose link has broken.
func (n *Node) standIn(ctx context.Context, e *engine, leader string) {
	for range standInTurns {
		term := e.raft.CurrentTerm()
		own, gone := n.leaderGone(ctx, e, leader, term)
		if !gone || own.Draining || e.raft.State() != raft.Follower {
			return
		}
		first, agreed := n.whoStandsIn(ctx, e, leader, term, own)
		switch {
		case !agreed:
			return
		case first == n.cfg.NodeID:
			n.becomeCandidate(e, leader)
			return
		}
		select {
		case <-time.After(standInStep):
		case <-ctx.Done():
			return
		}
	}
}

// goneRequest asks a voter whether it has lost the leader of a term, too.
type goneRequest struct {
	Leader string `json:"leader"`
	Term   uint64 `json:"term"`
}

type goneAnswer struct {
	Gone bool `json:"gone"`
	voterLog
}

// voterLog is how far a voter's log goes, and whether it may stand in at all.
type voterLog struct {
	LastTerm  uint64 `json:"last_term"`
	LastIndex uint64 `json:"last_index"`
	Draining  bool   `json:"draining"`
}

// leaderGone reports whether the process of a leader has ended as far as this node can tell.
func (n *Node) leaderGone(ctx context.Context, e *engine, leader string, term uint64) (voterLog, bool) {
	var addr string
	for _, s := range serversOf(e.raft) {
		if string(s.ID) == leader {
			addr = string(s.Address)
		}
	}
	for range refusalTries {
		if id, known := n.Leader(); known && id != leader || addr == "" || e.raft.CurrentTerm() != term {
			return voterLog{}, false
		}
		if l := n.links.peek(leader); (l == nil || !l.alive()) && n.port.refuses(ctx, addr) {
			return n.voterLog(e), true
		}
		select {
		case <-time.After(refusalPause):
		case <-ctx.Done():
			return voterLog{}, false
		}
	}
	return voterLog{}, false
}

func (n *Node) voterLog(e *engine) voterLog {
	stats := e.raft.Stats() // the only place where the library tells the term
	term, _ := strconv.ParseUint(stats["last_log_term"], 10, 64)
	index, _ := strconv.ParseUint(stats["last_log_index"], 10, 64)
	return voterLog{LastTerm: term, LastIndex: index, Draining: n.draining.Load()}
}

// whoStandsIn asks the other voters, and says which of those that agree shall stand in.
func (n *Node) whoStandsIn(ctx context.Context, e *engine, leader string, term uint64, own voterLog) (first string, agreed bool) {
	ctx, cancel := context.WithTimeout(ctx, askGoneLimit)
	defer cancel()
	voters := votersOf(e.raft)
	logs := map[string]voterLog{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, s := range voters {
		id := string(s.ID)
		switch id {
		case leader:
			continue
		case n.cfg.NodeID:
			mu.Lock()
			logs[id] = own
			mu.Unlock()
			continue
		}
		wg.Go(func() {
			var a goneAnswer
			l, err := n.links.get(ctx, id, string(s.Address))
			if err == nil {
				err = l.call(ctx, "leader-gone", goneRequest{leader, term}, &a)
			}
			if err == nil && a.Gone {
				mu.Lock()
				defer mu.Unlock()
				logs[id] = a.voterLog
			}
		})
	}
	wg.Wait()
	if _, votes := logs[n.cfg.NodeID]; !votes || len(logs) < len(voters)/2+1 {
		return "", false
	}
	return firstToStandIn(logs), true
}

// firstToStandIn is the same for everybody who asks with the same answers.
func firstToStandIn(logs map[string]voterLog) string {
	var best string
	for id, a := range logs {
		b, some := logs[best]
		if !a.Draining && (!some || cmp.Or(cmp.Compare(b.LastTerm, a.LastTerm), cmp.Compare(b.LastIndex, a.LastIndex), cmp.Compare(id, best)) < 0) {
			best = id
		}
	}
	return best
}

// becomeCandidate asks this node's own raft to begin an election now.
func (n *Node) becomeCandidate(e *engine, leader string) {
	votes := slices.ContainsFunc(votersOf(e.raft), func(s raft.Server) bool { return string(s.ID) == n.cfg.NodeID })
	now, last := time.Now().UnixNano(), n.stoodIn.Load()
	if !votes || now-last < int64(standInPause) || !n.stoodIn.CompareAndSwap(last, now) {
		return
	}
	n.log.Info("the leader's process has ended, standing in", "leader", leader)
	n.metrics.standIns.Inc()
	id, addr := raft.ServerID(n.cfg.NodeID), raft.ServerAddress(n.port.advertise)
	req := raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(id), Addr: e.trans.EncodePeer(id, addr)}}
	// Through the port itself: the advertised address may not be reachable from here.
	if err := e.trans.TimeoutNow(id, raft.ServerAddress(n.port.ln.Addr().String()), &req, new(raft.TimeoutNowResponse)); err != nil {
		n.log.Warn("standing in failed", "err", err)
	}
}

// refuses reports whether a machine answers and nobody listens at the port.
func (p *port) refuses(ctx context.Context, addr string) bool {
	ctx, cancel := context.WithTimeout(ctx, refusalLimit)
	defer cancel()
	conn, err := p.dialTCP(ctx, addr)
	if err == nil {
		conn.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}
