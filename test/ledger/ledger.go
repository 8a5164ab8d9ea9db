// Package ledger writes to the mailbox map without pause through MUPDATE and remembers what it was
// promised, so that a test can kill nodes meanwhile and then tell whether a promise was broken.
//
// Every write that was answered OK must be in the map afterwards; one that was refused must not; one
// whose answer never came may be in it or not, and its name is left alone from then on, so that
// nothing later can hide what became of it.
package ledger

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"murder/internal/mbox"
	"murder/mupdate"
)

const (
	// opTimeout bounds one write; a node must answer or close within 10 s.
	opTimeout = 15 * time.Second
	acl       = "owner\tlrswipkxtecdan\t"
)

// Ledger is a set of writers. It is safe for concurrent use.
type Ledger struct {
	user, password string
	stop           context.CancelFunc
	wg             sync.WaitGroup
	pace           atomic.Int64

	mu      sync.Mutex
	names   map[mbox.Name]*promise
	acked   int
	unknown int
	refused int
	refusal string        // the first
	slowest time.Duration // of the writes that were answered
	last    time.Time     // of the last acknowledged write
	gap     time.Duration // the longest time between two of them
	taken   time.Duration // the same since TakeGap
	changed chan struct{} // closed and replaced at every acknowledged write
}

// promise is what is known of one name: the location that was acknowledged last ("" for none), and
// the one that a write without an answer would have left.
type promise struct {
	settled mbox.Location
	open    bool
	maybe   mbox.Location
}

// Start begins to write with count writers. Each prefers another of the addresses and takes the
// next when it is lost.
func Start(count int, addrs []string, user, password string) *Ledger {
	var orders [][]string
	for w := range count {
		orders = append(orders, append(append([]string(nil), addrs[w%len(addrs):]...), addrs[:w%len(addrs)]...))
	}
	return start(orders, user, password)
}

// StartAtEach begins to write with one writer at each address, which stays there and waits while nobody answers.
func StartAtEach(addrs []string, user, password string) *Ledger {
	var orders [][]string
	for _, a := range addrs {
		orders = append(orders, []string{a})
	}
	return start(orders, user, password)
}

func start(orders [][]string, user, password string) *Ledger {
	ctx, stop := context.WithCancel(context.Background())
	l := &Ledger{user: user, password: password, stop: stop, names: map[mbox.Name]*promise{}, last: time.Now(), changed: make(chan struct{})}
	for w, order := range orders {
		l.wg.Add(1)
		go l.write(ctx, w, order)
	}
	return l
}

// Stop ends the writers after the write that each is at.
func (l *Ledger) Stop() {
	l.stop()
	l.wg.Wait()
}

// Summary says how many writes were acknowledged, how many stayed without an answer, and the longest
// time in which none was acknowledged.
func (l *Ledger) Summary() (acked, unknown int, gap time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acked, l.unknown, l.gap
}

// Pace makes every writer wait so long between two writes: for a run of hours.
func (l *Ledger) Pace(d time.Duration) { l.pace.Store(int64(d)) }

// TakeGap returns the longest time without an acknowledged write since it was last asked, also if that has not
// ended.
func (l *Ledger) TakeGap() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	gap := max(l.taken, time.Since(l.last))
	l.taken = 0
	return gap
}

// Refused says how many writes were answered with a refusal, with the first, and how long the slowest answer
// took. No two writers write the same name, so a refusal means that a write could not be made in time.
func (l *Ledger) Refused() (count int, first string, slowest time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.refused, l.refusal, l.slowest
}

// Await waits until count more writes have been acknowledged.
func (l *Ledger) Await(ctx context.Context, count int) error {
	l.mu.Lock()
	want := l.acked + count
	for {
		have, changed := l.acked, l.changed
		l.mu.Unlock()
		if have >= want {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("waiting for write %d, at %d: %w", want, have, ctx.Err())
		}
		l.mu.Lock()
	}
}

// GoOn is Await for a test, which fails if so much has not been written within a time.
func (l *Ledger) GoOn(t testing.TB, count int, within time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	if err := l.Await(ctx, count); err != nil {
		t.Fatal(err)
	}
}

// write is one writer. Every name lives the same life: reserved and activated, moved to another
// partition, and every third deleted.
func (l *Ledger) write(ctx context.Context, writer int, addrs []string) {
	defer l.wg.Done()
	var c *mupdate.Client
	defer func() {
		if c != nil {
			c.Close()
		}
	}()
	for i := 0; ctx.Err() == nil; i++ {
		name := mbox.Name(fmt.Sprintf("user.w%d.n%d", writer, i))
		server := mbox.Server(fmt.Sprintf("w%d.ledger.test", writer))
		steps := []struct {
			kind mbox.Kind
			at   mbox.Location
		}{
			{mbox.Reserve, mbox.At(server, "one")}, {mbox.Activate, mbox.At(server, "one")}, {mbox.Activate, mbox.At(server, "two")},
		}
		if i%3 == 0 {
			steps = append(steps, steps[0])
			steps[3].kind, steps[3].at = mbox.Delete, ""
		}
		for _, s := range steps {
			for c == nil && ctx.Err() == nil {
				c = l.dial(ctx, addrs)
			}
			if ctx.Err() != nil {
				return
			}
			if d := l.pace.Load(); d > 0 {
				time.Sleep(time.Duration(d))
			}
			sent := time.Now()
			err := l.send(c, s.kind, name, s.at)
			if !l.note(name, s.kind, s.at, time.Since(sent), err) {
				c.Close()
				c = nil
				break
			}
			if err != nil {
				break // refused: another name
			}
		}
	}
}

func (l *Ledger) dial(ctx context.Context, addrs []string) *mupdate.Client {
	c, err := mupdate.Dial(ctx, mupdate.ClientConfig{Addresses: addrs, DialTimeout: time.Second, Timeout: opTimeout,
		SASL: mupdate.Password(l.user, l.password)})
	if err != nil {
		select { // not in a hurry: nobody may be there
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
		return nil
	}
	return c
}

func (l *Ledger) send(c *mupdate.Client, kind mbox.Kind, name mbox.Name, at mbox.Location) error {
	ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
	defer cancel()
	switch kind {
	case mbox.Reserve:
		return c.Reserve(ctx, name, at)
	case mbox.Activate:
		return c.Activate(ctx, name, at, acl)
	}
	return c.Delete(ctx, name)
}

// note records an answer; false means that the connection is of no more use.
func (l *Ledger) note(name mbox.Name, kind mbox.Kind, at mbox.Location, took time.Duration, err error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.names[name]
	if p == nil {
		p = &promise{}
		l.names[name] = p
	}
	var refusal *mupdate.ResponseError
	if errors.As(err, &refusal) && refusal.Status != "BYE" {
		if l.refused++; l.refused == 1 {
			l.refusal = fmt.Sprintf("%s: %v", name, err)
		}
		l.slowest = max(l.slowest, took)
		return true
	}
	if err != nil {
		l.unknown++
		if kind == mbox.Reserve {
			at = "" // a reservation is no mailbox yet
		}
		p.open, p.maybe = true, at
		return false
	}
	l.slowest = max(l.slowest, took)
	if kind == mbox.Reserve {
		return true
	}
	p.settled = at
	now := time.Now()
	l.gap, l.taken = max(l.gap, now.Sub(l.last)), max(l.taken, now.Sub(l.last))
	l.last = now
	l.acked++
	close(l.changed)
	l.changed = make(chan struct{})
	return true
}

// Check compares a node's map with the promises and returns what is broken, at most ten lines. The
// writers must have been stopped.
func (l *Ledger) Check(ctx context.Context, addr string) error {
	c, err := mupdate.Dial(ctx, mupdate.ClientConfig{Addresses: []string{addr}, Timeout: opTimeout, SASL: mupdate.Password(l.user, l.password)})
	if err != nil {
		return err
	}
	defer c.Close()
	found := map[mbox.Name]mbox.Location{}
	err = c.List(ctx, "", func(e mbox.Entry) error {
		if e.State == mbox.Active && strings.HasSuffix(string(e.Location.Server()), ".ledger.test") {
			found[e.Name] = e.Location
		}
		return nil
	})
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var broken []string
	for name, p := range l.names {
		if got := found[name]; got != p.settled && !(p.open && got == p.maybe) {
			broken = append(broken, fmt.Sprintf("%s: is at %q, promised %q (open %v, %q)", name, got, p.settled, p.open, p.maybe))
		}
		delete(found, name)
	}
	for name, at := range found {
		broken = append(broken, fmt.Sprintf("%s: is at %q, never written", name, at))
	}
	if len(broken) == 0 {
		return nil
	}
	return fmt.Errorf("%s breaks %d of %d promises:\n%s", addr, len(broken), len(l.names), strings.Join(broken[:min(10, len(broken))], "\n"))
}
