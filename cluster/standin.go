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
//   - One voter stands in, not all: the others that agree yield to it, and do not stand in for a while. A voter
//     yields only to one whose log is as long as its own, for no other could win, and of two with equal logs to
//     the one that comes first by its id.
//   - A node stands in once in standInPause at most, so that terms cannot run away whatever else is wrong.
//   - Learners, nodes that drain, and those whose copy is known to be wrong never do.
const (
	standInPause = 2 * time.Second
	standInStep  = 150 * time.Millisecond // for the one before to win its election
	standInTurns = 3
	askGoneLimit = 300 * time.Millisecond
	refusalLimit = 100 * time.Millisecond
	refusalPause = 20 * time.Millisecond // the connections of a process that ends may close before its port
	refusalTries = 4
)

// watchLeaderLink stands in when the link to the leader breaks, or cannot be made, because the leader's process
// has ended.
func (n *Node) watchLeaderLink(e *engine) {
	for n.ctx.Err() == nil {
		n.leaderMu.Lock()
		changed := n.leaderChanged
		n.leaderMu.Unlock()
		leader, addr := e.feed.leader()
		if leader != "" && leader != n.cfg.NodeID {
			ctx, cancel := context.WithTimeout(n.ctx, dialBack)
			l, err := n.links.get(ctx, leader, addr)
			cancel()
			if err == nil {
				select {
				case <-l.done:
				case <-changed:
					continue
				case <-n.ctx.Done():
					return
				}
			}
			n.standIn(n.ctx, e, leader)
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
		own, gone := n.leaderGone(ctx, e, leader)
		if !gone || own.Unfit || e.raft.State() != raft.Follower {
			return
		}
		if e.raft.CurrentTerm() == term && n.othersYield(ctx, e, goneRequest{leader, term, own}) && n.yield.stand(time.Now()) {
			n.becomeCandidate(e, leader)
			return
		}
		select { // for the one that comes before to win its election
		case <-time.After(standInStep):
		case <-ctx.Done():
			return
		}
	}
}

// goneRequest asks a voter whether it has lost the leader of a term too, and lets another stand in.
type goneRequest struct {
	Leader string   `json:"leader"`
	Term   uint64   `json:"term"`
	Log    voterLog `json:"log"`
}

type goneAnswer struct {
	Yields bool `json:"yields"`
}

// voterLog is how far a voter's log goes, and whether it shall not stand in: it drains, its copy is wrong, or it
// has done so lately.
type voterLog struct {
	Node      string `json:"node"`
	LastTerm  uint64 `json:"last_term"`
	LastIndex uint64 `json:"last_index"`
	Unfit     bool   `json:"unfit"`
}

// before reports whether a voter shall rather stand in than another. Of two, one comes before the other.
func (l voterLog) before(o voterLog) bool {
	if l.Unfit != o.Unfit {
		return o.Unfit
	}
	return cmp.Or(cmp.Compare(o.LastTerm, l.LastTerm), cmp.Compare(o.LastIndex, l.LastIndex), cmp.Compare(l.Node, o.Node)) < 0
}

// yielding keeps a voter from standing in and letting another do so at the same time.
type yielding struct {
	mu                sync.Mutex
	yielded, standing time.Time
}

// to lets another stand in, unless this node does so itself.
func (y *yielding) to(now time.Time) bool {
	y.mu.Lock()
	defer y.mu.Unlock()
	if now.Sub(y.standing) < standInStep {
		return false
	}
	y.yielded = now
	return true
}

// stand lets this node stand in, unless it has just let another.
func (y *yielding) stand(now time.Time) bool {
	y.mu.Lock()
	defer y.mu.Unlock()
	if now.Sub(y.yielded) < standInStep {
		return false
	}
	y.standing = now
	return true
}

// leaderGone reports whether the process of a leader has ended as far as this node can tell, and how far this
// node's own log goes.
func (n *Node) leaderGone(ctx context.Context, e *engine, leader string) (voterLog, bool) {
	var addr string
	for _, s := range serversOf(e.raft) {
		if string(s.ID) == leader {
			addr = string(s.Address)
		}
	}
	for range refusalTries {
		if id, known := n.Leader(); known && id != leader || addr == "" {
			return voterLog{}, false
		}
		if l := n.links.peek(leader); (l == nil || !l.alive()) && n.port.refuses(ctx, addr) {
			return n.voterLog(ctx, e), true
		}
		select {
		case <-time.After(refusalPause):
		case <-ctx.Done():
			return voterLog{}, false
		}
	}
	return voterLog{}, false
}

func (n *Node) voterLog(ctx context.Context, e *engine) voterLog {
	// What the leader sent last may be on its way to the disk. The library answers this question, of which only
	// the time of the answer is of interest, when it has done with that; not at all if it stops just then.
	ctx, cancel := context.WithTimeout(ctx, askGoneLimit)
	defer cancel()
	for range 2 {
		await(ctx, e.raft.VerifyLeader())
	}
	busy := ctx.Err() != nil
	stats := e.raft.Stats() // the only place where the library tells the term
	term, _ := strconv.ParseUint(stats["last_log_term"], 10, 64)
	index, _ := strconv.ParseUint(stats["last_log_index"], 10, 64)
	return voterLog{Node: n.cfg.NodeID, LastTerm: term, LastIndex: index, Unfit: busy || n.draining.Load() || n.replica.diverged.Load() || time.Since(n.stoodIn.get()) < standInPause}
}

// mayStandIn answers another voter's request.
func (n *Node) mayStandIn(ctx context.Context, e *engine, req goneRequest) goneAnswer {
	own, gone := n.leaderGone(ctx, e, req.Leader)
	return goneAnswer{gone && e.raft.CurrentTerm() == req.Term && req.Log.before(own) && n.yield.to(time.Now())}
}

// othersYield reports whether a majority of the voters, this node among them, lets it stand in.
func (n *Node) othersYield(ctx context.Context, e *engine, req goneRequest) bool {
	ctx, cancel := context.WithTimeout(ctx, askGoneLimit)
	defer cancel()
	voters := votersOf(e.raft)
	answers := make(chan bool, len(voters))
	votes := false
	for _, s := range voters {
		id := string(s.ID)
		switch id {
		case req.Leader:
			answers <- false
			continue
		case n.cfg.NodeID:
			votes = true
			answers <- true
			continue
		}
		n.wg.Go(func() {
			var a goneAnswer
			l, err := n.links.get(ctx, id, string(s.Address))
			if err == nil {
				err = l.call(ctx, "leader-gone", req, &a)
			}
			answers <- err == nil && a.Yields
		})
	}
	need := len(voters)/2 + 1
	for range voters {
		if <-answers {
			if need--; need == 0 {
				return votes
			}
		}
	}
	return false
}

// becomeCandidate asks this node's own raft to begin an election now.
func (n *Node) becomeCandidate(e *engine, leader string) {
	votes := slices.ContainsFunc(votersOf(e.raft), func(s raft.Server) bool { return string(s.ID) == n.cfg.NodeID })
	if !votes || !n.stoodIn.pass(standInPause) {
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
