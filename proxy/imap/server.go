package imap

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"murder/internal/limit"
	"murder/internal/listen"
	"murder/internal/mbox"
	"murder/internal/socket"
)

// Server is an IMAP frontend. Its methods may be called from any goroutine.
type Server struct {
	cfg     Config
	caps    *capTable
	follow  *follower
	metrics *metrics
	place   placer
	pause   signOnPauses
	spaces  namespaces
	conns   *limit.Conns
	users   *limit.Users
	ghosts  chan mbox.Entry
	// unconfirmed: the last wait for the map came to nothing.
	unconfirmed atomic.Bool
	ctx         context.Context
	stop        context.CancelFunc
	work        sync.WaitGroup // sessions, parked or not, and the server's own goroutines
	lot         lot            // nil: nobody is parked
	hot         time.Duration  // hotFor, or 0 without a lot

	listeners listen.Listeners

	mu       sync.Mutex
	closing  bool
	sessions map[string]*session
}

// New returns a server that listens on nothing yet, and starts to follow the map. Shutdown must be
// called to release it.
func New(cfg Config) (*Server, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, sessions: make(map[string]*session)}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.caps = newCapTable(cfg.Suppress, cfg.Limits.Append)
	s.follow = newFollower(cfg.Directory, cfg.Namespace)
	s.metrics = newMetrics(cfg.Metrics)
	s.conns = limit.NewConns(cfg.Limits.Connections, cfg.Limits.PerAddress)
	s.users = limit.NewUsers(cfg.Limits.PerUser)
	if s.lot = newLot(&s.work); s.lot != nil {
		s.hot = hotFor
	}
	s.ghosts = make(chan mbox.Entry, ghostQueue)
	s.work.Go(func() { s.follow.run(s.ctx) })
	s.work.Go(func() { s.reconcile(s.ctx) })
	if cfg.ProbeInterval > 0 {
		s.work.Go(func() { s.probe(s.ctx) })
	}
	return s, nil
}

// Serve accepts connections from ln until the server is shut down, which returns nil, or ln fails.
// With a TLS configuration sessions start with a handshake (port 993); with nil they start in clear
// and STARTTLS is offered if Config.TLS is set.
func (s *Server) Serve(ln net.Listener, implicit *tls.Config) error {
	return s.listeners.Serve(ln, s.cfg.Logger, func(conn net.Conn) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.closing {
			conn.Close()
			return
		}
		s.work.Go(func() { s.serve(conn, implicit) })
	})
}

// serve is the life of one connection.
func (s *Server) serve(conn net.Conn, implicit *tls.Config) {
	peer, local, err := listen.Named(conn, s.cfg.Proxies)
	if err != nil {
		s.cfg.Logger.Warn("connection without a client", "err", err)
		conn.Close()
		return
	}
	conn = socket.New(conn)
	ss := s.newSession(conn, peer, local)
	if err := s.admit(ss); err != nil {
		ss.log().Info("connection refused", "err", err)
		s.metrics.refused.Inc()
		if implicit == nil {
			ss.sayBye("UNAVAILABLE", "No room: "+err.Error()+"; try again later")
		}
		ss.rest()
		conn.Close()
		return
	}
	if implicit != nil {
		if err := ss.startTLS(implicit); err != nil {
			ss.log().Debug("tls handshake failed", "err", err)
			ss.close()
			return
		}
	}
	ss.run()
}

var errClosing = errors.New("server is shutting down")

// admit counts a session until it is forgotten, unless there are enough.
func (s *Server) admit(ss *session) error {
	if err := s.conns.Acquire(ss.peer.Addr()); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		s.conns.Release(ss.peer.Addr())
		return errClosing
	}
	s.work.Add(1)
	s.sessions[ss.id] = ss
	s.metrics.sessions.Inc()
	return nil
}

// newReader reads what the client sends.
func (s *session) newReader(src io.Reader) *reader {
	r := newReader(src)
	r.owner = s
	return r
}

func (s *Server) newSession(nc net.Conn, peer, local netip.AddrPort) *session {
	now := time.Now()
	ss := &session{
		srv: s, cfg: &s.cfg, id: strings.Clone(rand.Text()[:12]), sock: nc, conn: nc, clear: nc, peer: peer, local: local,
		phase: fresh, first: true, since: now, began: now,
	}
	ss.in = ss.newReader(nc)
	ss.out.writer = writer{dst: nc, conn: nc, stall: s.cfg.Limits.Write}
	ss.awaken()
	nc.SetReadDeadline(now.Add(s.cfg.Limits.PreAuth))
	return ss
}

func (s *Server) forget(ss *session) {
	s.mu.Lock()
	delete(s.sessions, ss.id)
	s.mu.Unlock()
	s.metrics.sessions.Dec()
	s.conns.Release(ss.peer.Addr())
	s.work.Done()
}

// slack is how far a deadline may be off, so that not every command has to set it.
func (s *Server) slack() time.Duration {
	if s.hot == 0 {
		return time.Second
	}
	return min(s.hot, time.Second)
}

// Shutdown stops accepting, tells idle sessions to leave, spread over half the time that ctx allows
// (a second without a deadline), lets busy ones finish their command, and cuts the rest when ctx ends. It returns soon after that, even
// if one of them does not come to an end.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.closing = true
	s.listeners.Close()
	list := make([]*session, 0, len(s.sessions))
	for _, ss := range s.sessions {
		list = append(list, ss)
	}
	s.mu.Unlock()
	window := time.Second
	if deadline, ok := ctx.Deadline(); ok {
		window = time.Until(deadline) / 2
	}
	for i, ss := range list {
		ss.endAs(farewell{code: "UNAVAILABLE", text: "Server is shutting down, reconnect", patient: true})
		if i%64 == 63 {
			select {
			case <-time.After(window * 64 / time.Duration(len(list))):
			case <-ctx.Done():
			}
		}
	}
	for s.count() > 0 && ctx.Err() == nil {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	s.stop()
	s.mu.Lock()
	for _, ss := range s.sessions {
		ss.sever()
	}
	s.mu.Unlock()
	if s.lot != nil {
		s.lot.close() // nobody is in it any more
	}
	ended := make(chan struct{})
	go func() { s.work.Wait(); close(ended) }()
	select {
	case <-ended:
		return ctx.Err()
	case <-ctx.Done():
	}
	select { // those cut off just now need a moment
	case <-ended:
	case <-time.After(byeStall):
		s.cfg.Logger.Warn("sessions have not ended", "sessions", s.count())
	}
	return ctx.Err()
}

func (s *Server) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions)
}

// SessionInfo describes one session for operators.
type SessionInfo struct {
	ID       string
	User     string // "" before login
	Peer     string
	TLS      bool
	Since    time.Time
	Active   time.Time // last command
	Command  string    // verb being executed, "" when idle
	Mailbox  string    // selected, as the client named it
	Backend  string    // of the selected mailbox
	Backends []string  // all open connections
	In, Out  int64     // octets from the client, up to the last command, and to it
}

// Sessions lists the sessions of this server, oldest first.
func (s *Server) Sessions() []SessionInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]SessionInfo, 0, len(s.sessions))
	for _, ss := range s.sessions {
		list = append(list, ss.info())
	}
	slices.SortFunc(list, func(a, b SessionInfo) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.ID, b.ID))
	})
	return list
}

func (s *session) info() SessionInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := SessionInfo{ID: s.id, User: string(s.user), Peer: s.peer.String(), TLS: s.secure(), Since: s.since, Active: s.began,
		Command: s.command, Mailbox: s.selExt, In: s.came, Out: s.out.total.Load()}
	if s.sel != nil {
		i.Backend = string(s.sel.server)
	}
	for _, c := range s.conns {
		i.Backends = append(i.Backends, string(c.server))
	}
	slices.Sort(i.Backends)
	return i
}

// kickGrace is how long a session that is kicked may take to the end of its command.
const kickGrace = 10 * time.Second

// Kick ends a session with BYE at the next line boundary, and without a word if that does not come soon;
// false means there is no such session.
func (s *Server) Kick(id, reason string) bool {
	s.mu.Lock()
	ss := s.sessions[id]
	s.mu.Unlock()
	if ss == nil {
		return false
	}
	ss.end("UNAVAILABLE", cmp.Or(reason, "Disconnected by the administrator"))
	time.AfterFunc(kickGrace, func() {
		s.mu.Lock()
		still := s.sessions[id] == ss
		s.mu.Unlock()
		if still {
			ss.breakOff("kicked, and busy with something else")
		}
	})
	return true
}
