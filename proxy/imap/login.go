package imap

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"murder/internal/auth"
	"murder/internal/mbox"
)

var (
	errLogout        = errors.New("logout")
	errRefused       = no("AUTHENTICATIONFAILED", "Authentication failed.")
	errAuthDown      = no("UNAVAILABLE", "Authentication is temporarily unavailable, try again later")
	errNotAuthorized = no("AUTHORIZATIONFAILED", "Not authorized to act as that user")
	errPrivacy       = no("PRIVACYREQUIRED", "Use STARTTLS first")
)

func (s *session) greet() {
	s.say("* OK [CAPABILITY " + s.capabilities() + "] " + s.cfg.Hostname + " IMAP server ready\r\n")
}

// login executes LOGIN (RFC 9051 section 6.2.3).
func (s *session) login(c *command) error {
	if !s.cfg.Auth.PlaintextAllowed(s.authConn()) {
		return errPrivacy // before a literal with the password is asked for
	}
	if err := s.readWhole(c); err != nil {
		return err
	}
	args, err := c.exactly(2)
	if err != nil {
		return err
	}
	ctx, kept := s.verifying()
	defer kept.drop()
	account, err := s.cfg.Auth.Password(ctx, args[0], args[1], s.authConn())
	if err != nil {
		return s.loginFailed(c, err)
	}
	return s.loggedIn(c, "password", account.Name, account, kept)
}

// authenticate executes AUTHENTICATE (RFC 9051 section 6.2.2, with an initial response).
func (s *session) authenticate(c *command) error {
	if c.open {
		return bad("No literals here")
	}
	if err := s.readWhole(c); err != nil {
		return err
	}
	mech, err := c.arg()
	if err != nil {
		return err
	}
	var response []byte
	if c.eat(' ') {
		if response, err = decodeSASL(string(c.rest())); err != nil {
			return err
		}
	}
	ctx, kept := s.verifying()
	defer kept.drop()
	x, err := s.cfg.Auth.Start(ctx, mech, s.authConn())
	if err != nil {
		return s.loginFailed(c, err)
	}
	for {
		challenge, done, err := x.Next(response)
		if err != nil {
			return s.loginFailed(c, err)
		}
		if done {
			return s.loggedIn(c, strings.ToUpper(mech), x.Result().Authc, x.Result().Account, kept)
		}
		if err := s.say("+ " + base64.StdEncoding.EncodeToString(challenge) + "\r\n"); err != nil {
			return err
		}
		line, err := s.in.appendLine(nil, auth.MaxEncoded)
		if err != nil {
			return fmt.Errorf("%w: %w", errClient, err)
		}
		if string(line) == "*" {
			return bad("Authentication cancelled")
		}
		if response, err = decodeSASL(string(line)); err != nil {
			return err
		}
	}
}

// decodeSASL reads one response; "=" is an empty initial response (RFC 4959).
func decodeSASL(text string) ([]byte, error) {
	if text == "=" {
		return []byte{}, nil
	}
	response, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(response) > auth.MaxResponse {
		return nil, fmt.Errorf("%w: base64 expected", errSyntax)
	}
	if response == nil {
		response = []byte{}
	}
	return response, nil
}

func (s *session) loginFailed(c *command, err error) error {
	outcome, r := "refused", error(errRefused)
	switch {
	case errors.Is(err, auth.ErrTooManyFailures), errors.Is(err, auth.ErrNeedsTLS):
		s.log().Info("login not tried", "err", err)
	default: // package auth has told who it was and why
		s.log().Debug("login failed", "cmd", c.name, "err", err)
	}
	switch {
	case errors.Is(err, auth.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		outcome, r = "unavailable", errAuthDown
	case errors.Is(err, context.Canceled):
		r = fmt.Errorf("%w: %w", errClient, err)
	case errors.Is(err, auth.ErrNeedsTLS):
		r = errPrivacy
	case errors.Is(err, auth.ErrNotAuthorized):
		r = errNotAuthorized
	case errors.Is(err, auth.ErrUnknownMechanism):
		r = no("CANNOT", "No such mechanism")
	case errors.Is(err, auth.ErrMalformed):
		r = fmt.Errorf("%w: malformed response", errSyntax)
	}
	s.srv.metrics.logins.WithLabelValues(outcome).Inc()
	return r
}

// loggedIn makes the session that of account, by a mechanism and on the word of authc, who may be
// somebody who acts for the user.
func (s *session) loggedIn(c *command, mech, authc string, account auth.Account, kept *keeper) error {
	if !account.Admin && !s.srv.users.Acquire(account.Name) {
		s.srv.metrics.logins.WithLabelValues("limit").Inc()
		s.log().Info("login refused", "user", account.Name, "err", errTooMany)
		return errTooMany
	}
	s.setUser(mbox.UserID(account.Name))
	s.admin, s.groups, s.groupsAt = account.Admin, account.Groups, time.Now()
	s.view = s.cfg.Namespace.View(s.user, s.admin, false)
	s.phase = authed
	s.adopt(kept)
	s.promised = s.srv.caps.offered()
	s.autocreate()
	s.reply(c, okCode("CAPABILITY "+s.capabilities(), "Logged in"))
	s.srv.metrics.logins.WithLabelValues("ok").Inc()
	facts := []any{"mech", mech, "tls", s.secure(), "admin", s.admin}
	if authc != account.Name {
		facts = append(facts, "by", authc)
	}
	s.log().Info("login", facts...) // which the client does not wait for
	return nil
}

// leave ends the time of a user, if one is logged in: the log says so, and there is room for another.
func (s *session) leave() {
	if s.user == "" {
		return
	}
	s.log().Info("logout", "dur", (time.Since(s.since) - s.before).Round(time.Millisecond), "in", s.in.total-s.inAt, "out", s.out.total.Load()-s.outAt)
	if !s.admin {
		s.srv.users.Release(string(s.user))
	}
	s.setUser("")
}

func (s *session) setUser(user mbox.UserID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.user = user
}

// starttls executes STARTTLS. What the client has sent behind it in clear is dropped, never
// executed (RFC 9051 section 6.2.1).
func (s *session) starttls(c *command) error {
	if s.cfg.TLS == nil || s.secure() {
		return bad("STARTTLS is not available")
	}
	if err := s.say(c.tag + " OK Begin TLS negotiation\r\n"); err != nil {
		return err
	}
	s.in.release()
	if err := s.startTLS(s.cfg.TLS); err != nil {
		s.log().Debug("tls handshake failed", "err", err)
		return errLogout // nothing can be said any more
	}
	return nil
}

func (s *session) startTLS(cfg *tls.Config) error {
	conn := tls.Server(&belowTLS{Conn: s.sock, stall: s.cfg.Limits.Write}, cfg)
	ctx, cancel := context.WithTimeout(s.ctx, 30*time.Second)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		s.srv.metrics.tlsFailed.Inc()
		return err
	}
	total := s.in.total
	s.in = s.newReader(conn)
	s.in.total = total
	s.out.Lock()
	s.out.dst, s.out.conn = conn, conn
	s.out.Unlock()
	s.mu.Lock()
	s.conn = conn
	s.mu.Unlock()
	return nil
}

// belowTLS is a client's socket to TLS, which also writes of its own accord: to answer a KeyUpdate (RFC 8446
// section 4.6.3), or to say what is wrong. That may be long after the session's last words, whose deadline
// must not count then.
type belowTLS struct {
	net.Conn
	stall    time.Duration
	deadline atomic.Int64 // for writing, in ns since 1970
}

func (c *belowTLS) SetWriteDeadline(t time.Time) error {
	c.deadline.Store(t.UnixNano())
	return c.Conn.SetWriteDeadline(t)
}

func (c *belowTLS) Write(p []byte) (int, error) {
	if now := time.Now(); now.UnixNano() > c.deadline.Load() {
		if err := c.SetWriteDeadline(now.Add(c.stall)); err != nil {
			return 0, err
		}
	}
	return c.Conn.Write(p)
}

func (s *session) logout(c *command) error {
	s.say("* BYE Logging out\r\n" + c.tag + " OK Completed\r\n")
	s.srv.metrics.command(c, "OK", "")
	return errLogout
}

// unauthenticate goes back to the state before login (RFC 8437).
func (s *session) unauthenticate(c *command) error {
	if s.deflated {
		// The compression layer would have to end here, which needs the client's agreement on where.
		return no("CANNOT", "Not with compression")
	}
	s.leaveMailbox()
	for _, b := range s.conns {
		b.close()
		s.gone(b)
	}
	s.leave()
	s.before, s.inAt, s.outAt = time.Since(s.since), s.in.total, s.out.total.Load()
	s.admin, s.groups, s.view, s.promised = false, nil, mbox.Viewer{}, offer{}
	s.enabled, s.special, s.unsynced = nil, specialUse{}, false
	s.phase = fresh
	s.allow(s.cfg.Limits.PreAuth)
	return okCode("CAPABILITY "+s.capabilities(), "Unauthenticated")
}

// briefly is what the log takes of an identification, which may be 30 kB long: the first fields, as far as names and
// versions go.
func briefly(params [][2]string) (brief [][2]string) {
	for _, p := range params[:min(len(params), 10)] {
		brief = append(brief, [2]string{p[0], p[1][:min(len(p[1]), 80)]})
	}
	return brief
}

// ident executes ID (RFC 2971): we answer for ourselves, and keep the client's words for the backends.
func (s *session) ident(c *command) error {
	if !c.eat(' ') {
		return fmt.Errorf("%w: parameters or NIL expected", errSyntax)
	}
	var pairs []string
	if strings.EqualFold(string(c.rest()), "NIL") {
		c.pos = len(c.b)
	} else {
		var err error
		if pairs, err = c.list(); err != nil {
			return err
		}
	}
	if err := c.finish(); err != nil {
		return err
	}
	// RFC 2971 section 3.3.
	if len(pairs) > 60 || len(pairs)%2 != 0 {
		return bad("Bad number of ID parameters")
	}
	var params [][2]string
	for i := 0; i < len(pairs); i += 2 {
		if len(pairs[i]) > 30 || len(pairs[i+1]) > 1024 {
			return bad("ID parameter too long")
		}
		params = append(params, [2]string{pairs[i], pairs[i+1]})
	}
	s.id0 = params
	if len(params) > 0 {
		s.log().Info("client identification", "id", briefly(params))
		s.introduceAgain()
	}
	id := `* ID ("name" "murder"`
	if s.cfg.Version != "" && s.phase != fresh {
		id += ` "version" ` + quote(s.cfg.Version)
	}
	if err := s.say(id + ")\r\n"); err != nil {
		return err
	}
	return ok("Completed")
}
