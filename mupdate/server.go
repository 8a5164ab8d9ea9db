package mupdate

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"log/slog"
	"net"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"murder/internal/listen"
)

// Server serves MUPDATE on any number of listeners. Its methods may be called concurrently.
type Server struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics

	nonce   string // drawn at start, part of every session id
	counter atomic.Uint64
	closing atomic.Bool
	ctx     context.Context // ends when sessions must give up
	cancel  context.CancelFunc
	wg      sync.WaitGroup // sessions
	streams atomic.Int64
	ends    ends
	guard   shrinkGuard

	listeners listen.Listeners

	mu        sync.Mutex
	conns     map[*conn]struct{}
	strangers map[*conn]struct{} // of conns, those that have not logged in
	grace     time.Duration      // in which a stranger is not turned out
}

// New returns a server that is not serving yet. It panics without a Directory or without Auth.
func New(cfg Config) *Server {
	if cfg.Directory == nil || cfg.Auth == nil {
		panic("mupdate: Config needs Directory and Auth")
	}
	cfg.setDefaults()
	var nonce [6]byte
	rand.Read(nonce[:])
	ctx, cancel := context.WithCancel(context.Background())
	s := &Server{
		cfg:     cfg,
		log:     cfg.Logger,
		metrics: newMetrics(cfg.Metrics),
		nonce:   hex.EncodeToString(nonce[:]),
		ctx:     ctx,
		cancel:  cancel,
		conns:   make(map[*conn]struct{}),

		strangers: make(map[*conn]struct{}),
		grace:     5 * time.Second,
	}
	s.guard.open(cfg.GuardFile, s.log)
	return s
}

// Serve accepts connections until Shutdown, when it returns nil, or a fatal error of the listener,
// which it closes. A listener whose connections are *tls.Conn serves implicit TLS.
func (s *Server) Serve(ln net.Listener) error {
	return s.listeners.Serve(ln, s.log, s.admit)
}

func (s *Server) admit(nc net.Conn) {
	c := newConn(s, nc)
	s.mu.Lock()
	switch {
	case s.closing.Load():
		s.mu.Unlock()
		nc.Close()
		return
	case len(s.conns) >= s.cfg.MaxConnections && !s.makeRoom():
		s.mu.Unlock()
		s.metrics.connections.WithLabelValues("refused").Inc()
		if _, encrypted := nc.(*tls.Conn); !encrypted {
			nc.SetDeadline(time.Now().Add(100 * time.Millisecond)) // reading too: a proxy has to name the client before anything
			nc.Write([]byte("* BYE \"Server Unable\"\r\n"))
		}
		nc.Close()
		return
	}
	s.conns[c], s.strangers[c] = struct{}{}, struct{}{}
	s.wg.Add(1)
	s.mu.Unlock()
	s.metrics.connections.WithLabelValues("accepted").Inc()
	s.metrics.open.Inc()
	go s.run(c)
}

// makeRoom turns out who has waited longest with the login: connections that do nothing must not keep backends
// away, which need a new one for every mailbox.
func (s *Server) makeRoom() bool {
	var first *conn
	for c := range s.strangers {
		if first == nil || c.started.Before(first.started) {
			first = c
		}
	}
	if first == nil || time.Since(first.started) < s.grace {
		return false
	}
	s.remove(first)
	s.metrics.connections.WithLabelValues("evicted").Inc()
	first.evicted.Store(true)
	first.interrupt()
	return true
}

func (s *Server) remove(c *conn) {
	delete(s.conns, c)
	delete(s.strangers, c)
}

// run is the life of one connection. A panic ends this one only.
func (s *Server) run(c *conn) {
	defer s.wg.Done()
	defer func() {
		if r := recover(); r != nil {
			s.log.Error("panic in a session", "conn", c.session.ID, "err", r, "stack", string(debug.Stack()))
			c.base.Close()
			if c.stream != nil {
				c.stream.stop()
				<-c.stream.done
			}
		}
		s.mu.Lock()
		s.remove(c)
		s.mu.Unlock()
		s.metrics.open.Dec()
		c.endSession()
	}()
	c.serve()
}

func (s *Server) sessionID() string {
	return s.cfg.NodeID + "-" + s.nonce + "-" + strconv.FormatUint(s.counter.Add(1), 36)
}

// Shutdown closes the listeners, lets every session finish the commands it has received and say BYE,
// and waits. When ctx ends first, what is left is cut off and ctx's error returned.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.closing.Store(true)
	s.listeners.Close()
	for c := range s.conns {
		c.interrupt()
	}
	s.mu.Unlock()
	done := make(chan struct{})
	go func() { s.wg.Wait(); close(done) }()
	defer func() { s.cancel(); s.ends.wg.Wait() }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	s.cancel()
	s.mu.Lock()
	for c := range s.conns {
		c.base.Close()
	}
	s.mu.Unlock()
	<-done
	return ctx.Err()
}

// Connections returns the number of open connections.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// AllowShrink lets the next dump through although it holds less than half of what the one before
// held. An operator confirms with it that the records are really gone.
func (s *Server) AllowShrink() { s.guard.set(0) }
