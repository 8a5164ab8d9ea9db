package login

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"murder/internal/auth"
	"murder/internal/backend"
	"murder/internal/imapwire"
	"murder/internal/mbox"
)

// Why a user's mailbox cannot be reached, beside mbox.ErrUnavailable and backend.ErrDown.
var (
	ErrNoMailbox = errors.New("no such mailbox")
	ErrMoving    = errors.New("mailbox is being created or moved")
	ErrTooMany   = errors.New("user has too many connections")
	// ErrOurIdentity means that a backend does not accept us; it wraps backend.ErrDown.
	ErrOurIdentity = fmt.Errorf("backend refuses our identity: %w", backend.ErrDown)
	// ErrProtocol means that a backend does not say what its protocol demands; it wraps backend.ErrDown.
	ErrProtocol = fmt.Errorf("backend does not speak the protocol: %w", backend.ErrDown)
)

// Refused is a backend's refusal of the user, in its own words.
type Refused struct {
	Code string // response code without brackets, "" for none
	Text string
}

func (r *Refused) Error() string { return "backend refuses the user: " + r.Text }

// Backend is the connection to a user's backend.
type Backend struct {
	*backend.Conn
	Reader bufio.Reader
	leg    leg
	set    Backends
}

// ReadLine reads a line of at most 8 KiB without its end.
func (b *Backend) ReadLine() (string, error) {
	line, err := imapwire.ReadLine(&b.Reader, nil, 8192)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return string(line), nil
}

// Write implements io.Writer.
func (b *Backend) Write(p []byte) (int, error) { return b.leg.Write(p) }

// Say sends text.
func (b *Backend) Say(text string) error {
	if _, err := b.leg.Write([]byte(text)); err != nil {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return nil
}

// StartTLS performs the handshake and drops what came before it.
func (b *Backend) StartTLS(ctx context.Context) error {
	if err := b.Conn.StartTLS(ctx); err != nil {
		return err
	}
	b.Reader.Reset(&b.leg)
	return nil
}

// SignOn runs a SASL exchange as authz. start sends the command with the initial response (nil for
// none) and more a response; both return the server's next challenge, or done (with its
// final message, if it came along; otherwise nil).
func (b *Backend) SignOn(offered []string, authz string, start func(mech string, initial []byte) (challenge []byte, done bool, err error),
	more func(response []byte) (challenge []byte, done bool, err error)) error {
	mech, client, err := b.set.SASL(b.Server(), offered, authz, b.Secured())
	if err != nil {
		return fmt.Errorf("%w: %w", ErrOurIdentity, err)
	}
	_, initial, err := client.Start()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrOurIdentity, err)
	}
	challenge, done, err := start(mech, initial)
	for range 8 {
		if err != nil || done && challenge == nil {
			return err
		}
		response, err2 := client.Next(challenge)
		if err2 != nil {
			return fmt.Errorf("%w: %w", ErrProtocol, err2)
		}
		if done {
			return nil // with a final message, which was right
		}
		challenge, done, err = more(response)
	}
	return fmt.Errorf("%w: endless authentication", ErrProtocol)
}

// SignOn is a protocol's dialogue with a backend from the greeting until it has accepted authz. Its
// errors wrap backend.ErrDown or are *Refused.
type SignOn func(ctx context.Context, b *Backend, authz string) error

// Connect signs on to the backend of a mailbox as authz, and makes the session that of account. When
// that fails and the map turns out to have changed, it tries the new place.
func (c *Session) Connect(account auth.Account, authz string, name mbox.Name, signOn SignOn) (*Backend, error) {
	if !c.srv.users.Acquire(account.Name) {
		return nil, fmt.Errorf("admitting %s: %w", account.Name, ErrTooMany)
	}
	b, err := c.reach(authz, name, signOn)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil && c.reason != "" { // ended meanwhile, by somebody who could not see b yet
		b.Close()
		err = fmt.Errorf("%s: %w", c.reason, mbox.ErrUnavailable)
	}
	if err != nil {
		c.srv.users.Release(account.Name)
		return nil, err
	}
	c.user, c.backend = account.Name, b
	c.srv.metrics.logins.WithLabelValues("ok").Inc()
	c.Log = c.Log.With("user", account.Name, "backend", string(b.Server()))
	c.Log.Info("login", "tls", c.tls != nil)
	return b, nil
}

// reach signs on to the backend that holds name.
func (c *Session) reach(authz string, name mbox.Name, signOn SignOn) (*Backend, error) {
	server, err := c.find(c.Ctx, name, false)
	if err != nil {
		return nil, err
	}
	b, err := c.srv.Open(c.Ctx, server, authz, signOn)
	if err != nil && c.Ctx.Err() == nil {
		if now, findErr := c.find(c.Ctx, name, true); findErr == nil && now != server {
			c.Log.Info("mailbox has moved", "backend", string(server), "to", string(now), "err", err)
			b, err = c.srv.Open(c.Ctx, now, authz, signOn)
		} else if errors.Is(findErr, ErrNoMailbox) || errors.Is(findErr, ErrMoving) {
			err = findErr
		}
	}
	return b, err
}

// find returns the server of an active mailbox. Presence is believed at once unless fresh is asked
// for; absence and reservation only after a barrier.
func (c *Session) find(ctx context.Context, name mbox.Name, fresh bool) (mbox.Server, error) {
	if !c.cfg.Directory.Synced() {
		return "", fmt.Errorf("finding %s: no complete copy of the map yet: %w", name, mbox.ErrUnavailable)
	}
	e, ok := c.cfg.Directory.View().Get(name)
	if fresh || !ok || e.State != mbox.Active {
		ctx, cancel := context.WithTimeout(ctx, c.cfg.Limits.Barrier)
		defer cancel()
		if _, err := c.cfg.Directory.Barrier(ctx); err != nil {
			return "", fmt.Errorf("finding %s: %w: %w", name, mbox.ErrUnavailable, err)
		}
		e, ok = c.cfg.Directory.View().Get(name)
	}
	switch {
	case !ok || e.State == mbox.Absent:
		return "", fmt.Errorf("finding %s: %w", name, ErrNoMailbox)
	case e.State != mbox.Active:
		return "", fmt.Errorf("finding %s: %w", name, ErrMoving)
	}
	server := e.Location.Server()
	if c.cfg.Self != "" && server == c.cfg.Self {
		c.Log.Error("map names this frontend as a backend", "mailbox", string(name), "backend", string(server))
		return "", fmt.Errorf("finding %s: the map names ourselves: %w", name, backend.ErrDown)
	}
	return server, nil
}

// Open connects to a server and signs on as authz. The time for signing on begins once it is connected: before, it may
// have had to wait for its turn.
func (s *Server) Open(ctx context.Context, server mbox.Server, authz string, signOn SignOn) (*Backend, error) {
	conn, err := s.cfg.Backends.Dial(ctx, server, s.proto.Service)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Limits.Backend)
	defer cancel()
	b := &Backend{Conn: conn, set: s.cfg.Backends}
	b.leg = leg{Conn: conn, stall: s.cfg.Limits.Write, last: new(atomic.Int64)}
	b.Reader.Reset(&b.leg)
	deadline, _ := ctx.Deadline()
	conn.SetReadDeadline(deadline)
	release := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	err = signOn(ctx, b, authz)
	release()
	if errors.Is(err, ErrOurIdentity) {
		s.cfg.Backends.LoginFailed(server, s.proto.Service, err)
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("signing on to %s: %w", server, err)
	}
	return b, nil
}

// Locate returns the server of an active mailbox.
func (c *Session) Locate(name mbox.Name) (mbox.Server, error) { return c.find(c.Ctx, name, false) }
