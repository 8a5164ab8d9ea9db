package cluster

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/hashicorp/raft"

	"murder/fsm"
	"murder/internal/mbox"
)

// What is kept for followers of the change feed, and how much of it one is given at a time, in changes and
// in octets: an ACL may be long.
const (
	maxChanges       = 64 << 10
	maxChangeOctets  = 32 << 20
	changesAtATime   = 4096
	changeOctetsOnce = 1 << 20
)

func octetsOf(c *mbox.Change) int {
	return int(unsafe.Sizeof(*c)) + len(c.Name) + len(c.Location) + len(c.ACL) + len(c.Old)
}

// replica is this node's copy of the map: what raft applies entries to.
//
// Raft calls ApplyBatch, Snapshot and Restore from one goroutine. Everything else reads what they
// publish. The library's own applied index is of no use to readers: it moves before the entry has
// been applied, and some entries never come here.
type replica struct {
	log  *slog.Logger
	exit func(code int, reason string)
	// admits says whether this binary can take part in a cluster version.
	admits func(version uint32) error
	// alter changes what is applied, in tests.
	alter func(data []byte) []byte
	// persisted and restored hear how long a snapshot took to write and to read.
	persisted, restored func(time.Duration)

	machine *fsm.Machine // raft's goroutine only
	logged  atomic.Int64 // octets applied since the last snapshot
	view    atomic.Pointer[fsm.View]
	clock   atomic.Uint64 // lease clock, ms

	mu    sync.Mutex
	index uint64
	// processed is the last entry that came here, with or without commands: at least index.
	processed uint64
	// settled is the last entry with a command that does something: a copy that is as far shows
	// everything up to index.
	settled uint64
	waiters waiterHeap
	moved   chan struct{} // closed and replaced when index moves
	// changes are those of every index above floor, oldest first.
	changes []appliedChange
	octets  int // of changes
	floor   uint64

	// digests of the last entries, for comparing copies at one index.
	digests [digestsKept]indexDigest

	// checks are the same for the last indexes that a leader made a statement on.
	checks []indexDigest

	// suspect is a statement that does not agree with this copy and has not been judged; diverged is the
	// judgement that this copy is wrong. Both change with mu held.
	suspect  atomic.Pointer[fsm.Comparison]
	diverged atomic.Bool
	// divergedAt is the index of the copy when it was found wrong, began that of the snapshot that it began with, or
	// was last replaced by. Both are guarded by mu.
	divergedAt, began uint64
}

const (
	digestsKept = 1024
	checksKept  = 16
)

type indexDigest struct {
	index  uint64
	digest fsm.Digest
}

type appliedChange struct {
	at uint64 // index at which a follower of the feed sees it
	mbox.Change
}

func newReplica(log *slog.Logger, exit func(int, string)) *replica {
	r := &replica{persisted: func(time.Duration) {}, restored: func(time.Duration) {}, log: log, exit: exit, machine: fsm.New(), moved: make(chan struct{})}
	r.view.Store(r.machine.View())
	return r
}

// Apply implements raft.FSM.
func (r *replica) Apply(l *raft.Log) any { return r.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch implements raft.BatchingFSM. The response to a command is []fsm.Result.
func (r *replica) ApplyBatch(logs []*raft.Log) []any {
	responses := make([]any, len(logs))
	var changes []appliedChange
	digests := make([]indexDigest, 0, len(logs))
	applied := false
	var settled uint64
	defer func() { r.process(logs[len(logs)-1].Index) }()
	for i, l := range logs {
		if l.Type != raft.LogCommand {
			continue // a change of the configuration
		}
		data, before := l.Data, r.machine.Compared()
		if r.alter != nil {
			data = r.alter(data)
		}
		res, err := r.machine.Apply(l.Index, data)
		if err != nil {
			r.stop(l.Index, err)
			// Only in tests does the process still run. It must not apply anything else.
			select {}
		}
		r.checkVersion(l.Index, r.machine)
		applied = true
		if c := r.machine.Compared(); c != before {
			r.check(c)
		}
		if !res.Idle {
			settled = l.Index
		}
		r.logged.Add(int64(len(l.Data)))
		responses[i] = res.Results
		digests = append(digests, indexDigest{l.Index, r.machine.Digest()})
		for _, c := range res.Changes {
			changes = append(changes, appliedChange{l.Index, c})
		}
	}
	if applied {
		r.publish(changes, digests, settled)
	}
	return responses
}

// stop ends the process: an entry that cannot be applied here has been or will be applied elsewhere,
// so going on would make this copy differ.
func (r *replica) stop(index uint64, err error) {
	var unknown *fsm.UnknownCommandError
	var newer *fsm.SnapshotVersionError
	code, advice := ExitCorrupt, "empty the data directory and join this node again"
	if errors.As(err, &unknown) || errors.As(err, &newer) {
		code, advice = ExitVersion, "install a newer version of this program"
	}
	r.log.Error("entry cannot be applied: this node stops", "index", index, "err", err, "hint", advice)
	r.exit(code, fmt.Sprintf("entry %d cannot be applied: %v: %s", index, err, advice))
}

// checkVersion ends the process when the cluster has gone where this binary cannot follow.
func (r *replica) checkVersion(index uint64, m *fsm.Machine) {
	if r.admits == nil {
		return
	}
	if err := r.admits(m.ClusterVersion()); err != nil {
		r.log.Error("this node stops", "index", index, "err", err)
		r.exit(ExitVersion, err.Error())
		select {}
	}
}

// publish makes what has been applied visible, readers first, waiters after.
func (r *replica) publish(changes []appliedChange, digests []indexDigest, settled uint64) {
	index := r.machine.Index()
	r.clock.Store(r.machine.Clock())
	r.view.Store(r.machine.View())
	r.mu.Lock()
	defer r.mu.Unlock()
	r.index, r.processed, r.settled = index, max(r.processed, index), max(r.settled, settled)
	for _, d := range digests {
		r.digests[d.index%digestsKept] = d
	}
	r.append(changes)
	r.wake()
}

// append keeps changes for the feed, and when they are twice too many forgets the oldest: whole indexes only.
func (r *replica) append(changes []appliedChange) {
	r.changes = append(r.changes, changes...)
	for i := range changes {
		r.octets += octetsOf(&changes[i].Change)
	}
	if len(r.changes) <= 2*maxChanges && r.octets <= 2*maxChangeOctets {
		return
	}
	over := 0
	for over < len(r.changes) && (len(r.changes)-over > maxChanges || r.octets > maxChangeOctets || r.changes[over].at == r.floor) {
		r.floor = r.changes[over].at
		r.octets -= octetsOf(&r.changes[over].Change)
		over++
	}
	r.changes = slices.Clone(r.changes[over:])
}

// wake is called with mu held after index has moved.
func (r *replica) wake() {
	for len(r.waiters) > 0 && r.waiters[0].index <= r.index {
		close(heap.Pop(&r.waiters).(*waiter).done)
	}
	close(r.moved)
	r.moved = make(chan struct{})
}

// Snapshot implements raft.FSM: it takes the copy, which costs nothing. A wrong one is not kept: the snapshot
// before and the log since then are better.
func (r *replica) Snapshot() (raft.FSMSnapshot, error) {
	if err := r.doubted(); err != nil {
		return nil, err
	}
	r.logged.Store(0)
	return &replicaSnapshot{r.machine.Snapshot(), r.persisted}, nil
}

type replicaSnapshot struct {
	s         *fsm.Snapshot
	persisted func(time.Duration)
}

func (s *replicaSnapshot) Persist(sink raft.SnapshotSink) error {
	begun := time.Now()
	if _, err := s.s.WriteTo(sink); err != nil {
		sink.Cancel()
		return fmt.Errorf("writing snapshot: %w", err)
	}
	err := sink.Close()
	if err == nil {
		s.persisted(time.Since(begun))
	}
	return err
}

func (s *replicaSnapshot) Release() { s.s = nil }

// Restore implements raft.FSM. Readers keep the old copy until the new one is complete, and followers
// of the change feed get the difference.
func (r *replica) Restore(rc io.ReadCloser) error {
	defer rc.Close()
	begun := time.Now()
	defer func() { r.restored(time.Since(begun)) }()
	m, err := fsm.ReadSnapshot(rc)
	if err != nil {
		var newer *fsm.SnapshotVersionError
		if errors.As(err, &newer) {
			r.stop(0, err)
		}
		return fmt.Errorf("reading snapshot: %w", err)
	}
	r.checkVersion(m.Index(), m)
	old, index := r.view.Load(), m.Index()
	var changes []appliedChange
	fits := old.Index() > 0
	if fits {
		fsm.Diff(old, m.View(), func(c mbox.Change) bool {
			changes = append(changes, appliedChange{index, c})
			fits = len(changes) <= maxChanges
			return fits
		})
	}
	r.machine = m
	r.clock.Store(m.Clock())
	r.view.Store(m.View())
	r.mu.Lock()
	defer r.mu.Unlock()
	r.index, r.processed, r.settled, r.began = index, max(r.processed, index), index, index
	r.digests[index%digestsKept] = indexDigest{index, m.Digest()}
	r.suspect.Store(nil)
	if r.diverged.Swap(false) {
		r.log.Warn("the copy that was wrong has been replaced by the leader's", "index", index)
	}
	if fits {
		r.append(changes)
	} else {
		r.changes, r.octets, r.floor = nil, 0, index
	}
	r.wake()
	return nil
}

// process notes that everything up to an entry has been applied and published.
func (r *replica) process(index uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if index > r.processed {
		r.processed = index
		r.wake()
	}
}

// waitProcessed returns when every entry up to index that comes here at all has been applied, and the
// index that another copy must have reached to show the same. Entries that change nothing do not count:
// no other node needs to wait for them.
func (r *replica) waitProcessed(ctx context.Context, index uint64) (settled uint64, err error) {
	for {
		r.mu.Lock()
		reached, settled, moved := r.processed >= index, r.settled, r.moved
		r.mu.Unlock()
		if reached {
			return settled, nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// digestAt returns the digest of the copy at an index not long ago, or one that a leader made a statement on.
func (r *replica) digestAt(index uint64) (fsm.Digest, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if i := slices.IndexFunc(r.checks, func(d indexDigest) bool { return d.index == index }); i >= 0 {
		return r.checks[i].digest, true
	}
	d := r.digests[index%digestsKept]
	return d.digest, d.index == index
}

// applied returns the index of the copy and a channel that is closed when it moves.
func (r *replica) applied() (uint64, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.index, r.moved
}

// wait returns when the copy has reached index.
func (r *replica) wait(ctx context.Context, index uint64) error {
	r.mu.Lock()
	if r.index >= index {
		r.mu.Unlock()
		return nil
	}
	w := &waiter{index: index, done: make(chan struct{})}
	heap.Push(&r.waiters, w)
	r.mu.Unlock()
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if w.at >= 0 {
		heap.Remove(&r.waiters, w.at)
	}
	return ctx.Err()
}

// since returns changes after an index, oldest first, and the index that they lead to. It waits until
// there is something; with a bounded number of changes at a time.
func (r *replica) since(ctx context.Context, after uint64) ([]mbox.Change, uint64, error) {
	for {
		r.mu.Lock()
		if after < r.floor {
			r.mu.Unlock()
			return nil, 0, mbox.ErrLagged
		}
		if r.index > after {
			first := sort.Search(len(r.changes), func(i int) bool { return r.changes[i].at > after })
			end, to := first, r.index
			for octets := 0; end < len(r.changes); end++ {
				over := end-first >= changesAtATime || octets >= changeOctetsOnce
				if over && r.changes[end].at != r.changes[end-1].at {
					to = r.changes[end-1].at
					break
				}
				octets += octetsOf(&r.changes[end].Change)
			}
			out := make([]mbox.Change, 0, end-first)
			for _, c := range r.changes[first:end] {
				out = append(out, c.Change)
			}
			r.mu.Unlock()
			return out, to, nil
		}
		moved := r.moved
		r.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		}
	}
}

// waiter waits for an index; waiterHeap has the lowest first.
type waiter struct {
	index uint64
	done  chan struct{}
	at    int // place in the heap, -1 outside
}

type waiterHeap []*waiter

func (h waiterHeap) Len() int           { return len(h) }
func (h waiterHeap) Less(i, j int) bool { return h[i].index < h[j].index }
func (h waiterHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].at, h[j].at = i, j
}
func (h *waiterHeap) Push(x any) {
	w := x.(*waiter)
	w.at = len(*h)
	*h = append(*h, w)
}
func (h *waiterHeap) Pop() any {
	old := *h
	w := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	w.at = -1
	return w
}
