package cluster

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/hashicorp/raft"
)

// A voter that is set back to an older data directory, by a snapshot of its machine or a backup of its disk, has
// forgotten entries that it promised to keep, and votes that it gave. What was decided with its help may then be
// held by too few. A leader therefore remembers what each voter has acknowledged, and compares it with where the
// voter says that its log ends. The voter is told, and ends; it does not start again with these files.
//
// That is as much as can be seen: who leads remembers only what it was told itself, since it was started.
type acks struct {
	mu   sync.Mutex
	of   map[string]ack
	lost map[string]string // voters that have come back with less: what to tell the operator
}

const lostHint = "murderctl member remove it, move its data directory away, and join it again"

type ack struct {
	term, index uint64 // all that was acknowledged in this term
	committed   uint64 // and what must be there in every later one
}

// floor is where the log of a node must not end before, for one who asks it now as the leader of a term.
func (a *acks) floor(node string, term uint64) uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	k := a.of[node]
	if k.term == term {
		return max(k.index, k.committed)
	}
	return k.committed
}

func (a *acks) note(node string, term, index, committed uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.of == nil {
		a.of = make(map[string]ack)
	}
	k := a.of[node]
	if term > k.term {
		k.term, k.index = term, 0
	}
	if term == k.term {
		k.index = max(k.index, index)
	}
	k.committed = max(k.committed, min(index, committed))
	a.of[node] = k
}

// retain forgets all but the nodes that vote: who is taken in again begins with nothing.
func (a *acks) retain(servers []raft.Server) {
	a.mu.Lock()
	defer a.mu.Unlock()
	votes := func(id string) bool {
		return slices.ContainsFunc(servers, func(s raft.Server) bool { return string(s.ID) == id && s.Suffrage == raft.Voter })
	}
	for id := range a.of {
		if !votes(id) {
			delete(a.of, id)
		}
	}
	for id := range a.lost {
		if !votes(id) {
			delete(a.lost, id)
		}
	}
}

// drop forgets a server that this leader takes out.
func (a *acks) drop(id raft.ServerID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.of, string(id))
	delete(a.lost, string(id))
}

func (a *acks) forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.of, a.lost = nil, nil
}

// flag notes that a voter has lost entries, and reports whether that is news.
func (a *acks) flag(node, what string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.lost[node] != "" {
		return false
	}
	if a.lost == nil {
		a.lost = make(map[string]string)
	}
	a.lost[node] = what
	return true
}

// flagged says what a voter has lost, "" if nothing is known.
func (a *acks) flagged(node string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.lost[node]
}

// lostRequest tells a voter that its log ended before what it had acknowledged to the node that asks.
type lostRequest struct {
	Last  uint64 `json:"last"`
	Acked uint64 `json:"acked"`
}

// answered looks at a voter's answer to a request that was sent when its log had to reach floor. The voter says
// where its log ended before it took the request, and, by its term, that nobody else has told it to cut its log.
func (n *Node) answered(to raft.Server, floor uint64, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) {
	id := string(to.ID)
	e := n.engine.Load()
	floor = min(floor, n.acks.floor(id, req.Term)) // it may have been taken out and in since
	if resp.Term == req.Term && resp.LastLog < floor && e != nil &&
		slices.ContainsFunc(votersOf(e.raft), func(s raft.Server) bool { return s.ID == to.ID }) {
		what := fmt.Sprintf("it came back with a log that ends at entry %d, and it had acknowledged entry %d", resp.LastLog, floor)
		if n.acks.flag(id, what) {
			n.log.Error("voter has lost entries", "peer", id, "err", what, "hint", lostHint)
			n.wg.Go(func() { n.tellLost(to, lostRequest{resp.LastLog, floor}) })
		}
	}
	if resp.Success {
		n.acks.note(id, req.Term, lastOf(req), req.LeaderCommitIndex)
	}
}

func (n *Node) tellLost(to raft.Server, req lostRequest) {
	for failures := 0; n.acks.flagged(string(to.ID)) != "" && failures < 10; failures++ {
		ctx, cancel := context.WithTimeout(n.ctx, statusLimit)
		l, err := n.links.get(ctx, string(to.ID), string(to.Address))
		if err == nil {
			err = l.call(ctx, "lost", req, nil)
		}
		cancel()
		if err == nil || classOf(err) == classRefused || n.ctx.Err() != nil {
			return
		}
		if n.pause(n.ctx, failures) != nil {
			return
		}
	}
}

// lost ends this voter, on the word of its leader, for good.
func (n *Node) lost(e *engine, from string, req lostRequest) error {
	if leader, _ := e.feed.leader(); leader != from {
		return notProposed("node %s does not lead as far as node %s knows", from, n.cfg.NodeID)
	}
	err := &DamagedError{n.cfg.NodeID, n.cfg.DataDir, fmt.Sprintf(
		"the data directory of this coordinator is older than what it promised: its log ended at entry %d, and it had acknowledged entry %d to node %s.", req.Last, req.Acked, from)}
	n.log.Error("this node stops", "err", err)
	n.keepIdentity(e, func(id *identity) { id.Damaged = err.What })
	n.cfg.hooks.exit(ExitCorrupt, err.Error())
	return nil
}
