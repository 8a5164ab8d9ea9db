package socketmap

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"murder/internal/backend"
	"murder/internal/limit"
	"murder/internal/listen"
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
	// DeferUnknown answers temporarily for recipients that are not there, for the time of a migration, as
	// lmtp.Config has it: an MTA that asks here first would bounce what LMTP defers.
	DeferUnknown bool
	Connections  int                   // at a time; 0 means 1000
	Logger       *slog.Logger          // nil discards
	Metrics      prometheus.Registerer // nil for none
}

// Server answers look-ups. Its methods may be called from any goroutine.
type Server struct {
	cfg     Config
	gate    listen.Gate[*conn]
	lookups *prometheus.CounterVec
	ctx     context.Context
	stop    context.CancelFunc
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
		cfg: cfg,
		lookups: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "murder_lookups_total",
			Help: "Questions of MTAs, by protocol (socketmap, tcp_table) and result (ok, notfound, temp, bad).",
		}, []string{"protocol", "result"}),
	}
	s.gate.Limit, s.gate.Log = limit.NewConns(cfg.Connections, 0), cfg.Logger
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

// Drain implements listen.Session. MTAs connect again elsewhere.
func (c *conn) Drain() { c.Close() }

// Cut implements listen.Session.
func (c *conn) Cut() { c.Close() }

func (s *Server) serve(ln net.Listener, request func(context.Context, *conn) error) error {
	return s.gate.Serve(ln, func(nc net.Conn) {
		c := &conn{Conn: nc, in: bufio.NewReaderSize(nc, maxTableLine)}
		defer nc.Close()
		leave, err := s.gate.Enter(listen.AddrPort(nc.RemoteAddr()).Addr(), c)
		if err != nil {
			s.cfg.Logger.Warn("look-up connection refused", "peer", nc.RemoteAddr().String(), "err", err)
			return
		}
		defer leave()
		defer func() {
			if p := recover(); p != nil {
				s.cfg.Logger.Error("look-up panicked", "panic", p, "stack", string(debug.Stack()))
			}
		}()
		err = s.run(c, request)
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

// Shutdown stops accepting and closes the connections.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stop()
	return s.gate.Shutdown(ctx)
}
