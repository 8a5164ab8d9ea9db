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
	names   map[mbox.Name]*asking // that have asked lately
}

// ticket is a barrier to come.
type ticket struct {
	done chan struct{}
	err  error
}

// asking is a name that has asked.
type asking struct {
	again time.Time // when it may ask again
	next  *ticket   // for those who wait until then
}

func newBarrier(dir Directory, reg prometheus.Registerer) *barrier {
	return &barrier{
		dir:   dir,
		names: make(map[mbox.Name]*asking),
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
	t := b.ask(name)
	select {
	case <-t.done:
		return t.err
	case <-ctx.Done():
		return fmt.Errorf("waiting for the map: %w", ctx.Err())
	}
}

// ask returns the first barrier that begins after the call and that name may have.
func (b *barrier) ask(name mbox.Name) *ticket {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	a := b.names[name]
	if a == nil || !now.Before(a.again) && a.next == nil {
		b.forget(now)
		b.names[name] = &asking{again: now.Add(barrierEvery)}
		return b.join()
	}
	if a.next == nil {
		a.next = &ticket{done: make(chan struct{})}
		time.AfterFunc(a.again.Sub(now), func() { b.turn(a) })
	}
	return a.next
}

// turn lets those go on who waited for a name's turn.
func (b *barrier) turn(a *asking) {
	b.mu.Lock()
	t := a.next
	a.next, a.again = nil, time.Now().Add(barrierEvery)
	shared := b.join()
	b.mu.Unlock()
	<-shared.done
	t.err = shared.err
	close(t.done)
}

// forget makes room for another name.
func (b *barrier) forget(now time.Time) {
	if len(b.names) < barrierNames {
		return
	}
	for name, a := range b.names {
		if !now.Before(a.again) && a.next == nil {
			delete(b.names, name)
		}
	}
	if len(b.names) >= barrierNames {
		clear(b.names)
	}
}

// join returns the first barrier that has not begun.
func (b *barrier) join() *ticket {
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
