package login

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"murder/internal/auth"
	"murder/internal/imapwire"
)

// Errors of ReadLine beside those of the connection.
var (
	ErrTLSOctets = errors.New("TLS on a port that begins in clear")
	// ErrCancelled is for the ask of Authenticate.
	ErrCancelled = errors.New("client cancelled authentication")
)

// Session is one client. Its methods are for the goroutine that runs it, unless they say otherwise.
type Session struct {
	ID     string
	Log    *slog.Logger
	Ctx    context.Context // ends with the session
	Reader bufio.Reader    // what the client says

	srv    *Server
	cfg    *Config
	sock   net.Conn // below TLS
	client leg
	tls    *tls.ConnectionState
	peer   netip.AddrPort
	local  netip.AddrPort
	since  time.Time
	last   atomic.Int64 // unix nanoseconds of the last octet relayed
	cancel context.CancelFunc

	failures, bad int

	mu       sync.Mutex
	user     string
	secured  bool
	backend  *Backend
	farewell func(reason string) bool
	reason   string // why the session must end
}

// Config returns the server's configuration.
func (c *Session) Config() *Config { return c.cfg }

// TLS reports whether the connection is secured.
func (c *Session) TLS() bool { return c.tls != nil }

// Conn describes the client for auth.
func (c *Session) Conn() auth.Conn {
	return auth.Conn{Protocol: c.srv.proto.Name, Peer: c.peer, Local: c.local, TLS: c.tls, SessionID: c.ID}
}

// ReadLine reads a line of at most limit octets without its end. A client that begins with a TLS
// handshake where none is expected gets ErrTLSOctets.
func (c *Session) ReadLine(limit int) (string, error) {
	if first, err := c.Reader.Peek(1); err == nil && first[0] == 0x16 {
		return "", ErrTLSOctets
	}
	line, err := imapwire.ReadLine(&c.Reader, nil, limit)
	return string(line), err
}

// Write sends p to the client. It may be called from any goroutine.
func (c *Session) Write(p []byte) (int, error) { return c.client.Write(p) }

// Say sends text to the client.
func (c *Session) Say(text string) error {
	_, err := c.client.Write([]byte(text))
	return err
}

// StartTLS performs the handshake. What the client had sent before in clear is dropped, never obeyed.
func (c *Session) StartTLS(cfg *tls.Config) error {
	conn := tls.Server(c.sock, cfg)
	ctx, cancel := context.WithTimeout(c.Ctx, 30*time.Second)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		c.srv.metrics.tlsFailed.Inc()
		c.Log.Debug("tls handshake failed", "err", err)
		return err
	}
	state := conn.ConnectionState()
	c.tls = &state
	c.client.Conn = conn
	c.Reader.Reset(&c.client)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.secured = true
	return nil
}

// Authenticate runs a SASL exchange. initial is nil without an initial response. ask sends a challenge
// and returns the response; its errors are returned as they are.
func (c *Session) Authenticate(mech string, initial []byte, ask func(challenge []byte) ([]byte, error)) (auth.Result, error) {
	x, err := c.cfg.Auth.Start(c.Ctx, mech, c.Conn())
	if err != nil {
		return auth.Result{}, err
	}
	for response := initial; ; {
		challenge, done, err := x.Next(response)
		if err != nil {
			return auth.Result{}, err
		}
		if done {
			return x.Result(), nil
		}
		if response, err = ask(challenge); err != nil {
			return auth.Result{}, err
		}
	}
}

// LoginFailed counts a failed login; true means that there have been enough. Only refusals count.
func (c *Session) LoginFailed(err error) bool {
	outcome := "unavailable"
	if errors.Is(err, auth.ErrRejected) || errors.Is(err, auth.ErrNotAuthorized) {
		outcome = "refused"
		c.failures++
	}
	c.srv.metrics.logins.WithLabelValues(outcome).Inc()
	c.Log.Info("login failed", "err", err)
	return c.failures >= c.cfg.Limits.Failures
}

// BadCommand counts a command that makes no sense; true means that there have been enough.
func (c *Session) BadCommand() bool {
	c.bad++
	return c.bad >= c.cfg.Limits.BadCommands
}

// Ending returns why the session must end, or "". It may be called from any goroutine.
func (c *Session) Ending() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reason
}

// end makes the session end: before login at once, afterwards when it is between two commands or,
// with force, at once.
func (c *Session) end(reason string, force bool) {
	c.mu.Lock()
	b, farewell := c.backend, c.farewell
	if b == nil {
		c.reason = reason
	}
	c.mu.Unlock()
	switch {
	case b == nil:
		c.cancel()
		c.sock.SetReadDeadline(time.Unix(1, 0))
	case farewell != nil && farewell(reason), force:
		c.sock.Close()
		b.Close()
	}
}

const shuttingDown = "server is shutting down"

// Drain ends the session if that can be done without harm. It implements listen.Session.
func (c *Session) Drain() { c.end(shuttingDown, false) }

// Cut ends the session at once. It implements listen.Session.
func (c *Session) Cut() { c.end(shuttingDown, true) }

func (c *Session) close() {
	c.cancel()
	c.mu.Lock()
	b, user := c.backend, c.user
	c.mu.Unlock()
	if b != nil {
		b.Close()
		c.srv.users.Release(user)
	}
	c.sock.SetDeadline(time.Now().Add(time.Second)) // for the last words of TLS
	c.client.Conn.Close()
}

func (c *Session) info() Info {
	c.mu.Lock()
	defer c.mu.Unlock()
	info := Info{ID: c.ID, User: c.user, Peer: c.peer.String(), TLS: c.secured, Since: c.since, Active: c.since}
	if last := c.last.Load(); last != 0 {
		info.Active = time.Unix(0, last)
	}
	if c.backend != nil {
		info.Backend = string(c.backend.Server())
	}
	return info
}

// guard keeps a fault in one session from the others. It must be deferred directly.
func (c *Session) guard() {
	if p := recover(); p != nil {
		c.srv.metrics.panics.Inc()
		c.Log.Error("session panicked", "panic", p, "stack", string(debug.Stack()))
		c.sock.Close()
	}
}

func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
