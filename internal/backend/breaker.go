package backend

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// breakAfter is how many failures in a row it takes. One could be a server that restarts; each more is another
	// caller who waits for nothing, and one too few costs breakFirst at most.
	breakAfter = 3
	breakFirst = 5 * time.Second
	breakMost  = 60 * time.Second
	alarmEvery = time.Minute
)

// breaker keeps callers from waiting for a server that does not answer. Closed, it lets everybody
// through; open, nobody; when its time is over, one caller goes and finds out for all.
type breaker struct {
	mu       sync.Mutex
	used     bool
	goodAt   time.Time // when somebody last heard from it on a new connection
	failures int       // in a row
	delay    time.Duration
	retryAt  time.Time // zero while closed
	probing  bool
	conns    int
	lastErr  error
	lastAt   time.Time
	alarmed  time.Time

	refusal   string // of our identity
	refusedAt time.Time
}

// admit reports whether a caller may go; probe is true for the one who goes on behalf of all and
// must say how it ended.
func (b *breaker) admit(now time.Time) (probe bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used = true
	if err := b.refusesLocked(now); err != nil {
		return false, err
	}
	b.probing = !b.retryAt.IsZero()
	return b.probing, nil
}

// refuses tells who would not be admitted why.
func (b *breaker) refuses(now time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.refusesLocked(now)
}

func (b *breaker) refusesLocked(now time.Time) error {
	if b.probing || now.Before(b.retryAt) {
		return fmt.Errorf("%w (%w)", ErrBreakerOpen, b.lastErr)
	}
	return nil
}

// open reports whether nobody would be admitted for a while.
func (b *breaker) open(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.probing && now.Before(b.retryAt)
}

// ok closes the breaker.
func (b *breaker) ok(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.goodAt = now
	b.failures, b.delay, b.retryAt, b.probing = 0, 0, time.Time{}, false
}

// failed counts the failure of somebody who began at a time. One for which he had to wait opens the breaker at once:
// nobody else need wait as long. Those of callers who had left before the breaker opened change nothing, and a server
// that has greeted others meanwhile is slow, not down.
func (b *breaker) failed(began, now time.Time, probe bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lastErr, b.lastAt = withoutSentinel(err), now
	if b.goodAt.After(began) {
		return // a probe too: who was greeted has closed the breaker
	}
	b.failures++
	if now.Sub(began) >= dialEach {
		b.failures = max(b.failures, breakAfter)
	}
	if !probe && (b.failures < breakAfter || !b.retryAt.IsZero()) {
		return
	}
	b.probing = false
	b.delay = min(max(2*b.delay, breakFirst), breakMost)
	b.retryAt = now.Add(time.Duration(float64(b.delay) * (0.8 + 0.4*rand.Float64())))
}

// undecided ends a probe that found out nothing; the next caller may try at once.
func (b *breaker) undecided() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.probing = false
}

func (b *breaker) count(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.conns += n
}

// refused notes that the server did not take our identity, and reports whether it is time to alarm
// again.
func (b *breaker) refused(now time.Time, err error) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used, b.refusal, b.refusedAt = true, err.Error(), now
	if now.Sub(b.alarmed) < alarmEvery {
		return false
	}
	b.alarmed = now
	return true
}

// status returns an empty Breaker for one that was never used.
func (b *breaker) status() State {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.used {
		return State{}
	}
	st := State{Breaker: "closed", Failures: b.failures, RetryAt: b.retryAt, Conns: b.conns, LastAt: b.lastAt,
		Refused: b.refusal, RefusedAt: b.refusedAt}
	switch {
	case b.probing:
		st.Breaker = "half-open"
	case !b.retryAt.IsZero():
		st.Breaker = "open"
	}
	if b.lastErr != nil {
		st.LastError = b.lastErr.Error()
	}
	return st
}

// withoutSentinel keeps the text of the last failure but not its identity: what was a TLS failure
// then is an open breaker now.
func withoutSentinel(err error) error { return errors.New(err.Error()) }
