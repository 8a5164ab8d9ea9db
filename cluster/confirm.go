package cluster

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// confirmWithin bounds a round. Reads that it does not settle ride the next entry of the log.
const confirmWithin = 50 * time.Millisecond

// reader answers linearizable reads for one reign without writing to any disk: it notes the commit
// index, and asks the other voters whether they still know of no later term. Who answers so has given
// no other leader its vote before, so a majority of such answers, this node's own among them, proves
// that nothing can have been committed elsewhere when the round began.
//
// Only voters are asked and counted; learners prove nothing. Raft's own VerifyLeader counts them too.
type reader struct {
	reign *reign

	mu      sync.Mutex
	waiting []pendingRead
	stopped error
	wake    chan struct{} // capacity 1

	asking sync.Map // node id -> *atomic.Bool: a question to it is under way
	wg     sync.WaitGroup
}

func newReader(r *reign) *reader { return &reader{reign: r, wake: make(chan struct{}, 1)} }

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
	ctx, cancel := context.WithTimeout(ctx, confirmWithin)
	defer cancel()
	index, err := d.settle(ctx)
	if err == nil {
		remote := false
		for _, p := range reads {
			p.done(index, nil)
			remote = remote || p.remote
		}
		if remote { // it waits for its own copy, which must hear of the commit
			r.batcher.tell()
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

// confirm reports whether a majority of the voters still is in this reign's term.
func (d *reader) confirm(ctx context.Context) bool {
	r := d.reign
	var others []raft.Server
	need := -1 // this node is a voter
	for _, s := range votersOf(r.engine.raft) {
		if string(s.ID) == r.node.cfg.NodeID {
			need = 0
		} else {
			others = append(others, s)
		}
	}
	if need < 0 {
		return false
	}
	need = (len(others) + 1) / 2 // besides this node
	answers := make(chan bool, len(others))
	for _, s := range others {
		busy, _ := d.asking.LoadOrStore(s.ID, new(atomic.Bool))
		if !busy.(*atomic.Bool).CompareAndSwap(false, true) {
			continue // it has not answered the last question: let it be, others may do
		}
		d.wg.Go(func() {
			ok := d.ask(ctx, s)
			busy.(*atomic.Bool).Store(false)
			answers <- ok
		})
	}
	for got := 0; got < need; {
		select {
		case ok := <-answers:
			if ok {
				got++
			}
		case <-ctx.Done():
			return false
		}
	}
	return r.engine.raft.CurrentTerm() == r.term && r.engine.raft.State() == raft.Leader
}

func (d *reader) ask(ctx context.Context, s raft.Server) bool {
	l, err := d.reign.node.links.get(ctx, string(s.ID), string(s.Address))
	if err != nil {
		return false
	}
	f, err := l.roundTrip(ctx, frameConfirm, func(dst []byte) []byte { return binary.AppendUvarint(dst, d.reign.term) })
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
