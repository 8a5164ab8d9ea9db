package lmtp

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"murder/internal/backend"
	"murder/internal/mbox"
)

// pools holds the connections to all backends. Every one pins a process there, so they are few and
// short-lived.
type pools struct {
	ctx     context.Context // ends with the server
	cfg     *Config
	metrics *metrics

	mu     sync.Mutex
	closed bool
	m      map[mbox.Server]*pool
}

func newPools(ctx context.Context, cfg *Config, m *metrics) *pools {
	return &pools{ctx: ctx, cfg: cfg, metrics: m, m: make(map[mbox.Server]*pool)}
}

func (ps *pools) of(server mbox.Server) *pool {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p := ps.m[server]
	if p == nil {
		p = &pool{ctx: ps.ctx, cfg: ps.cfg, server: server, closed: ps.closed, seconds: ps.metrics.deliveries.WithLabelValues(string(server)),
			loops: ps.metrics.alerts.WithLabelValues("loop")}
		ps.m[server] = p
	}
	return p
}

// close ends unused connections and lets no new ones begin.
func (ps *pools) close() {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	ps.closed = true
	for _, p := range ps.m {
		p.close()
	}
}

// smallestSize is the smallest message limit seen on a backend that answers, 0 if none has one.
func (ps *pools) smallestSize() int64 {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	var least int64
	for server, p := range ps.m {
		if size := p.limit(); size > 0 && (least == 0 || size < least) && !ps.cfg.Backends.Broken(server, backend.LMTP) {
			least = size
		}
	}
	return least
}

// errBusy means that no connection became free in time.
var errBusy = errors.New("no connection to the backend became free")

// pool is the connections to one backend.
type pool struct {
	ctx     context.Context
	cfg     *Config
	server  mbox.Server
	seconds prometheus.Observer // from the client's final dot to the last reply
	loops   prometheus.Counter  // times that it was a frontend

	mu      sync.Mutex
	closed  bool
	open    int            // connections, and permissions to open one
	idle    []*client      // the last used at the end
	waiters []chan *client // first come, first served; nil is a permission to open one
	size    int64          // message limit seen last
}

// get returns a connection that is signed on. With fresh it is a new one. Without wait there must be
// one, or room for one, at once.
func (p *pool) get(ctx context.Context, fresh, wait bool) (*client, error) {
	c, err := p.slot(ctx, wait)
	if err != nil {
		return nil, err
	}
	if c != nil && (fresh || c.expired(p.cfg)) {
		c.quit()
		c = nil
	}
	if c != nil {
		return c, nil
	}
	c, err = dial(ctx, p.cfg, p.server)
	if err != nil {
		if errors.Is(err, backend.ErrLoop) {
			p.loops.Inc()
		}
		p.release()
		return nil, err
	}
	p.mu.Lock()
	p.size = c.size
	p.mu.Unlock()
	return c, nil
}

// spare returns an unused connection if nobody waits for one, or nil.
func (p *pool) spare() *client {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.idle)
	if p.closed || n == 0 || p.idle[n-1].expired(p.cfg) {
		return nil
	}
	c := p.idle[n-1]
	p.idle = p.idle[:n-1]
	c.expiry.Stop()
	return c
}

// slot returns an unused connection, or nil for the permission to open one.
func (p *pool) slot(ctx context.Context, wait bool) (*client, error) {
	p.mu.Lock()
	switch n := len(p.idle); {
	case p.closed:
		p.mu.Unlock()
		return nil, errBusy
	case n > 0:
		c := p.idle[n-1]
		p.idle = p.idle[:n-1]
		c.expiry.Stop()
		p.mu.Unlock()
		return c, nil
	case p.open < p.cfg.Limits.BackendConns:
		p.open++
		p.mu.Unlock()
		return nil, nil
	case !wait || len(p.waiters) >= p.cfg.Limits.BackendWaiters:
		p.mu.Unlock()
		return nil, errBusy
	}
	w := make(chan *client, 1)
	p.waiters = append(p.waiters, w)
	p.mu.Unlock()

	timer := time.NewTimer(p.cfg.Limits.BackendWait)
	defer timer.Stop()
	select {
	case c := <-w:
		return c, nil
	case <-timer.C:
	case <-ctx.Done():
	}
	if p.forget(w) {
		return nil, errBusy
	}
	// It came at the last moment.
	return <-w, nil
}

// forget takes a waiter out of the line; false means that it has been served.
func (p *pool) forget(w chan *client) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, other := range p.waiters {
		if other == w {
			p.waiters = append(p.waiters[:i], p.waiters[i+1:]...)
			return true
		}
	}
	return false
}

// put gives a connection back for others to use.
func (p *pool) put(c *client) {
	c.uses++
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed || c.expired(p.cfg):
		go c.quit()
		p.releaseLocked()
	case len(p.waiters) > 0:
		p.serve(c)
	default:
		p.idle = append(p.idle, c)
		c.expiry = time.AfterFunc(p.cfg.Limits.BackendIdle, func() { p.expire(c) })
	}
}

// drop closes a connection that is of no more use.
func (p *pool) drop(c *client) {
	c.conn.Close()
	p.release()
}

// release gives a permission back.
func (p *pool) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.releaseLocked()
}

func (p *pool) releaseLocked() {
	if len(p.waiters) > 0 {
		p.serve(nil)
	} else {
		p.open--
	}
}

func (p *pool) serve(c *client) {
	w := p.waiters[0]
	p.waiters = p.waiters[1:]
	w <- c
}

// expire closes a connection that has not been used for a while.
func (p *pool) expire(c *client) {
	p.mu.Lock()
	for i, other := range p.idle {
		if other == c {
			p.idle = append(p.idle[:i], p.idle[i+1:]...)
			p.open--
			p.mu.Unlock()
			c.quit()
			return
		}
	}
	p.mu.Unlock()
}

func (p *pool) close() {
	p.mu.Lock()
	idle := p.idle
	p.closed, p.idle = true, nil
	p.open -= len(idle)
	p.mu.Unlock()
	for _, c := range idle {
		c.expiry.Stop()
		c.quit()
	}
}

func (p *pool) limit() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.size
}
