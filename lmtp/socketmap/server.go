package socketmap

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"murder/internal/backend"
	"murder/internal/mbox"
	"murder/lmtp"
)

const (
	idleLimit  = 120 * time.Second // Postfix closes after 10 s of silence and 100 s of age
	writeLimit = 30 * time.Second
	gather     = 16 << 10 // octets of replies to pipelined requests in one write
)

// Backends says where servers take mail. *backend.Set satisfies it.
type Backends interface {
	Settings(server mbox.Server) backend.Settings
}

// Config says how a Server works.
type Config struct {
	Resolver *lmtp.Resolver // required
	// Backends gives host and LMTP port of servers; nil means the server's own name and port 2003.
	Backends Backends
	// ProxyTransport is the value of the map transport-proxy, such as lmtp:unix:/run/murder/lmtp.sock;
	// "" leaves that map out.
	ProxyTransport string
	Connections    int                   // at a time; 0 means 1000
	Logger         *slog.Logger          // nil discards
	Metrics        prometheus.Registerer // nil for none
}

// Server answers look-ups. Its methods may be called from any goroutine.
type Server struct {
	cfg     Config
	lookups *prometheus.CounterVec
	ctx     context.Context
	stop    context.CancelFunc
	work    sync.WaitGroup

	mu        sync.Mutex
	closing   bool
	listeners map[net.Listener]struct{}
	conns     map[net.Conn]struct{}
}

// New returns a server that listens on nothing yet. Shutdown must be called to release it.
func New(cfg Config) (*Server, error) {
	if cfg.Resolver == nil {
		return nil, errors.New("socketmap: no resolver")
	}
	if cfg.Connections == 0 {
		cfg.Connections = 1000
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		cfg:       cfg,
		listeners: make(map[net.Listener]struct{}),
		conns:     make(map[net.Conn]struct{}),
		lookups: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "murder_lookups_total",
			Help: "Questions of MTAs, by protocol (socketmap, tcp_table) and result (ok, notfound, temp, bad).",
		}, []string{"protocol", "result"}),
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	if cfg.Metrics != nil {
		var already prometheus.AlreadyRegisteredError
		if err := cfg.Metrics.Register(s.lookups); errors.As(err, &already) {
			if existing, ok := already.ExistingCollector.(*prometheus.CounterVec); ok {
				s.lookups = existing
			}
		}
	}
	return s, nil
}

func (s *Server) count(protocol string, a answer) {
	s.lookups.WithLabelValues(protocol, [...]string{"ok", "notfound", "temp", "bad"}[a.kind]).Inc()
}

// Serve answers socketmap requests until the server is shut down, which returns nil, or ln fails. It
// closes ln.
func (s *Server) Serve(ln net.Listener) error {
	return s.serve(ln, s.socketmap)
}

// ServeTable answers tcp_table requests from one of the maps, as Serve does.
func (s *Server) ServeTable(ln net.Listener, table string) error {
	return s.serve(ln, func(ctx context.Context, c *conn) error { return s.table(ctx, c, table) })
}

// conn is one client.
type conn struct {
	net.Conn
	in  *bufio.Reader
	out []byte
	buf []byte
}

func (s *Server) serve(ln net.Listener, request func(context.Context, *conn) error) error {
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return ln.Close()
	}
	s.listeners[ln] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.listeners, ln)
		s.mu.Unlock()
		ln.Close()
	}()
	for {
		nc, err := ln.Accept()
		var temporary interface{ Temporary() bool }
		switch {
		case err == nil:
			s.accept(nc, request)
		case s.ctx.Err() != nil:
			return nil
		case errors.As(err, &temporary) && temporary.Temporary():
			s.cfg.Logger.Error("accept failed", "err", err)
			select {
			case <-time.After(100 * time.Millisecond):
			case <-s.ctx.Done():
			}
		default:
			return fmt.Errorf("accepting look-up connections: %w", err)
		}
	}
}

func (s *Server) accept(nc net.Conn, request func(context.Context, *conn) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing || len(s.conns) >= s.cfg.Connections {
		nc.Close()
		return
	}
	s.conns[nc] = struct{}{}
	s.work.Go(func() {
		defer func() {
			if p := recover(); p != nil {
				s.cfg.Logger.Error("look-up panicked", "panic", p, "stack", string(debug.Stack()))
			}
			s.mu.Lock()
			delete(s.conns, nc)
			s.mu.Unlock()
			nc.Close()
		}()
		c := &conn{Conn: nc, in: bufio.NewReaderSize(nc, maxTableLine)}
		err := s.run(c, request)
		if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrDeadlineExceeded) {
			s.cfg.Logger.Debug("look-up connection closed", "peer", nc.RemoteAddr().String(), "err", err)
		}
	})
}

// run answers requests in order. Replies to requests that came together leave together.
func (s *Server) run(c *conn, request func(context.Context, *conn) error) error {
	for {
		if c.in.Buffered() == 0 || len(c.out) >= gather {
			if err := c.flush(); err != nil {
				return err
			}
			c.SetReadDeadline(time.Now().Add(idleLimit))
		}
		if err := request(s.ctx, c); err != nil {
			c.flush()
			return err
		}
	}
}

func (c *conn) flush() error {
	if len(c.out) == 0 {
		return nil
	}
	c.SetWriteDeadline(time.Now().Add(writeLimit))
	_, err := c.Write(c.out)
	c.out = c.out[:0]
	return err
}

// Shutdown stops accepting and closes the connections; MTAs connect again elsewhere.
func (s *Server) Shutdown() {
	s.mu.Lock()
	s.closing = true
	s.stop()
	for ln := range s.listeners {
		ln.Close()
	}
	for nc := range s.conns {
		nc.Close()
	}
	s.mu.Unlock()
	s.work.Wait()
}
