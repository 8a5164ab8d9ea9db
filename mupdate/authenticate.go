package mupdate

import (
	"context"
	"encoding/base64"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"murder/internal/auth"
	"murder/internal/mbox"
)

// maxLoginLiteral bounds a literal before login: an initial response (auth.MaxEncoded), or nonsense.
const maxLoginLiteral = 24 << 10

func (c *conn) authConn() auth.Conn {
	a := auth.Conn{Protocol: "mupdate", Peer: c.peer, TLS: c.tls, SessionID: c.session.ID}
	if l, ok := c.base.LocalAddr().(*net.TCPAddr); ok {
		a.Local = l.AddrPort()
	}
	return a
}

func (c *conn) mechanisms() []string { return c.srv.cfg.Auth.Names(c.authConn()) }

// authenticate runs a SASL exchange (RFC 3656 section 4.2). Challenges are bare base64 lines without
// "+" and responses bare base64 lines, not strings; success carries no data. Errors are NO: a Cyrus
// client takes a line that begins with BAD for a challenge.
func (c *conn) authenticate(f *frame, _ []string) error {
	if c.loggedIn {
		c.reply(f.tag, "BAD", "already authenticated")
		return nil
	}
	// The initial response is nil if there is none. "=" and the empty string are the empty response;
	// Cyrus clients run the two together as "={0+}".
	mech, initial := f.args[0].text, []byte(nil)
	if len(f.args) == 2 {
		initial = []byte(f.args[1].text)
	}
	ctx, cancel := context.WithDeadline(c.srv.ctx, c.started.Add(c.srv.cfg.LoginTimeout))
	defer cancel()
	result, err := c.exchange(ctx, mech, initial)
	switch {
	case err == nil:
		err = c.login(result)
	case errors.As(err, new(*ioError)):
		return errors.Unwrap(err)
	}
	switch {
	case err == nil:
		c.reply(f.tag, "OK", "Authenticated")
		return nil
	case errors.Is(err, errCancelled):
		c.reply(f.tag, "NO", "Client canceled authentication")
		return nil
	}
	c.failures++
	c.srv.metrics.loginFailures.Inc()
	c.log.Warn("login refused", "user", result.Authc, "mechanism", mech[:min(len(mech), 32)], "offered", strings.Join(c.mechanisms(), " "),
		"tls", c.tls != nil, "err", err)
	c.reply(f.tag, "NO", authText(err))
	if c.failures >= c.srv.cfg.MaxLoginFailures {
		return bye("too many failed logins")
	}
	return nil
}

// ioError marks a failure of the connection in the middle of an exchange.
type ioError struct{ err error }

func (e *ioError) Error() string { return e.err.Error() }
func (e *ioError) Unwrap() error { return e.err }

var (
	errCancelled = errors.New("cancelled by the client")
	errNoRole    = errors.New("identity has no role here")
	errProxy     = errors.New("acting for another identity is not allowed")
)

// authText says no more than a stranger may know.
func authText(err error) string {
	switch {
	case errors.Is(err, auth.ErrUnavailable):
		return "authentication is temporarily unavailable"
	case errors.Is(err, auth.ErrUnknownMechanism):
		return "no such mechanism"
	case errors.Is(err, auth.ErrNeedsTLS):
		return "mechanism needs STARTTLS first"
	case errors.Is(err, auth.ErrMalformed):
		return "malformed response"
	case errors.Is(err, errNoRole), errors.Is(err, errProxy), errors.Is(err, auth.ErrNotAuthorized):
		return "not authorized"
	}
	return "authentication failed"
}

// checkAuth wants the mechanism as a string (Cyrus) or an atom (RFC 3656 section 5), and perhaps an
// initial response.
func checkAuth(args []token) string {
	switch {
	case len(args) == 0:
		return missing
	case len(args) > 2 || args[len(args)-1].kind == bad:
		return extra
	}
	return ""
}

func (c *conn) exchange(ctx context.Context, mech string, initial []byte) (auth.Result, error) {
	x, err := c.srv.cfg.Auth.Start(ctx, mech, c.authConn())
	if err != nil {
		return auth.Result{}, err
	}
	response, err := decode(initial)
	for err == nil {
		var challenge []byte
		var done bool
		challenge, done, err = x.Next(response)
		if err != nil || done {
			break
		}
		c.out.line(base64.StdEncoding.EncodeToString(challenge))
		var line []byte
		if line, err = c.readLine(auth.MaxEncoded); err != nil {
			return auth.Result{}, &ioError{err}
		}
		if len(line) > 0 && line[0] == '*' {
			return auth.Result{}, errCancelled
		}
		response, err = decode(line)
		if response == nil {
			response = []byte{}
		}
	}
	if err != nil {
		return auth.Result{}, err
	}
	return x.Result(), nil
}

// decode reads base64; nil stays nil, and "=" is the empty response.
func decode(line []byte) ([]byte, error) {
	if line == nil {
		return nil, nil
	}
	if string(line) == "=" {
		return []byte{}, nil
	}
	out := make([]byte, base64.StdEncoding.DecodedLen(len(line)))
	n, err := base64.StdEncoding.Decode(out, line)
	if err != nil {
		return nil, auth.ErrMalformed
	}
	return out[:n], nil
}

func (c *conn) readLine(limit int) ([]byte, error) {
	for {
		line, ok, err := c.in.line(limit)
		if err != nil {
			return nil, c.lost(err)
		}
		if ok {
			return line, nil
		}
		if err := c.fill(); err != nil {
			return nil, err
		}
	}
}

// login gives the session its role. The authentication identity decides, never the other one.
func (c *conn) login(r auth.Result) error {
	cfg := &c.srv.cfg
	proxied := r.Authz != "" && r.Authz != r.Authc
	if proxied {
		c.log.Warn("client acts for another identity", "user", r.Authc, "authz", r.Authz, "allowed", cfg.AllowProxy)
		if !cfg.AllowProxy {
			return errProxy
		}
	}
	id, ok := cfg.Identities[r.Authc]
	switch {
	case ok:
	case r.Account.Admin && !proxied:
		id = Identity{Role: Admin}
	case cfg.DefaultIdentity != nil:
		id = *cfg.DefaultIdentity
	default:
		return errNoRole
	}
	rule := cfg.peerRule(c.peer.Addr())
	c.loggedIn = true
	c.srv.mu.Lock()
	delete(c.srv.strangers, c)
	c.srv.mu.Unlock()
	c.in.p.literal = maxLiteral
	c.session.Identity = r.Authc
	c.role = id.Role
	if c.order = id.Order; c.order == mbox.OrderDB {
		c.order = rule.Order
	}
	c.unified = id.Unified || rule.Unified
	if c.role == Backend {
		if c.bound = slices.Clone(id.Servers); len(c.bound) == 0 {
			c.bound = slices.Clone(rule.Servers)
		}
		c.session.Servers = c.bound
	}
	set := func(on bool, flag mbox.SessionFlags) {
		if on {
			c.session.Flags |= flag
		}
	}
	set(id.Permissive, mbox.Permissive)
	set(id.Takeover, mbox.Takeover)
	set(c.unified, mbox.Unified)
	set(cfg.CompleteTransfer, mbox.CompleteTransfer)
	set(cfg.DenyUnknownDelete, mbox.DenyUnknownDelete)
	set(cfg.DenyUnboundDelete && c.role != Admin, mbox.DenyUnboundDelete)
	c.log.Debug("logged in", "user", r.Authc, "dur", time.Since(c.started))
	return nil
}

func (cfg *Config) peerRule(addr netip.Addr) PeerRule {
	for _, r := range cfg.Peers {
		if r.Prefix.Contains(addr.WithZone("")) {
			return r
		}
	}
	return PeerRule{}
}
