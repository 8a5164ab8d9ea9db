package lmtp

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"murder/internal/mbox"
)

const (
	barrierLimit = 2 * time.Second
	barrierEvery = 250 * time.Millisecond // for one name
	barrierNames = 4096                   // names remembered
)

// barrier joins the questions of many recipients into few read barriers. One runs at a time; whoever
// comes while it runs shares the next, because the running one may have begun too early for them.
type barrier struct {
	dir     Directory
	total   *prometheus.CounterVec
	seconds prometheus.Histogram

	mu      sync.Mutex
	running bool
	next    *ticket
	asked   map[mbox.Name]time.Time // when a name may ask again
}

type ticket struct {
	done chan struct{}
	err  error
}

func newBarrier(dir Directory, reg prometheus.Registerer) *barrier {
	return &barrier{
		dir:   dir,
		asked: make(map[mbox.Name]time.Time),
		total: register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "murder_lmtp_barriers_total",
			Help: "Read barriers made for delivery and for the MTA's look-ups, by result (ok, failed).",
		}, []string{"result"})),
		seconds: register(reg, prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "murder_lmtp_barrier_seconds",
			Help:    "Time that read barriers took.",
			Buckets: []float64{.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2},
		})),
	}
}

// wait returns nil once everything committed before the call is visible. A name that asked within the
// last 250 ms waits for its turn, so that guessing at one address cannot keep the leader busy; the
// answer is never an old one.
func (b *barrier) wait(ctx context.Context, name mbox.Name) error {
	ctx, cancel := context.WithTimeout(ctx, barrierLimit)
	defer cancel()
	if delay := b.turn(name, time.Now()); delay > 0 {
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	f := b.join()
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return fmt.Errorf("waiting for the map: %w", ctx.Err())
	}
}

// turn returns how long a name must wait. Several that wait for the same turn share it.
func (b *barrier) turn(name mbox.Name, now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	at, known := b.asked[name]
	if known && now.Before(at) {
		if at.Sub(now) <= barrierEvery {
			b.asked[name] = at.Add(barrierEvery)
			return at.Sub(now)
		}
		return at.Sub(now) - barrierEvery // somebody has taken this turn already: go with him
	}
	if len(b.asked) >= barrierNames {
		for other, t := range b.asked {
			if !now.Before(t) {
				delete(b.asked, other)
			}
		}
		if len(b.asked) >= barrierNames {
			clear(b.asked)
		}
	}
	b.asked[name] = now.Add(barrierEvery)
	return 0
}

// join returns the first barrier that has not begun.
func (b *barrier) join() *ticket {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.next == nil {
		b.next = &ticket{done: make(chan struct{})}
	}
	if !b.running {
		b.running = true
		go b.run()
	}
	return b.next
}

// run makes barriers as long as somebody waits for one.
func (b *barrier) run() {
	for {
		b.mu.Lock()
		f := b.next
		b.next = nil
		if f == nil {
			b.running = false
			b.mu.Unlock()
			return
		}
		b.mu.Unlock()
		f.err = b.pass()
		close(f.done)
	}
}

func (b *barrier) pass() (err error) {
	began, result := time.Now(), "failed"
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("asking the map: panic: %v", p)
		}
		b.total.WithLabelValues(result).Inc()
		b.seconds.Observe(time.Since(began).Seconds())
	}()
	ctx, cancel := context.WithTimeout(context.Background(), barrierLimit)
	defer cancel()
	if _, err := b.dir.Barrier(ctx); err != nil {
		return err
	}
	result = "ok"
	return nil
}
