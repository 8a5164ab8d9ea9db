package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"murder/fsm"
	"murder/internal/mbox"
)

const (
	defaultDeadline = 10 * time.Second
	admissionWait   = 2 * time.Second
	// maxUnsettled is how far sequence numbers may be ahead of the oldest one without an answer: the
	// state machine remembers that many decisions of each process.
	maxUnsettled  = 4096
	maxUnit       = 256
	maxUnitOctets = 128 << 10
)

// proposer numbers the commands of this process, so that one that is sent twice happens once. The
// numbers belong to an incarnation, which the process registers in the log.
type proposer struct {
	node  string
	nonce string
	// submit makes one attempt with a unit.
	submit submitter
	// pause waits a little after a failed attempt, or until there is a leader.
	pause           func(ctx context.Context, failures int) error
	retry, repeated func() // count, for metrics

	registering chan struct{} // capacity 1: a lock that can be given up

	mu          sync.Mutex
	id          uint64
	incarnation uint64
	next        uint64
	open        []*span // in order of number, the first is unsettled
	settled     chan struct{}

	queue admission
}

// submitter makes one attempt with a unit.
type submitter func(ctx context.Context, u *unit) ([]fsm.Result, uint64, error)

// span is a run of sequence numbers given to one unit.
type span struct {
	proposer, incarnation uint64
	first, n              uint64
	settled               bool
}

func newProposer(node string) *proposer {
	return &proposer{
		node: node, nonce: rand.Text(), registering: make(chan struct{}, 1), settled: make(chan struct{}),
		queue: admission{freed: make(chan struct{})},
	}
}

// do proposes commands as one unit and returns their results and the index of their entry. They are
// sent until an answer comes or ctx ends. The error is mbox.ErrUnavailable if nothing can have
// happened, mbox.ErrUnknownOutcome if something may have, or a refusal.
func (p *proposer) do(ctx context.Context, flow string, cmds ...fsm.Command) ([]fsm.Result, uint64, error) {
	size := sizeOf(cmds)
	if err := p.queue.enter(ctx, len(cmds), size); err != nil {
		return nil, 0, err
	}
	defer p.queue.leave(len(cmds), size)

	for {
		if err := p.register(ctx); err != nil {
			return nil, 0, giveUp(false, err)
		}
		s, err := p.begin(ctx, len(cmds))
		if err != nil {
			return nil, 0, giveUp(false, err)
		}
		if s == nil {
			continue // another unit has just found out that the registration is gone
		}
		results, index, maybe, err := p.send(ctx, s, flow, cmds)
		p.settle(s)
		if err != nil {
			return nil, 0, giveUp(maybe, err)
		}
		if !forgotten(results) {
			return results, index, nil
		}
		// The state machine has forgotten this incarnation: this process was silent for long. This
		// attempt has not been applied, but one whose answer was lost may have been.
		p.forget(s)
		if maybe {
			return nil, 0, mbox.ErrUnknownOutcome
		}
	}
}

// send repeats a unit under the same numbers. maybe reports that an attempt before the last may have
// been applied.
func (p *proposer) send(ctx context.Context, s *span, flow string, cmds []fsm.Command) (results []fsm.Result, index uint64, maybe bool, err error) {
	for failures := 0; ; failures++ {
		results, index, err = p.submit(ctx, newUnit(flow, p.envelopes(s, cmds)...))
		if err == nil {
			if len(results) > 0 && results[0].Repeat {
				p.repeated()
			}
			return results, index, maybe, nil
		}
		switch classOf(err) {
		case classRefused:
			return nil, 0, maybe, err
		case classUnknown:
			maybe = true
		}
		if perr := p.pause(ctx, failures); perr != nil {
			return nil, 0, maybe, err
		}
		p.retry()
	}
}

func (p *proposer) envelopes(s *span, cmds []fsm.Command) []fsm.Envelope {
	low := p.lowWater()
	out := make([]fsm.Envelope, len(cmds))
	for i, c := range cmds {
		out[i] = fsm.Envelope{
			Proposer: s.proposer, Incarnation: s.incarnation,
			Sequence: s.first + uint64(i), LowWater: min(low, s.first),
			Command: c,
		}
	}
	return out
}

// giveUp turns what a caller may not see into what it may.
func giveUp(uncertain bool, err error) error {
	var f *failure
	switch {
	case uncertain:
		return mbox.ErrUnknownOutcome
	case errors.As(err, &f) && f.class == classRefused:
		return err
	default:
		return fmt.Errorf("%w (%v)", mbox.ErrUnavailable, err)
	}
}

// forgotten reports that the state machine did not know the incarnation any more.
func forgotten(results []fsm.Result) bool {
	return len(results) > 0 && results[0].Outcome == mbox.NotProcessed && !results[0].Repeat
}

// register gets this process its numbers. It may be repeated: the nonce makes it one registration.
func (p *proposer) register(ctx context.Context) error {
	select {
	case p.registering <- struct{}{}:
		defer func() { <-p.registering }()
	case <-ctx.Done():
		return ctx.Err()
	}
	p.mu.Lock()
	known := p.incarnation != 0
	nonce := p.nonce
	p.mu.Unlock()
	if known {
		return nil
	}
	cmd := fsm.Envelope{Command: fsm.RegisterProposer{NodeID: p.node, Nonce: nonce}}
	for failures := 0; ; failures++ {
		results, _, err := p.submit(ctx, newUnit("", cmd))
		if err == nil {
			if r := results[0]; r.Refusal != fsm.NotRefused || r.Incarnation == 0 {
				return refuse("node %s cannot register as a writer: %s: is it still a member of the cluster?", p.node, r.Refusal)
			}
			p.mu.Lock()
			p.id, p.incarnation, p.next = results[0].Proposer, results[0].Incarnation, 1
			p.open = nil
			p.mu.Unlock()
			return nil
		}
		if classOf(err) == classRefused {
			return err
		}
		if perr := p.pause(ctx, failures); perr != nil {
			return err
		}
	}
}

// forget drops a registration that the state machine has dropped. Another unit may have registered anew by
// now: after a long silence with another proposer number and the same incarnation, the first.
func (p *proposer) forget(s *span) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.id == s.proposer && p.incarnation == s.incarnation {
		p.incarnation, p.nonce = 0, rand.Text()
	}
}

// begin takes the next numbers, when the oldest open ones are not too far back. It returns nil if this
// process is not registered.
func (p *proposer) begin(ctx context.Context, n int) (*span, error) {
	for {
		p.mu.Lock()
		if p.incarnation == 0 {
			p.mu.Unlock()
			return nil, nil
		}
		if len(p.open) == 0 || p.next+uint64(n)-p.open[0].first <= maxUnsettled {
			s := &span{proposer: p.id, incarnation: p.incarnation, first: p.next, n: uint64(n)}
			p.next += uint64(n)
			p.open = append(p.open, s)
			p.mu.Unlock()
			return s, nil
		}
		settled := p.settled
		p.mu.Unlock()
		select {
		case <-settled:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// settle says that no attempt with these numbers will be made any more.
func (p *proposer) settle(s *span) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.settled = true
	for len(p.open) > 0 && p.open[0].settled {
		p.open = p.open[1:]
	}
	close(p.settled)
	p.settled = make(chan struct{})
}

func (p *proposer) lowWater() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.open) > 0 {
		return p.open[0].first
	}
	return p.next
}

// admission bounds what waits on this node.
type admission struct {
	mu       sync.Mutex
	commands int
	octets   int
	freed    chan struct{}
}

func (a *admission) enter(ctx context.Context, commands, octets int) error {
	var timeout <-chan time.Time
	for {
		a.mu.Lock()
		if a.commands+commands <= maxQueue && a.octets+octets <= maxQueueBytes {
			a.commands += commands
			a.octets += octets
			a.mu.Unlock()
			return nil
		}
		freed := a.freed
		a.mu.Unlock()
		if timeout == nil {
			t := time.NewTimer(admissionWait)
			defer t.Stop()
			timeout = t.C
		}
		select {
		case <-freed:
		case <-timeout:
			return fmt.Errorf("%w (too many writes are waiting on this node)", mbox.ErrUnavailable)
		case <-ctx.Done():
			return fmt.Errorf("%w (%v)", mbox.ErrUnavailable, ctx.Err())
		}
	}
}

func (a *admission) leave(commands, octets int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.commands -= commands
	a.octets -= octets
	close(a.freed)
	a.freed = make(chan struct{})
}

// sizeOf estimates the octets that commands take in the log.
func sizeOf(cmds []fsm.Command) int {
	size := 0
	for _, c := range cmds {
		if w, ok := c.(fsm.MailboxWrite); ok {
			size += sizeOfWrite(&w.Write)
		} else {
			size += 256
		}
	}
	return size
}

func sizeOfWrite(w *mbox.Write) int {
	n := 64 + len(w.Name) + len(w.Location) + len(w.ACL) + len(w.By.ID) + len(w.By.Identity) + len(w.By.Peer)
	for _, s := range w.By.Servers {
		n += len(s) + 1
	}
	return n
}
