package login

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"murder/internal/backend"
	"murder/internal/limit"
)

// Protocol is what a Server speaks.
type Protocol struct {
	Name    string // pop3, sieve: in logs, metrics and towards the sources of accounts
	Service backend.Service
	Full    string         // the line for a client for whom there is no room
	Run     func(*Session) // speaks with one client, from the greeting on; the caller closes
}

// Server accepts clients of one protocol. Its methods may be called from any goroutine.
type Server struct {
	cfg     Config
	proto   Protocol
	metrics *metrics
	conns   *limit.Conns
	ctx     context.Context
	stop    context.CancelFunc
	work    sync.WaitGroup // sessions
	own     sync.WaitGroup // what Go has started

	mu        sync.Mutex
	closing   bool
	listeners map[net.Listener]struct{}
	sessions  map[string]*Session
	users     map[string]int // sessions of each user
}

// NewServer returns a server that listens on nothing yet.
func NewServer(cfg Config, proto Protocol) (*Server, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", proto.Name, err)
	}
	s := &Server{
		cfg: cfg, proto: proto, metrics: newMetrics(cfg.Metrics, proto.Name),
		conns:     limit.NewConns(cfg.Limits.Connections, cfg.Limits.PerAddress),
		listeners: make(map[net.Listener]struct{}), sessions: make(map[string]*Session), users: make(map[string]int),
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s, nil
}

// Config returns the configuration with its defaults filled in.
func (s *Server) Config() *Config { return &s.cfg }

// Serve accepts connections from ln until the server is shut down, which returns nil, or ln fails.
// With a TLS configuration sessions start with a handshake; with nil they start in clear and
// STARTTLS is offered if Config.TLS is set.
func (s *Server) Serve(ln net.Listener, implicit *tls.Config) error {
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
		if err == nil {
			s.accept(conn, implicit)
			continue
		}
		s.mu.Lock()
		closing := s.closing
		s.mu.Unlock()
		if closing {
			return nil
		}
		// Out of descriptors, most likely: those who are connected go on.
		var temporary interface{ Temporary() bool }
		if !errors.As(err, &temporary) || !temporary.Temporary() {
			return fmt.Errorf("accepting %s connections: %w", s.proto.Name, err)
		}
		s.cfg.Logger.Error("accept failed", "protocol", s.proto.Name, "err", err)
		select {
		case <-time.After(100 * time.Millisecond):
		case <-s.ctx.Done():
		}
	}
}

func (s *Server) accept(sock net.Conn, implicit *tls.Config) {
	if tcp, ok := sock.(*net.TCPConn); ok {
		tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: time.Minute, Interval: 10 * time.Second, Count: 3})
	}
	peer := addrPort(sock.RemoteAddr())
	release, err := s.conns.Acquire(peer.Addr())
	s.mu.Lock()
	if err != nil || s.closing {
		s.mu.Unlock()
		if err == nil {
			release()
		}
		s.metrics.refused.Inc()
		if implicit == nil {
			sock.SetDeadline(time.Now().Add(time.Second))
			sock.Write([]byte(s.proto.Full))
		}
		sock.Close()
		return
	}
	c := s.newSession(sock, peer)
	s.sessions[c.ID] = c
	s.work.Add(1)
	s.mu.Unlock()
	s.metrics.sessions.Inc()
	go func() {
		defer s.work.Done()
		defer release()
		defer s.forget(c)
		defer c.close()
		defer c.guard()
		if implicit != nil {
			if err := c.StartTLS(implicit); err != nil {
				return
			}
		}
		s.proto.Run(c)
	}()
}

func (s *Server) newSession(sock net.Conn, peer netip.AddrPort) *Session {
	c := &Session{
		ID: rand.Text()[:12], srv: s, cfg: &s.cfg, sock: sock, peer: peer, local: addrPort(sock.LocalAddr()), since: time.Now(),
	}
	c.client = leg{Conn: sock, stall: s.cfg.Limits.Write, last: &c.last}
	c.Reader.Reset(&c.client)
	c.Ctx, c.cancel = context.WithCancel(s.ctx)
	c.Log = s.cfg.Logger.With("protocol", s.proto.Name, "conn", c.ID, "peer", peer.String())
	sock.SetReadDeadline(c.since.Add(s.cfg.Limits.PreAuth))
	return c
}

func addrPort(a net.Addr) netip.AddrPort {
	if tcp, ok := a.(*net.TCPAddr); ok {
		ap := tcp.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}

func (s *Server) forget(c *Session) {
	if c.user != "" {
		s.release(c.user)
	}
	s.mu.Lock()
	delete(s.sessions, c.ID)
	s.mu.Unlock()
	s.metrics.sessions.Dec()
}

// claim counts a session of user, unless he has enough; release takes it back.
func (s *Server) claim(user string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if most := s.cfg.Limits.PerUser; most > 0 && s.users[user] >= most {
		return false
	}
	s.users[user]++
	return true
}

func (s *Server) release(user string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users[user]--; s.users[user] <= 0 {
		delete(s.users, user)
	}
}

func (s *Server) list() []*Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*Session, 0, len(s.sessions))
	for _, c := range s.sessions {
		list = append(list, c)
	}
	return list
}

// Shutdown stops accepting, ends the sessions that can be ended without harm (those not logged in,
// and where the protocol has a word for it the idle ones), waits for the others, and cuts those that
// are left when ctx ends. It returns ctx's error if there were any.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.closing = true
	for ln := range s.listeners {
		ln.Close()
	}
	s.mu.Unlock()
	for _, c := range s.list() {
		c.end("server is shutting down", false)
	}
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
		for _, c := range s.list() {
			c.end("server is shutting down", true)
		}
	}
	s.stop()
	<-done
	s.own.Wait()
	return err
}

// Go runs f until the server has been shut down, which ends its context.
func (s *Server) Go(f func(context.Context)) { s.own.Go(func() { f(s.ctx) }) }

// Info describes one session for operators.
type Info struct {
	ID      string
	User    string // "" before login
	Peer    string
	TLS     bool
	Since   time.Time
	Active  time.Time // last octet of either side
	Backend string    // "" before login
}

// Sessions lists the sessions, oldest first.
func (s *Server) Sessions() []Info {
	var infos []Info
	for _, c := range s.list() {
		infos = append(infos, c.info())
	}
	slices.SortFunc(infos, func(a, b Info) int { return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.ID, b.ID)) })
	return infos
}

// Kick ends a session; false means there is no such session.
func (s *Server) Kick(id, reason string) bool {
	s.mu.Lock()
	c := s.sessions[id]
	s.mu.Unlock()
	if c == nil {
		return false
	}
	c.end(cmp.Or(reason, "disconnected by the administrator"), true)
	return true
}
