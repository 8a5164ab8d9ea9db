package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"murder/fsm"
)

const (
	checkpointInterval = 60 * time.Second // at which a leader states its digest
	membershipInterval = time.Second
	raftCallLimit      = 10 * time.Second
)

// reign is what a node does while it leads: one term, from its first own entry on.
type reign struct {
	node    *Node
	engine  *engine
	term    uint64
	batcher *batcher
	reader  *reader
	// The lease clock of this term: where it stood, and when that was on this machine's own
	// monotonic clock. No wall clock takes part, and the time without a leader does not count.
	clock0 uint64
	begun  time.Time

	kick   chan struct{}
	broken chan error // capacity 1: why this leader must not go on
	stated uint64     // index of the last statement of the digest

	mu        sync.Mutex
	positions map[string]position
}

// position is where another node said that it is.
type position struct {
	beat
	at time.Time
	// caughtUp is since when the node has been close behind without a break.
	caughtUp time.Time
	moved    time.Time // since when its log has ended where it does
}

// watchLeadership starts and ends reigns. It always drains the library's channel, which holds only
// the latest change: each true is a new reign.
func (n *Node) watchLeadership(e *engine) {
	var wg sync.WaitGroup
	end := func() {}
	defer func() { end(); wg.Wait() }()
	for {
		select {
		case leads := <-e.raft.LeaderCh():
			end()
			wg.Wait()
			n.notifyLeaderChanged()
			if !leads {
				end = func() {}
				continue
			}
			ctx, cancel := context.WithCancel(n.ctx)
			end = cancel
			wg.Go(func() { n.lead(ctx, e) })
		case <-n.ctx.Done():
			return
		}
	}
}

// lead does the work of one term until ctx ends. A leader that cannot begin its work steps down.
func (n *Node) lead(ctx context.Context, e *engine) {
	for ctx.Err() == nil {
		err := n.reignOnce(ctx, e)
		if ctx.Err() != nil {
			return
		}
		n.log.Error("leading failed, stepping down", "err", err)
		if err := n.transferTo(ctx, ""); err != nil && ctx.Err() == nil {
			n.log.Warn("stepping down failed", "err", err) // alone, or nobody is ready: try once more
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
}

func (n *Node) reignOnce(ctx context.Context, e *engine) error {
	r := &reign{
		node: n, engine: e, term: e.raft.CurrentTerm(),
		kick: make(chan struct{}, 1), broken: make(chan error, 1), positions: make(map[string]position),
	}
	if n.cfg.hooks.begin != nil {
		if err := n.cfg.hooks.begin(); err != nil {
			return err
		}
	}
	if n.replica.diverged.Load() {
		return errDiverged
	}
	// Everything of earlier terms is applied here before anything is decided.
	begin, cancel := context.WithTimeout(ctx, raftCallLimit)
	defer cancel()
	if err := await(begin, e.raft.Barrier(0)); err != nil {
		return fmt.Errorf("waiting for entries of earlier terms: %w", err)
	}
	r.clock0, r.begun = n.replica.clock.Load(), time.Now()
	r.batcher = newBatcher(func(entry []byte) raft.ApplyFuture { return e.raft.Apply(entry, 0) }, r.leaseClock)
	r.batcher.committed, r.batcher.observe, r.batcher.dead = n.tellOf, n.metrics.batch, e.done
	r.reader = newReader(r)
	n.teller.begin(r.term)
	defer n.teller.end()

	work, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	wg.Go(func() { r.batcher.run(work) })
	if _, err := r.do(begin, fsm.NewTerm{Term: r.term, Leader: n.cfg.NodeID}); err != nil {
		return fmt.Errorf("first entry of the term: %w", err)
	}
	if err := r.finishRecovery(begin); err != nil {
		return fmt.Errorf("after a lost quorum: %w", err)
	}
	wg.Go(func() { r.reader.run(work) })
	n.synced.Store(true)
	n.reign.Store(r)
	defer n.reign.Store(nil)
	n.notifyLeaderChanged()
	n.log.Info("this node leads", "term", r.term)
	wg.Go(func() { r.keepTime(work) })
	wg.Go(func() { r.keepMembers(work) })
	select {
	case err := <-r.broken:
		return err
	case <-ctx.Done():
		n.log.Info("this node no longer leads", "term", r.term)
		return ctx.Err()
	}
}

// giveUp ends a reign from within.
func (r *reign) giveUp(err error) {
	select {
	case r.broken <- err:
	default:
	}
}

// leaseClock is the stamp of the next batch.
func (r *reign) leaseClock() uint64 {
	led := time.Since(r.begun)
	if f := r.node.cfg.hooks.led; f != nil {
		led += f()
	}
	return r.clock0 + uint64(led.Milliseconds())
}

// do proposes a command that is harmless when repeated.
func (r *reign) do(ctx context.Context, c fsm.Command) (fsm.Result, error) {
	type answer struct {
		results []fsm.Result
		err     error
	}
	ch := make(chan answer, 1)
	u := newUnit("", fsm.Envelope{Command: c})
	u.done = func(results []fsm.Result, _ uint64, err error) { ch <- answer{results, err} }
	if err := r.batcher.submit(u); err != nil {
		return fsm.Result{}, err
	}
	select {
	case a := <-ch:
		if a.err != nil {
			return fsm.Result{}, a.err
		}
		return a.results[0], nil
	case <-ctx.Done():
		return fsm.Result{}, ctx.Err()
	}
}

// keepTime proposes ticks while leases exist, and checkpoints when something has changed.
func (r *reign) keepTime(ctx context.Context) {
	ticks := time.NewTicker(r.node.cfg.hooks.tick)
	defer ticks.Stop()
	checkpoints := time.NewTicker(r.node.cfg.hooks.checkpoint)
	defer checkpoints.Stop()
	for {
		select {
		case <-ticks.C:
			r.endGone(ctx)
			if r.node.State().Leases() == 0 {
				continue
			}
			if _, err := r.do(ctx, fsm.Tick{At: r.node.now().Unix()}); err != nil {
				r.node.log.Warn("lease tick failed", "err", err)
			}
		case <-checkpoints.C:
			err := r.checkpoint(ctx)
			switch {
			case errors.Is(err, errDiverged):
				r.giveUp(err)
				return
			case err != nil:
				r.node.log.Warn("checkpoint failed", "err", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

const closeBehind = 256 // entries

// heard notes where another node is.
func (r *reign) heard(node string, b beat) {
	own, _ := r.node.replica.applied()
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.positions[node]
	if b.applied+closeBehind < own || now.Sub(p.at) > 3*beatInterval {
		p.caughtUp = time.Time{}
	}
	if b.applied+closeBehind >= own && p.caughtUp.IsZero() {
		p.caughtUp = now
	}
	if p.last != b.last || p.moved.IsZero() {
		p.moved = now
	}
	p.beat, p.at = b, now
	r.positions[node] = p
}

func (r *reign) position(node string) (position, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, ok := r.positions[node]
	return p, ok
}

// await waits for a future of the library, which knows no contexts.
func await(ctx context.Context, f raft.Future) error {
	c := make(chan error, 1)
	go func() { c <- f.Error() }()
	select {
	case err := <-c:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (n *Node) notifyLeaderChanged() {
	n.leaderMu.Lock()
	defer n.leaderMu.Unlock()
	close(n.leaderChanged)
	n.leaderChanged, n.leaderSince = make(chan struct{}), time.Now()
}

// watchLeader follows who leads: requests that wait for an old leader are given up, so that they are
// tried with the new one.
func (n *Node) watchLeader(e *engine) {
	last := ""
	lost := time.Now()
	for {
		select {
		case id := <-e.feed.changes():
			switch {
			case id == "" && last != "":
				lost = time.Now()
			case id != "" && last == "":
				n.metrics.leaderless.Observe(time.Since(lost).Seconds())
			}
			if last != "" && id != last {
				n.links.drop(last)
			}
			last = id
			n.metrics.leaderChanges.Inc()
			n.notifyLeaderChanged()
		case <-n.ctx.Done():
			return
		}
	}
}

var errNotMember = refuse("this node is not a member of a cluster yet: run murderctl cluster init or join")
