package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"murder/fsm"
	"murder/internal/mbox"
)

// fakeLog decides entries when told to.
type fakeLog struct {
	mu      sync.Mutex
	entries [][]byte
	machine *fsm.Machine
	gate    chan struct{} // one for each entry that may be decided
	err     error
}

type fakeFuture struct {
	raft.ApplyFuture
	log   *fakeLog
	index uint64
	entry []byte
	resp  any
}

func (l *fakeLog) propose(entry []byte) raft.ApplyFuture {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = append(l.entries, entry)
	return &fakeFuture{log: l, index: uint64(len(l.entries)), entry: entry}
}

func (f *fakeFuture) Error() error {
	<-f.log.gate
	if f.log.err != nil {
		return f.log.err
	}
	a, err := f.log.machine.Apply(f.index, f.entry)
	f.resp = a.Results
	return err
}
func (f *fakeFuture) Index() uint64 { return f.index }
func (f *fakeFuture) Response() any { return f.resp }

func (l *fakeLog) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.entries)
}

type batchRig struct {
	*batcher
	log  *fakeLog
	stop func()
}

func newBatchRig(t *testing.T) *batchRig {
	l := &fakeLog{machine: fsm.New(), gate: make(chan struct{}, 1000)}
	b := newBatcher(l.propose, func() uint64 { return 0 })
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { b.run(ctx); close(done) }()
	r := &batchRig{b, l, func() { cancel(); <-done }}
	t.Cleanup(func() {
		for range 500 {
			select {
			case l.gate <- struct{}{}:
			default:
			}
		}
		r.stop()
	})
	return r
}

func (r *batchRig) waitEntries(t *testing.T, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d entries", n), func() bool { return r.log.count() >= n })
}

func emptyUnit(flow string, n int, done func(error)) *unit {
	envs := make([]fsm.Envelope, n)
	for i := range envs {
		envs[i] = fsm.Envelope{Command: fsm.Empty{}}
	}
	u := newUnit(flow, envs...)
	u.done = func(_ []fsm.Result, _ uint64, err error) { done(err) }
	return u
}

// Flows take turns: what one session piles up does not hold back another.
func TestBatcherFairness(t *testing.T) {
	r := newBatchRig(t)
	var mu sync.Mutex
	var order []string
	var wg sync.WaitGroup
	put := func(flow string, n int) {
		wg.Add(1)
		if err := r.submit(emptyUnit(flow, n, func(error) {
			mu.Lock()
			order = append(order, flow)
			mu.Unlock()
			wg.Done()
		})); err != nil {
			t.Fatal(err)
		}
	}
	for i := range maxEntries { // fill what may be under way
		put("first", 1)
		r.waitEntries(t, i+1)
	}
	for range 10 {
		put("greedy", 256)
	}
	put("modest", 1)
	for range 100 {
		r.log.gate <- struct{}{}
	}
	wg.Wait()
	for i, flow := range order {
		if flow == "modest" {
			if i > maxEntries+2 {
				t.Errorf("the modest session came as number %d", i)
			}
			return
		}
	}
}

// Everything that waits while entries are under way goes into the next one.
func TestBatcherCollects(t *testing.T) {
	r := newBatchRig(t)
	var wg sync.WaitGroup
	for i := range maxEntries {
		wg.Add(1)
		r.submit(emptyUnit(fmt.Sprint(i), 1, func(error) { wg.Done() }))
		r.waitEntries(t, i+1)
	}
	for i := range 500 {
		wg.Add(1)
		r.submit(emptyUnit(fmt.Sprint(i), 1, func(error) { wg.Done() }))
	}
	reads := make(chan uint64, 100)
	for range 100 {
		r.read(pendingRead{done: func(i uint64, err error) { reads <- i }})
	}
	for range 50 {
		r.log.gate <- struct{}{}
	}
	wg.Wait()
	for range 100 {
		if i := <-reads; i != maxEntries+1 {
			t.Fatalf("a read rode entry %d, want %d", i, maxEntries+1)
		}
	}
	if n := r.log.count(); n != maxEntries+1 {
		t.Errorf("%d entries, want %d", n, maxEntries+1)
	}
}

func TestBatcherLimits(t *testing.T) {
	r := newBatchRig(t)
	for range 4 * maxBatch {
		if err := r.submit(emptyUnit("a", 3, func(error) {})); err != nil {
			t.Fatal(err)
		}
		r.log.gate <- struct{}{}
	}
	eventually(t, "all are in the log", func() bool { return r.waiting() == 0 })
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	for _, e := range r.log.entries {
		if len(e) > maxBatchBytes+1024 {
			t.Errorf("entry of %d octets", len(e))
		}
	}
}

func TestBatcherFull(t *testing.T) {
	r := newBatchRig(t) // nothing is decided
	var err error
	for range maxQueue/256 + 2*maxEntries + 3 {
		if err = r.submit(emptyUnit("a", 256, func(error) {})); err != nil {
			break
		}
	}
	if err == nil || classOf(err) != classBusy {
		t.Errorf("got %v, want a busy answer", err)
	}
}

// What is queued when leadership ends has not happened; what was proposed may have.
func TestBatcherStops(t *testing.T) {
	r := newBatchRig(t)
	errs := make(chan error, 100)
	for i := range maxEntries {
		r.submit(emptyUnit("a", 1, func(err error) { errs <- err }))
		r.waitEntries(t, i+1)
	}
	r.submit(emptyUnit("a", 1, func(err error) { errs <- err }))
	r.log.err = raft.ErrLeadershipLost
	for range 10 {
		r.log.gate <- struct{}{}
	}
	r.stop()
	classes := map[byte]int{}
	for range maxEntries + 1 {
		classes[classOf(<-errs)]++
	}
	if classes[classUnknown] < maxEntries {
		t.Errorf("classes: %v", classes)
	}
	if err := r.submit(emptyUnit("a", 1, nil)); classOf(err) != classNotProposed {
		t.Errorf("after the end: %v", err)
	}
}

// An entry that the library has taken and will never answer does not hold up the end.
func TestBatcherSurvivesSilence(t *testing.T) {
	l := &fakeLog{machine: fsm.New(), gate: make(chan struct{})}
	t.Cleanup(func() { close(l.gate) })
	b := newBatcher(l.propose, func() uint64 { return 0 })
	dead := make(chan struct{})
	b.dead = dead
	ctx, cancel := context.WithCancel(context.Background())
	errs := make(chan error, 1)
	b.submit(emptyUnit("a", 1, func(err error) { errs <- err }))
	done := make(chan struct{})
	go func() { b.run(ctx); close(done) }()
	eventually(t, "an entry", func() bool { return l.count() > 0 })
	cancel()
	close(dead)
	<-done
	if err := <-errs; classOf(err) != classUnknown {
		t.Errorf("got %v", err)
	}
}

func TestProposalErrors(t *testing.T) {
	for err, class := range map[error]byte{
		raft.ErrNotLeader:                    classNotProposed,
		raft.ErrLeadershipTransferInProgress: classNotProposed,
		raft.ErrEnqueueTimeout:               classNotProposed,
		raft.ErrLeadershipLost:               classUnknown,
		raft.ErrAbortedByRestore:             classUnknown,
		raft.ErrRaftShutdown:                 classUnknown,
		errors.New("something else"):         classUnknown,
	} {
		if got := classOf(proposalError(err)); got != class {
			t.Errorf("%v: class %d, want %d", err, got, class)
		}
	}
}

func FuzzFrames(f *testing.F) {
	f.Add(appendFrame(nil, frameResults, 7, func(b []byte) []byte {
		return appendResults(b, 5, []fsm.Result{{Detail: "x", Proposer: 3, Repeat: true}})
	}))
	f.Add(appendFrame(nil, frameBeat, 0, beat{true, 1, 2, 3, true}.append))
	f.Add(appendFrame(nil, framePropose, 9, func(b []byte) []byte {
		return appendUnit(b, newUnit("flow", fsm.Envelope{Command: fsm.Empty{}}))
	}))
	f.Fuzz(func(t *testing.T, data []byte) {
		fr, err := readFrame(bytes.NewReader(data))
		if err != nil {
			return
		}
		decodeBeat(fr.payload)
		decodeUnit(fr.payload, member{Node: "n", Role: Frontend})
		index, results, err := decodeResults(fr.payload)
		if err != nil {
			return
		}
		again := appendResults(nil, index, results)
		i2, r2, err := decodeResults(again)
		if err != nil || i2 != index || len(r2) != len(results) {
			t.Fatalf("does not survive a round trip: %v", err)
		}
	})
}

// What waits on a node is bounded: whoever finds it full waits for room, and is refused after a while.
func TestAdmission(t *testing.T) {
	t.Parallel()
	a := admission{freed: make(chan struct{})}
	ctx := testContext(t)
	if err := a.enter(ctx, maxQueue, 10); err != nil {
		t.Fatal(err)
	}
	entered := make(chan error, 1)
	go func() { entered <- a.enter(ctx, 1, 10) }()
	select {
	case err := <-entered:
		t.Fatalf("let in although it is full: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	a.leave(maxQueue, 10)
	if err := <-entered; err != nil {
		t.Errorf("not let in although there is room: %v", err)
	}
	if err := a.enter(ctx, 1, maxQueueBytes); !errors.Is(err, mbox.ErrUnavailable) { // too many octets
		t.Errorf("got %v", err)
	}
	a.leave(1, 10)
	if err := a.enter(ctx, 1, maxQueueBytes); err != nil {
		t.Errorf("not let in although nobody is there: %v", err)
	}
}
