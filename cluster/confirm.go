package cluster

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// reader answers linearizable reads for one reign without writing to any disk: it notes the commit
// index, and asks the other voters whether they still know of no later term.
//
// Why that is enough. Let t be the moment at which a round begins; all its reads have arrived before.
//
//   - What was acknowledged before t was committed by this leader, by a leader of an earlier term, or
//     by one of a later term. A reign begins when its own first entry has been applied here, so the
//     commit index that is read after t covers the first two.
//   - A leader of a later term had the votes of a majority. A voter stores a later term before it
//     gives its vote in it (the library does so in setCurrentTerm), and terms never go back, restarts
//     included. So a voter that is in this term when it answers a question that was asked after t had
//     voted for no later leader at t. A majority of such answers, this node's own among them, and any
//     majority that could have elected another leader by then have a voter in common: there was none.
//   - The voters are those of the newest configuration that this node knows. Raft changes one voter
//     at a time and begins a change only when the last is committed, so what elected a later leader
//     before t differs by one voter at most, and two such majorities still meet. If changes follow one
//     another between t and the question, a majority has stored the first of them after t, in this term.
//   - An answer counts only for the round that asked: each question has an id of its own, and each
//     round a channel of its own. A voter that still owes an answer to an earlier round is not asked.
//   - No clock takes part. A leader that is stopped anywhere in a round reads the commit index before
//     it asks, or finds out that it has been replaced; stopped afterwards, it gives an index that was
//     right when the reads were under way, and the reader's copy can only be newer.
//
// Only voters are asked and counted; learners prove nothing. Raft's own VerifyLeader counts them too.
// Learners read in the same way: they ask the leader and wait for their own copy.
type reader struct {
	reign *reign
	// within bounds a round. Reads that it does not settle ride the next entry of the log.
	within time.Duration
	// patience is how long a round waits for the voters asked first before it asks the others.
	patience time.Duration
	// voters returns the voters besides this node, and whether this node is one.
	voters func() (others []raft.Server, self bool)
	// ask returns true if a voter is in this term, at a time after the call.
	ask func(ctx context.Context, s raft.Server) bool
	// leads reports whether this node still leads in this reign's term.
	leads func() bool

	mu      sync.Mutex
	waiting []pendingRead
	stopped error
	wake    chan struct{} // capacity 1

	quick  []raft.ServerID // voters in the order in which they answered last, of confirm
	ctx    context.Context // of run
	asking sync.Map        // node id -> *atomic.Bool: a question to it is under way
	wg     sync.WaitGroup
}

func newReader(r *reign) *reader {
	d := &reader{reign: r, wake: make(chan struct{}, 1), within: max(minConfirm, r.node.timing.heartbeat/10), patience: 2 * time.Millisecond}
	d.voters, d.ask, d.leads = r.voters, d.askTerm, r.leads
	return d
}

// minConfirm is long for a network, and short for somebody who waits.
const minConfirm = 50 * time.Millisecond

// read asks for an index that includes everything committed before the call. All reads that come
// while a round is under way share the next one.
func (d *reader) read(p pendingRead) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stopped != nil {
		return d.stopped
	}
	if len(d.waiting) >= maxQueue {
		return &failure{classBusy, "too many reads are waiting"}
	}
	d.waiting = append(d.waiting, p)
	select {
	case d.wake <- struct{}{}:
	default:
	}
	return nil
}

func (d *reader) run(ctx context.Context) {
	d.ctx = ctx
	defer d.wg.Wait()
	for {
		select {
		case <-d.wake:
			d.round(ctx, d.take(nil))
		case <-ctx.Done():
			err := notProposed("this node no longer leads")
			for _, p := range d.take(err) {
				p.done(0, err)
			}
			return
		}
	}
}

func (d *reader) take(stopped error) []pendingRead {
	d.mu.Lock()
	defer d.mu.Unlock()
	reads := d.waiting
	d.waiting, d.stopped = nil, stopped
	return reads
}

func (d *reader) round(ctx context.Context, reads []pendingRead) {
	if len(reads) == 0 {
		return
	}
	r := d.reign
	ctx, cancel := context.WithTimeout(ctx, d.within)
	defer cancel()
	index, err := d.settle(ctx)
	if err == nil {
		for _, p := range reads {
			if p.from != "" { // it waits for its own copy, which must hear of the commit
				r.node.teller.now(p.from, index)
			}
			p.done(index, nil)
		}
		return
	}
	r.node.metrics.unconfirmed.Inc()
	for _, p := range reads {
		if err := r.batcher.read(p); err != nil {
			p.done(0, err)
		}
	}
}

var errUnconfirmed = errors.New("no majority of the voters confirmed this leader in time")

// settle returns the index that a copy must have reached to show all that was committed before.
func (d *reader) settle(ctx context.Context) (uint64, error) {
	committed := d.reign.engine.raft.CommitIndex()
	if !d.confirm(ctx) {
		return 0, errUnconfirmed
	}
	return d.reign.node.replica.waitProcessed(ctx, committed)
}

// confirm reports whether a majority of the voters still is in this reign's term. It asks as many as that
// takes, first those that answered last, and the others once one says no or keeps it waiting.
func (d *reader) confirm(ctx context.Context) bool {
	others, self := d.voters()
	if !self {
		return false
	}
	slices.SortStableFunc(others, func(a, b raft.Server) int { return d.rank(a.ID) - d.rank(b.ID) })
	type answer struct {
		voter raft.ServerID
		yes   bool
	}
	answers := make(chan answer, len(others))
	need, open := (len(others)+1)/2, 0 // besides this node
	ask := func(n int) {
		for ; n > 0 && len(others) > 0; others = others[1:] {
			s := others[0]
			busy, _ := d.asking.LoadOrStore(s.ID, new(atomic.Bool))
			if !busy.(*atomic.Bool).CompareAndSwap(false, true) {
				continue // it has not answered the last question: let it be, others may do
			}
			n--
			open++
			d.wg.Go(func() {
				yes := d.ask(ctx, s)
				busy.(*atomic.Bool).Store(false)
				answers <- answer{s.ID, yes}
			})
		}
	}
	keptWaiting := time.NewTimer(d.patience)
	defer keptWaiting.Stop()
	for need > 0 {
		if ask(need - open); open < need {
			return false
		}
		select {
		case a := <-answers:
			open--
			if a.yes {
				need--
				d.quick = append([]raft.ServerID{a.voter}, slices.DeleteFunc(d.quick, func(id raft.ServerID) bool { return id == a.voter })...)
			}
		case <-keptWaiting.C:
			ask(len(others))
		case <-ctx.Done():
			return false
		}
	}
	return d.leads()
}

func (d *reader) rank(voter raft.ServerID) int {
	if i := slices.Index(d.quick, voter); i >= 0 {
		return i
	}
	return len(d.quick)
}

func (r *reign) voters() (others []raft.Server, self bool) {
	for _, s := range votersOf(r.engine.raft) {
		if string(s.ID) == r.node.cfg.NodeID {
			self = true
		} else {
			others = append(others, s)
		}
	}
	return others, self
}

// leads is asked last: this node's own vote counts, too.
func (r *reign) leads() bool {
	return r.engine.raft.CurrentTerm() == r.term && r.engine.raft.State() == raft.Leader
}

func (d *reader) askTerm(ctx context.Context, s raft.Server) bool {
	r := d.reign
	// A connection may take longer than a round, and serves the next.
	l, err := r.node.links.get(d.ctx, string(s.ID), string(s.Address))
	if err != nil || ctx.Err() != nil {
		return false
	}
	f, err := l.roundTrip(ctx, frameConfirm, func(dst []byte) []byte { return binary.AppendUvarint(dst, r.term) })
	return err == nil && f.kind == frameConfirmed && len(f.payload) == 1 && f.payload[0] == 1
}

// confirm answers a leader's question: is this node still in your term? The library stores a later
// term before it gives anybody its vote in it.
func (s *server) confirm(f frame) {
	d := decoder{buf: f.payload}
	term := d.uvarint()
	e := s.node.engine.Load()
	var yes byte
	if d.err == nil && e != nil && e.raft.CurrentTerm() == term {
		yes = 1
	}
	s.send(frameConfirmed, f.id, func(dst []byte) []byte { return append(dst, yes) })
}
