package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"murder/fsm"
	"murder/internal/mbox"
)

// Write asks for changes of the map and returns a verdict on each, in order. Writes of one session
// (By.ID) that are in one call, or in calls that follow one another, are decided in that order. When
// it returns, this node's View shows them.
//
// The call is repeated inside, exactly once in effect, until ctx ends (10 s if it has no deadline).
// The error is mbox.ErrUnavailable when nothing has happened and mbox.ErrUnknownOutcome when any of
// the writes may have been made.
func (n *Node) Write(ctx context.Context, writes []mbox.Write) ([]mbox.Verdict, error) {
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	begun, leads := time.Now(), n.reign.Load() != nil
	verdicts := make([]mbox.Verdict, 0, len(writes))
	var last uint64
	for len(writes) > 0 {
		k := unitLen(writes)
		cmds := make([]fsm.Command, k)
		now := n.now().Unix()
		for i := range cmds {
			cmds[i] = fsm.MailboxWrite{Write: writes[i], At: now}
		}
		results, index, err := n.proposer.do(ctx, writes[0].By.ID, cmds...)
		if err == nil && forgotten(results) {
			err = mbox.ErrUnknownOutcome
		}
		if err != nil {
			if len(verdicts) > 0 {
				err = fmt.Errorf("%w: %d of the writes were made", mbox.ErrUnknownOutcome, len(verdicts))
			}
			n.metrics.write(begun, leads, err)
			return nil, err
		}
		for _, r := range results {
			verdicts = append(verdicts, r.Verdict)
		}
		last = max(last, index)
		writes = writes[k:]
	}
	if err := n.replica.wait(ctx, last); err != nil {
		n.metrics.write(begun, leads, err)
		return nil, fmt.Errorf("%w: it was made, but this node has not caught up with it", mbox.ErrUnknownOutcome)
	}
	n.metrics.write(begun, leads, nil)
	n.metrics.decided(verdicts)
	return verdicts, nil
}

// unitLen is how many of the first writes go into one unit: a run of one session, within the limits.
func unitLen(writes []mbox.Write) int {
	size := 0
	for i := range writes {
		size += sizeOfWrite(&writes[i])
		if i > 0 && (i == maxUnit || size > maxUnitOctets || writes[i].By.ID != writes[0].By.ID) {
			return i
		}
	}
	return len(writes)
}

func withDeadline(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, defaultDeadline)
}

// Barrier returns when everything that was committed before the call is in View, and the index. The
// error is mbox.ErrUnavailable when that cannot be told before ctx ends (10 s if it has no deadline).
//
// The leader asks the other voters whether it still leads (confirm.go). When that does not succeed at
// once, the read rides the next entry of the log: that the entry is committed proves the same.
func (n *Node) Barrier(ctx context.Context) (uint64, error) {
	if unsound {
		return n.View().Index(), nil
	}
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	begun := time.Now()
	for failures := 0; ; failures++ {
		index, err := n.readIndex(ctx)
		if err == nil {
			err = n.replica.wait(ctx, index)
		}
		if err == nil {
			err = n.confirmCopy()
		}
		if err == nil {
			n.metrics.barrier(begun, nil)
			return index, nil
		}
		if classOf(err) == classRefused || n.pause(ctx, failures) != nil {
			n.metrics.barrier(begun, err)
			return 0, fmt.Errorf("%w (%v)", mbox.ErrUnavailable, err)
		}
	}
}

// confirmCopy refuses to call a copy current that is, or may be, wrong.
func (n *Node) confirmCopy() error {
	if err := n.replica.doubted(); err != nil {
		return refuse("%v", err)
	}
	return nil
}

func (n *Node) readIndex(ctx context.Context) (uint64, error) {
	if r := n.reign.Load(); r != nil {
		type answer struct {
			index uint64
			err   error
		}
		c := make(chan answer, 1)
		if err := r.reader.read(pendingRead{done: func(i uint64, err error) { c <- answer{i, err} }}); err != nil {
			return 0, err
		}
		select {
		case a := <-c:
			return a.index, a.err
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	l, err := n.leaderLink(ctx)
	if err != nil {
		return 0, err
	}
	f, err := l.roundTrip(ctx, frameReadIndex, nil)
	if err != nil {
		return 0, err
	}
	d := decoder{buf: f.payload}
	index := d.uvarint()
	return index, d.err
}

// attempt hands a unit to the leader once: this node itself, or over the link to it.
func (n *Node) attempt(ctx context.Context, u *unit) ([]fsm.Result, uint64, error) {
	if r := n.reign.Load(); r != nil {
		type answer struct {
			results []fsm.Result
			index   uint64
			err     error
		}
		c := make(chan answer, 1)
		u.done = func(results []fsm.Result, index uint64, err error) { c <- answer{results, index, err} }
		if err := r.batcher.submit(u); err != nil {
			return nil, 0, err
		}
		select {
		case a := <-c:
			return a.results, a.index, a.err
		case <-ctx.Done():
			return nil, 0, unknownOutcome("waiting for the entry: %v", ctx.Err())
		}
	}
	l, err := n.leaderLink(ctx)
	if err != nil {
		return nil, 0, err
	}
	f, err := l.roundTrip(ctx, framePropose, func(dst []byte) []byte { return appendUnit(dst, u) })
	if err != nil {
		return nil, 0, err
	}
	index, results, err := decodeResults(f.payload)
	if err != nil || len(results) != len(u.cmds) {
		return nil, 0, unknownOutcome("answer of the leader: %d results for %d commands, %v", len(results), len(u.cmds), err)
	}
	return results, index, nil
}

// leaderLink returns the link to the leader.
func (n *Node) leaderLink(ctx context.Context) (*link, error) {
	e := n.engine.Load()
	if e == nil {
		return nil, errNotMember
	}
	id, addr := e.feed.leader()
	switch {
	case id == n.cfg.NodeID:
		return nil, notProposed("this node is about to lead")
	case id != "":
		return n.links.get(ctx, id, addr)
	}
	if h := n.sought.Load(); h != nil {
		return n.links.get(ctx, h.node, h.addr)
	}
	return nil, notProposed("no leader is known")
}

func (n *Node) notLeading() error {
	id, ok := n.Leader()
	if !ok || id == n.cfg.NodeID {
		return notProposed("node %s does not lead and knows no leader", n.cfg.NodeID)
	}
	return notProposed("node %s does not lead: node %s does", n.cfg.NodeID, id)
}

// pause waits before the next attempt: a little, and no longer once the leader changes. A new leader has
// to begin its work first, and is asked often for a while.
func (n *Node) pause(ctx context.Context, failures int) error {
	n.leaderMu.Lock()
	changed, since := n.leaderChanged, time.Since(n.leaderSince)
	n.leaderMu.Unlock()
	longest := 250 * time.Millisecond
	if since < time.Second {
		longest = 10 * time.Millisecond
	}
	t := time.NewTimer(min(5*time.Millisecond<<min(failures, 6), longest))
	defer t.Stop()
	select {
	case <-changed:
	case <-t.C:
	case <-ctx.Done():
		return ctx.Err()
	case <-n.ctx.Done():
		return errors.New("this node is stopping")
	}
	return nil
}
