package cluster

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// teller tells other nodes at once what has been committed, where the library would do so with the next
// entries or when its commit timeout has passed. A node that waits for its own copy hears of the commit as
// soon as it holds the entry; all others a moment later, unless entries sent meanwhile have told them.
//
// What it sends is an ordinary request to append nothing: in this leader's term, after the entry at index I
// of term T, where I is committed. A receiver that does not hold that very entry refuses; one that does
// raises its commit index to I. Nothing is written to any disk.
//
// Why nobody can be told wrong, whatever has happened meanwhile:
//
//   - That the entry at I is committed, and T is its term, was true when this node's commit index was I,
//     and is true for ever; T is read from the log at I, so it is not this leader's own term if another
//     leader's entry is there. Logs that agree in (I, T) agree up to I.
//   - The request carries a term in which this node was elected, and otherwise does what the library's
//     own requests do however late they arrive: a receiver in a later term refuses it.
//   - The library sends the same request, between entries and at each commit timeout, so its receivers,
//     of any version, know it. Its own notes of what each peer holds are not touched: the answers are
//     read here alone, and only decide what is still to be told.
type teller struct {
	commit func() uint64                      // this node's commit index
	termOf func(index uint64) (uint64, error) // of an entry of this node's log
	send   func(to raft.Server, term, index, indexTerm uint64) (accepted bool, err error)
	spawn  func(func())
	told   func() // counts

	mu    sync.Mutex
	leads uint64 // term of this node's reign, 0 without one
	term  uint64 // that hearers is about
	// hearers are the nodes that this one sends entries to.
	hearers map[raft.ServerID]*hearer
	latest  uint64 // index that all are to hear of
	due     uint64 // index that all hear of when the timer fires, 0 while it is stopped
}

// hearer is what is known about another node in one term.
type hearer struct {
	server  raft.Server
	match   uint64 // it holds this node's log up to here
	told    uint64 // it knows that this much is committed
	carried uint64 // what a request of the library's own under way tells it
	wanted  uint64 // what it shall know
	busy    bool   // a request of the teller's is under way
}

// tellWithin is how long a commit may wait for entries that carry it to those who are not known to wait.
// It grows with the number of nodes, so that telling a hundred learners does not keep a leader busy.
func tellWithin(nodes int) time.Duration {
	return max(2*time.Millisecond, time.Duration(nodes)*200*time.Microsecond)
}

func newTeller(n *Node) *teller {
	return &teller{
		commit: func() uint64 { return n.engine.Load().raft.CommitIndex() },
		termOf: func(index uint64) (uint64, error) {
			var l raft.Log
			err := n.engine.Load().stores.log.GetLog(index, &l)
			return l.Term, err
		},
		send: n.sendCommit, spawn: n.wg.Go, told: n.metrics.told.Inc,
		hearers: make(map[raft.ServerID]*hearer),
	}
}

func (n *Node) sendCommit(to raft.Server, term, index, indexTerm uint64) (accepted bool, err error) {
	e := n.engine.Load()
	self := e.trans.EncodePeer(raft.ServerID(n.cfg.NodeID), raft.ServerAddress(n.port.advertise))
	req := &raft.AppendEntriesRequest{
		RPCHeader:         raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(n.cfg.NodeID), Addr: self},
		Term:              term,
		Leader:            self,
		PrevLogEntry:      index,
		PrevLogTerm:       indexTerm,
		LeaderCommitIndex: index,
	}
	var resp raft.AppendEntriesResponse
	err = e.carrier.AppendEntries(to.ID, to.Address, req, &resp)
	return resp.Success, err
}

// begin and end frame a reign.
func (t *teller) begin(term uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.leads, t.latest, t.due = term, 0, 0
}

func (t *teller) end() { t.begin(0) }

// sending and sent note what the library's own requests tell.
func (t *teller) sending(to raft.Server, req *raft.AppendEntriesRequest) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if req.Term > t.term {
		t.term = req.Term
		clear(t.hearers)
	}
	if req.Term < t.term {
		return
	}
	h := t.hearers[to.ID]
	if h == nil {
		h = &hearer{}
		t.hearers[to.ID] = h
	}
	h.server = to
	h.carried = min(req.LeaderCommitIndex, lastOf(req))
}

func (t *teller) sent(to raft.ServerID, req *raft.AppendEntriesRequest, accepted bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.hearers[to]
	if h == nil || req.Term != t.term {
		return
	}
	carried := h.carried
	h.carried = 0
	switch {
	case err != nil:
	case accepted:
		h.match, h.told = max(h.match, lastOf(req)), max(h.told, carried)
	default: // it has lost some of its log, as a learner does that starts again
		h.match, h.told = 0, 0
	}
	t.consider(h)
}

func lastOf(req *raft.AppendEntriesRequest) uint64 {
	return req.PrevLogEntry + uint64(len(req.Entries))
}

// now tells one node of an index that is committed: it waits for that.
func (t *teller) now(node string, index uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if h := t.hearers[raft.ServerID(node)]; h != nil {
		h.wanted = max(h.wanted, index)
		t.consider(h)
	}
}

// soon makes sure that all hear of an index that is committed.
func (t *teller) soon(index uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.latest = max(t.latest, index)
	t.arm()
}

func (t *teller) arm() {
	if t.due == 0 && t.leads != 0 && len(t.hearers) > 0 {
		t.due = t.latest
		time.AfterFunc(tellWithin(len(t.hearers)), t.tellAll)
	}
}

func (t *teller) tellAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	due := t.due
	t.due = 0
	for _, h := range t.hearers {
		h.wanted = max(h.wanted, due)
		t.consider(h)
	}
	if t.latest > due {
		t.arm()
	}
}

// consider is called with mu held when something has changed.
func (t *teller) consider(h *hearer) {
	if t.leads != 0 && t.leads == t.term && !h.busy && h.lacks() {
		h.busy = true
		t.spawn(func() { t.tell(h, t.term) })
	}
}

// lacks reports whether a node shall know something that it does not, and that nothing else tells it.
func (h *hearer) lacks() bool {
	return h.wanted > h.told && h.wanted > h.carried && h.wanted <= h.match
}

func (t *teller) tell(h *hearer, term uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.leads == term && t.term == term && h.lacks() {
		index, to := min(t.commit(), h.match), h.server
		t.mu.Unlock()
		indexTerm, err := t.termOf(index)
		accepted := false
		if err == nil {
			accepted, err = t.send(to, term, index, indexTerm)
			t.told()
		}
		t.mu.Lock()
		switch {
		case err != nil:
			h.wanted = 0 // it is out of reach, and hears of it when it is sent entries again
		case accepted:
			h.told = max(h.told, index)
		default:
			h.match, h.told = 0, 0
		}
	}
	h.busy = false
}

// tellOf makes known what has been committed: at once to the nodes that wait for it.
func (n *Node) tellOf(b *batch, index uint64) {
	for _, u := range b.units {
		if u.from != "" {
			n.teller.now(u.from, index)
		}
	}
	for _, r := range b.reads {
		if r.from != "" {
			n.teller.now(r.from, index)
		}
	}
	n.teller.soon(index)
}
