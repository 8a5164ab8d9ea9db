package login

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"murder/internal/backend"
	"murder/internal/limit"
	"murder/internal/listen"
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
	gate    listen.Gate[*Session]
	users   *limit.Users
	ctx     context.Context
	stop    context.CancelFunc
	own     sync.WaitGroup // what Go has started
}

// NewServer returns a server that listens on nothing yet.
func NewServer(cfg Config, proto Protocol) (*Server, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", proto.Name, err)
	}
	s := &Server{cfg: cfg, proto: proto, metrics: newMetrics(cfg.Metrics, proto.Name), users: limit.NewUsers(cfg.Limits.PerUser)}
	s.gate.Limit = limit.NewConns(cfg.Limits.Connections, cfg.Limits.PerAddress)
	s.gate.Log = cfg.Logger
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s, nil
}

// Config returns the configuration with its defaults filled in.
func (s *Server) Config() *Config { return &s.cfg }

// Serve accepts connections from ln until the server is shut down, which returns nil, or ln fails.
// With a TLS configuration sessions start with a handshake; with nil they start in clear and
// STARTTLS is offered if Config.TLS is set.
func (s *Server) Serve(ln net.Listener, implicit *tls.Config) error {
	return s.gate.Serve(ln, func(sock net.Conn) { s.serve(sock, implicit) })
}

// serve is the life of one connection.
func (s *Server) serve(sock net.Conn, implicit *tls.Config) {
	peer, local, err := listen.Named(sock, s.cfg.Proxies)
	if err != nil {
		s.cfg.Logger.Warn("connection without a client", "protocol", s.proto.Name, "err", err)
		sock.Close()
		return
	}
	c := s.newSession(sock, peer, local)
	defer c.close()
	leave, err := s.gate.Enter(peer.Addr(), c)
	if err != nil {
		s.metrics.refused.Inc()
		if implicit == nil {
			sock.SetDeadline(time.Now().Add(time.Second))
			sock.Write([]byte(s.proto.Full))
		}
		return
	}
	defer leave()
	s.metrics.sessions.Inc()
	defer s.metrics.sessions.Dec()
	defer c.guard()
	if implicit != nil {
		if err := c.StartTLS(implicit); err != nil {
			return
		}
	}
	s.proto.Run(c)
}

func (s *Server) newSession(sock net.Conn, peer, local netip.AddrPort) *Session {
	c := &Session{
		ID: rand.Text()[:12], srv: s, cfg: &s.cfg, sock: sock, peer: peer, local: local, since: time.Now(),
	}
	c.client = leg{Conn: sock, stall: s.cfg.Limits.Write, last: &c.last}
	c.Reader.Reset(&c.client)
	c.Ctx, c.cancel = context.WithCancel(s.ctx)
	c.Log = s.cfg.Logger.With("protocol", s.proto.Name, "conn", c.ID, "peer", peer.String())
	sock.SetReadDeadline(c.since.Add(s.cfg.Limits.PreAuth))
	return c
}

// Shutdown stops accepting, ends the sessions that can be ended without harm (those not logged in,
// and where the protocol has a word for it the idle ones), waits for the others, and cuts those that
// are left when ctx ends. It returns ctx's error if there were any.
func (s *Server) Shutdown(ctx context.Context) error {
	err := s.gate.Shutdown(ctx)
	s.stop()
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
	for _, c := range s.gate.Inside() {
		infos = append(infos, c.info())
	}
	slices.SortFunc(infos, func(a, b Info) int { return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.ID, b.ID)) })
	return infos
}

// Kick ends a session; false means there is no such session.
func (s *Server) Kick(id, reason string) bool {
	for _, c := range s.gate.Inside() {
		if c.ID == id {
			c.end(cmp.Or(reason, "disconnected by the administrator"), true)
			return true
		}
	}
	return false
}
