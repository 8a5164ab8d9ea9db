package listen

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"

	"murder/internal/limit"
)

// ErrClosing means that a server is shutting down and takes nobody in any more.
var ErrClosing = errors.New("shutting down")

// Session is a client that a Gate has let in. Its methods may be called from any goroutine.
type Session interface {
	comparable
	// Drain asks the session to end as soon as that does no harm.
	Drain()
	// Cut ends it now.
	Cut()
}

// Gate lets clients into a server: it accepts them, bounds their number, knows who is inside, and sees
// them out when the server shuts down. Its methods may be called from any goroutine; the zero value is
// ready.
type Gate[S Session] struct {
	Limit *limit.Conns // nil admits everybody
	Log   *slog.Logger

	listeners Listeners
	work      sync.WaitGroup // connections

	mu      sync.Mutex
	closing bool
	inside  map[S]struct{}
}

// Serve runs serve in a goroutine of its own for every connection that ln accepts, until Shutdown, which
// makes it return nil, or until ln fails. serve closes the connection. Serve closes ln.
func (g *Gate[S]) Serve(ln net.Listener, serve func(net.Conn)) error {
	return g.listeners.Serve(ln, g.Log, func(conn net.Conn) {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.closing {
			conn.Close()
			return
		}
		g.work.Go(func() { serve(conn) })
	})
}

// Enter lets a session in, and returns how it leaves. The error is ErrClosing, or says which limit has
// been reached.
func (g *Gate[S]) Enter(from netip.Addr, s S) (leave func(), err error) {
	if err := g.Limit.Acquire(from); err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closing {
		g.Limit.Release(from)
		return nil, ErrClosing
	}
	if g.inside == nil {
		g.inside = make(map[S]struct{})
	}
	g.inside[s] = struct{}{}
	return func() {
		g.mu.Lock()
		delete(g.inside, s)
		g.mu.Unlock()
		g.Limit.Release(from)
	}, nil
}

// Inside returns the sessions, in no order.
func (g *Gate[S]) Inside() []S {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := make([]S, 0, len(g.inside))
	for s := range g.inside {
		all = append(all, s)
	}
	return all
}

// Shutdown stops accepting, drains the sessions and waits for their end. When ctx ends first it cuts
// those that are left, and returns ctx's error.
func (g *Gate[S]) Shutdown(ctx context.Context) error {
	g.mu.Lock()
	g.closing = true
	g.mu.Unlock()
	g.listeners.Close()
	for _, s := range g.Inside() {
		s.Drain()
	}
	done := make(chan struct{})
	go func() {
		g.work.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	for _, s := range g.Inside() {
		s.Cut()
	}
	<-done
	return ctx.Err()
}
