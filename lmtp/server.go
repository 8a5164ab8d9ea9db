package lmtp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"murder/internal/limit"
	"murder/internal/listen"
	"murder/internal/socket"
)

// Server accepts mail. Its methods may be called from any goroutine.
type Server struct {
	cfg     Config
	gate    listen.Gate[*session]
	metrics *metrics
	pools   *pools
	store   *store
	ctx     context.Context // ends when sessions must give up
	stop    context.CancelFunc
}

// New returns a server that listens on nothing yet. Shutdown must be called to release it.
func New(cfg Config) (*Server, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, metrics: newMetrics(cfg.Metrics)}
	s.gate.Limit = limit.NewConns(cfg.Limits.Connections, cfg.Limits.PerSource)
	s.gate.Log = cfg.Logger
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.pools = newPools(s.ctx, &s.cfg, s.metrics)
	s.store = newStore(cfg.SpoolDir, cfg.Limits, s.metrics)
	return s, nil
}

// ListenOptions say how a listener's clients are treated.
type ListenOptions struct {
	// TLS starts sessions with a handshake; nil starts in clear, with STARTTLS if Config.TLS is set.
	TLS *tls.Config
	// Trusted clients need no AUTH. On a wildcard address this holds for Config.TrustedNetworks
	// only, and there must be some. Unix sockets are always trusted: who may connect is the listener's affair.
	Trusted bool
}

// ErrListener means a listener that would be dangerous.
var ErrListener = errors.New("lmtp: refused to listen")

func (s *Server) checkListener(addr net.Addr, opt *ListenOptions) error {
	tcp, ok := addr.(*net.TCPAddr)
	switch {
	case !ok:
		return nil
	case tcp.Port == 25:
		return fmt.Errorf("%w on %s: port 25 belongs to SMTP (RFC 2033 section 5)", ErrListener, addr)
	case opt.Trusted && tcp.IP.IsUnspecified() && len(s.cfg.TrustedNetworks) == 0:
		return fmt.Errorf("%w on %s: trusted on all addresses, but no trusted networks are given", ErrListener, addr)
	case opt.Trusted && tcp.IP.IsUnspecified():
		opt.Trusted = false // the networks decide
	}
	return nil
}

// Serve accepts connections until the server is shut down, which returns nil, or ln fails. It closes
// ln. Listeners that would be open relays or sit on port 25 are refused with ErrListener.
func (s *Server) Serve(ln net.Listener, opt ListenOptions) error {
	if err := s.checkListener(ln.Addr(), &opt); err != nil {
		ln.Close()
		return err
	}
	return s.gate.Serve(ln, func(conn net.Conn) { s.serve(conn, opt) })
}

// serve is the life of one connection.
func (s *Server) serve(conn net.Conn, opt ListenOptions) {
	defer conn.Close()
	peer, local, err := listen.Named(conn, s.cfg.Proxies)
	if err != nil {
		s.cfg.Logger.Warn("connection without a client", "err", err)
		return
	}
	ss := newSession(s, socket.New(conn), peer, local, opt)
	leave, err := s.gate.Enter(peer.Addr(), ss)
	if err != nil {
		s.turnAway(ss, opt, err)
		return
	}
	defer leave()
	s.metrics.sessions.Inc()
	defer s.metrics.sessions.Dec()
	ss.run(opt.TLS)
}

// turnAway tells a client why it cannot stay. One that expects TLS just finds the connection closed.
func (s *Server) turnAway(ss *session, opt ListenOptions, err error) {
	rep := replyClosing
	if !errors.Is(err, listen.ErrClosing) {
		rep = replyFull
		s.metrics.refused.Inc()
		ss.log.Warn("client turned away", "err", err)
	}
	if opt.TLS == nil {
		ss.conn.SetDeadline(time.Now().Add(time.Second))
		ss.conn.Write(rep.appendTo(nil))
	}
}

// trusts reports whether a client needs no AUTH.
func (s *Server) trusts(conn net.Conn, peer netip.AddrPort, opt ListenOptions) bool {
	if _, unix := conn.(*net.UnixConn); unix || opt.Trusted {
		return true
	}
	return listen.Trusts(s.cfg.TrustedNetworks, peer.Addr())
}

// Shutdown stops accepting, sends idle clients away, lets transactions finish until ctx ends, and
// then closes what is left.
func (s *Server) Shutdown(ctx context.Context) error {
	over := context.AfterFunc(ctx, s.stop)
	err := s.gate.Shutdown(ctx)
	over()
	s.stop()
	s.pools.close()
	return err
}
