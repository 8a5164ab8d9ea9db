package cluster

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"murder/fsm"
)

const (
	maxBatch      = 512       // commands in one entry
	maxBatchBytes = 256 << 10 // of commands in one entry, unless a single unit is larger
	maxEntries    = 2         // proposed and not yet decided
	maxQueue      = 8192      // commands waiting
	maxQueueBytes = 8 << 20   // of commands waiting
)

// unit is a run of commands of one flow that enters the log in one entry, in order, or not at all.
// That keeps the writes of one session in order whatever fails on the way.
type unit struct {
	flow string   // units of one flow stay in order, and flows take turns
	cmds [][]byte // encoded envelopes
	size int      // octets of all
	from string   // another node, which waits for its own copy to follow
	came time.Time
	done func(results []fsm.Result, index uint64, err error)
}

func newUnit(flow string, envelopes ...fsm.Envelope) *unit {
	u := &unit{flow: flow}
	for _, e := range envelopes {
		c := fsm.AppendEnvelope(nil, e)
		u.cmds = append(u.cmds, c)
		u.size += len(c)
	}
	return u
}

// pendingRead waits for any entry that is proposed after it came.
type pendingRead struct {
	from string // another node, which waits for its own copy
	done func(index uint64, err error)
}

// batcher puts what is waiting on the leader into as few entries as possible. It never waits for more
// to come: while entries are under way, what arrives collects by itself. It lives for one term of
// leadership; all calls back are made from one goroutine and must not block.
type batcher struct {
	propose func([]byte) raft.ApplyFuture
	clock   func() uint64 // lease clock, ms
	// committed is called with what has been decided, before those who wait for it are.
	committed func(b *batch, index uint64)
	observe   func(b *batch, err error)
	// dead is closed when raft has stopped. An entry that was in the library's channel just then gets
	// no answer from it, ever.
	dead <-chan struct{}

	mu       sync.Mutex
	flows    map[string]*flow
	turn     []*flow // flows that have something, in the order of their turns
	reads    []pendingRead
	commands int
	octets   int
	stopped  error

	wake   chan struct{} // capacity 1
	slots  chan struct{}
	flight chan flight
}

type flow struct {
	name  string
	units []*unit
}

// batch is the content of one entry.
type batch struct {
	units []*unit
	reads []pendingRead
	cmds  int
	begun time.Time
}

type flight struct {
	*batch
	future raft.ApplyFuture
}

var emptyCommand = fsm.AppendEnvelope(nil, fsm.Envelope{Command: fsm.Empty{}})

func newBatcher(propose func([]byte) raft.ApplyFuture, clock func() uint64) *batcher {
	return &batcher{
		propose: propose, clock: clock,
		committed: func(*batch, uint64) {}, observe: func(*batch, error) {},
		flows:  make(map[string]*flow),
		wake:   make(chan struct{}, 1),
		slots:  make(chan struct{}, maxEntries),
		flight: make(chan flight, maxEntries),
	}
}

// run works until ctx ends, then fails what has not been proposed and waits for what has.
func (b *batcher) run(ctx context.Context) {
	var completing sync.WaitGroup
	completing.Go(b.complete)
	b.fill(ctx)
	b.stop(notProposed("this node no longer leads"))
	close(b.flight)
	completing.Wait()
}

// submit queues a unit. An error means that nothing happened and done will not be called.
func (b *batcher) submit(u *unit) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped != nil {
		return b.stopped
	}
	if b.commands+len(u.cmds) > maxQueue || b.octets+u.size > maxQueueBytes {
		return &failure{classBusy, "the leader's queue is full"}
	}
	b.commands += len(u.cmds)
	b.octets += u.size
	f := b.flows[u.flow]
	if f == nil {
		f = &flow{name: u.flow}
		b.flows[u.flow] = f
		b.turn = append(b.turn, f)
	}
	u.came = time.Now()
	f.units = append(f.units, u)
	b.signal()
	return nil
}

// read asks for an index that includes everything committed before the call.
func (b *batcher) read(r pendingRead) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped != nil {
		return b.stopped
	}
	if len(b.reads) >= maxQueue {
		return &failure{classBusy, "too many reads are waiting"}
	}
	b.reads = append(b.reads, r)
	b.signal()
	return nil
}

func (b *batcher) signal() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// waiting returns the number of commands in the queue.
func (b *batcher) waiting() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.commands
}

// oldest is how long what waits longest has waited.
func (b *batcher) oldest(now time.Time) (age time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, f := range b.turn {
		age = max(age, now.Sub(f.units[0].came))
	}
	return age
}

// take forms the next batch, or returns nil if there is nothing to propose.
func (b *batcher) take() *batch {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.turn) == 0 && len(b.reads) == 0 {
		return nil
	}
	bt := &batch{reads: b.reads, begun: time.Now()}
	b.reads = nil
	octets := 0
	for len(b.turn) > 0 {
		f := b.turn[0]
		u := f.units[0]
		if bt.cmds > 0 && (bt.cmds+len(u.cmds) > maxBatch || octets+u.size > maxBatchBytes) {
			break
		}
		bt.units = append(bt.units, u)
		bt.cmds += len(u.cmds)
		octets += u.size
		f.units = f.units[1:]
		b.turn = b.turn[1:]
		if len(f.units) > 0 {
			b.turn = append(b.turn, f)
		} else {
			delete(b.flows, f.name)
		}
	}
	b.commands -= bt.cmds
	b.octets -= octets
	return bt
}

func (b *batcher) fill(ctx context.Context) {
	for {
		select {
		case b.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		bt := b.take()
		for bt == nil {
			select {
			case <-b.wake:
			case <-ctx.Done():
				return
			}
			bt = b.take()
		}
		cmds := make([][]byte, 0, max(bt.cmds, 1))
		for _, u := range bt.units {
			cmds = append(cmds, u.cmds...)
		}
		if len(cmds) == 0 {
			cmds = append(cmds, emptyCommand)
		}
		b.flight <- flight{bt, b.propose(fsm.AppendEncodedBatch(nil, b.clock(), cmds))}
	}
}

// complete hands out what became of each entry, in order.
func (b *batcher) complete() {
	for f := range b.flight {
		err := proposalError(b.outcome(f.future))
		var results []fsm.Result
		var index uint64
		if err == nil {
			index = f.future.Index()
			results, _ = f.future.Response().([]fsm.Result)
			if len(results) < f.cmds {
				err = unknownOutcome("entry %d gave %d results for %d commands", index, len(results), f.cmds)
			}
		}
		if err == nil {
			b.committed(f.batch, index)
		}
		for _, u := range f.units {
			if err != nil {
				u.done(nil, 0, err)
				continue
			}
			u.done(results[:len(u.cmds)], index, nil)
			results = results[len(u.cmds):]
		}
		for _, r := range f.reads {
			r.done(index, err)
		}
		b.observe(f.batch, err)
		<-b.slots
	}
}

func (b *batcher) outcome(f raft.ApplyFuture) error {
	c := make(chan error, 1)
	go func() { c <- f.Error() }()
	select {
	case err := <-c:
		return err
	case <-b.dead:
	}
	select {
	case err := <-c:
		return err
	default:
		return raft.ErrRaftShutdown
	}
}

func (b *batcher) stop(reason error) {
	b.mu.Lock()
	b.stopped = reason
	turn, reads := b.turn, b.reads
	b.turn, b.reads, b.flows = nil, nil, nil
	b.mu.Unlock()
	for _, f := range turn {
		for _, u := range f.units {
			u.done(nil, 0, reason)
		}
	}
	for _, r := range reads {
		r.done(0, reason)
	}
}

// proposalError sorts the library's errors by what they say about the outcome.
func proposalError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress), errors.Is(err, raft.ErrEnqueueTimeout):
		return notProposed("proposing: %v", err)
	}
	// ErrLeadershipLost, ErrAbortedByRestore, ErrRaftShutdown and anything else.
	return unknownOutcome("proposing: %v", err)
}
