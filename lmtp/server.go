package lmtp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"murder/internal/limit"
)

// Server accepts mail. Its methods may be called from any goroutine.
type Server struct {
	cfg     Config
	conns   *limit.Conns
	metrics *metrics
	pools   *pools
	store   *store
	ctx     context.Context
	stop    context.CancelFunc
	work    sync.WaitGroup // sessions

	mu        sync.Mutex
	closing   bool
	listeners map[net.Listener]struct{}
	sessions  map[*session]struct{}
}

// New returns a server that listens on nothing yet. Shutdown must be called to release it.
func New(cfg Config) (*Server, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	s := &Server{
		cfg:       cfg,
		conns:     limit.NewConns(cfg.Limits.Connections, cfg.Limits.PerSource),
		metrics:   newMetrics(cfg.Metrics),
		listeners: make(map[net.Listener]struct{}),
		sessions:  make(map[*session]struct{}),
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.pools = newPools(&s.cfg)
	s.store = newStore(cfg.SpoolDir, cfg.Limits, s.metrics)
	return s, nil
}

// ListenOptions say how a listener's clients are treated.
type ListenOptions struct {
	// TLS starts sessions with a handshake; nil starts in clear, with STARTTLS if Config.TLS is set.
	TLS *tls.Config
	// Trusted clients need no AUTH. On a wildcard address this holds for Config.TrustedNetworks
	// only, and there must be some. Unix sockets are always trusted, within PeerUIDs.
	Trusted bool
	// PeerUIDs are the users who may connect to a unix socket; nil leaves it to the file's mode.
	PeerUIDs []uint32
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
		conn, err := ln.Accept()
		var temporary interface{ Temporary() bool }
		switch {
		case err == nil:
			s.accept(conn, opt)
		case s.draining():
			return nil
		case errors.As(err, &temporary) && temporary.Temporary():
			// Out of descriptors, most likely: those who are connected go on.
			s.cfg.Logger.Error("accept failed", "err", err)
			select {
			case <-time.After(100 * time.Millisecond):
			case <-s.ctx.Done():
			}
		default:
			return fmt.Errorf("accepting lmtp connections: %w", err)
		}
	}
}

func (s *Server) draining() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closing
}

func (s *Server) accept(conn net.Conn, opt ListenOptions) {
	peer := addrPort(conn.RemoteAddr())
	if !s.mayConnect(conn, opt) {
		s.cfg.Logger.Warn("unix socket: user may not connect")
		conn.Close()
		return
	}
	release, err := s.conns.Acquire(peer.Addr())
	if err != nil {
		s.metrics.refused.Inc()
		s.cfg.Logger.Warn("client turned away", "peer", peer, "err", err)
		s.turnAway(conn, opt, replyFull)
		return
	}
	ss := newSession(s, conn, peer, opt)
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		release()
		s.turnAway(conn, opt, replyClosing)
		return
	}
	s.sessions[ss] = struct{}{}
	s.work.Add(1)
	s.mu.Unlock()
	s.metrics.sessions.Inc()
	go func() {
		defer s.work.Done()
		defer s.metrics.sessions.Dec()
		defer release()
		defer func() {
			s.mu.Lock()
			delete(s.sessions, ss)
			s.mu.Unlock()
		}()
		ss.run(opt.TLS)
	}()
}

// turnAway tells a client why it cannot stay. One that expects TLS just finds the connection closed.
func (s *Server) turnAway(conn net.Conn, opt ListenOptions, rep reply) {
	if opt.TLS == nil {
		conn.SetDeadline(time.Now().Add(time.Second))
		conn.Write(rep.appendTo(nil))
	}
	conn.Close()
}

func (s *Server) mayConnect(conn net.Conn, opt ListenOptions) bool {
	unix, ok := conn.(*net.UnixConn)
	if !ok || opt.PeerUIDs == nil {
		return true
	}
	uid, err := peerUID(unix)
	return err == nil && slices.Contains(opt.PeerUIDs, uid)
}

// trusts reports whether a client needs no AUTH.
func (s *Server) trusts(conn net.Conn, peer netip.AddrPort, opt ListenOptions) bool {
	if _, unix := conn.(*net.UnixConn); unix || opt.Trusted {
		return true
	}
	return slices.ContainsFunc(s.cfg.TrustedNetworks, func(p netip.Prefix) bool { return p.Contains(peer.Addr()) })
}

func addrPort(a net.Addr) netip.AddrPort {
	if tcp, ok := a.(*net.TCPAddr); ok {
		ap := tcp.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}

// Shutdown stops accepting, sends idle clients away, lets transactions finish until ctx ends, and
// then closes what is left.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.closing = true
	for ln := range s.listeners {
		ln.Close()
	}
	for ss := range s.sessions {
		ss.drain()
	}
	s.mu.Unlock()
	done := make(chan struct{})
	go func() {
		s.work.Wait()
		close(done)
	}()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	s.stop()
	s.mu.Lock()
	for ss := range s.sessions {
		ss.sock.Close()
	}
	s.mu.Unlock()
	<-done
	s.pools.close()
	return err
}
