package imap

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"murder/internal/backend"
	"murder/internal/imapwire"
	"murder/internal/mbox"
)

// proxyTTL is through how many proxies a session may go; "x-proxy-ttl" in ID counts them down.
const proxyTTL = 5

var (
	errLoop   = no("CANNOT", "Too many proxies one after the other")
	errAuthz  = no("AUTHORIZATIONFAILED", "The server of this mailbox does not let you in")
	errEnable = no("CANNOT", "The server of this mailbox lacks an extension that you have enabled")
	// errCredentials is an operator's matter; the user only hears that the server is not available.
	errCredentials = fmt.Errorf("our own identity is refused: %w", backend.ErrDown)
	errProtocol    = fmt.Errorf("no IMAP server as expected: %w", backend.ErrDown)
)

// signOnPause is how long a backend that has refused our own identity is left alone, so that a wrong
// password does not become a storm of attempts.
const signOnPause = 5 * time.Second

// signOnPauses remembers refusals of our own identity.
type signOnPauses struct {
	mu    sync.Mutex
	until map[mbox.Server]time.Time
}

func (p *signOnPauses) active(server mbox.Server) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Now().Before(p.until[server])
}

func (p *signOnPauses) begin(server mbox.Server) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.until == nil {
		p.until = make(map[mbox.Server]time.Time)
	}
	p.until[server] = time.Now().Add(signOnPause)
}

// connect opens and authenticates a connection as authz; "" stands for our own identity. The server is told hello.
func (srv *Server) connect(ctx context.Context, server mbox.Server, authz, hello string) (*signOn, error) {
	if srv.pause.active(server) {
		return nil, errCredentials
	}
	so, err := access{srv.cfg.Backends, srv.caps, srv.cfg.Limits.BackendLogin}.signOn(ctx, server, hello, ownLogin{srv.cfg.Backends, authz})
	outcome := "ok"
	switch {
	case err == nil:
	case so == nil:
		outcome = "unreachable"
	case errors.Is(err, errCredentials):
		outcome = "credentials"
		srv.pause.begin(server)
		srv.cfg.Backends.LoginFailed(server, backend.IMAP, err)
	default:
		outcome = "failed"
	}
	srv.metrics.backends.WithLabelValues(string(server), outcome).Inc()
	return so, err
}

// access opens connections that are logged in.
type access struct {
	backends interface {
		Dial(ctx context.Context, server mbox.Server, service backend.Service) (*backend.Conn, error)
	}
	caps    *capTable
	timeout time.Duration // of the dialogue
}

// signOn logs in on a new connection. If it goes wrong because of what was heard lately, it goes once more in good order.
// With an error it returns the dialogue as far as it went, nil if nobody was reached.
func (a access) signOn(ctx context.Context, server mbox.Server, hello string, l login) (*signOn, error) {
	known := a.caps.greeted(server)
	so, err := a.attempt(ctx, server, hello, l, known)
	late := errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
	if err != nil && known != nil && so != nil && ctx.Err() == nil && !late && !so.final {
		// It may be another server by now. In good order it says what is wrong.
		a.caps.greet(server, nil)
		so, err = a.attempt(ctx, server, hello, l, nil)
	}
	return so, err
}

func (a access) attempt(ctx context.Context, server mbox.Server, hello string, l login, known capSet) (*signOn, error) {
	nc, err := a.backends.Dial(ctx, server, backend.IMAP)
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", server, err)
	}
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	so, unhook := newSignOn(ctx, server, nc, &a.caps.texts)
	defer unhook()
	so.hello = hello
	before, err := so.run(ctx, l, known)
	if err != nil {
		nc.Close()
		return so, fmt.Errorf("signing on to %s: %w", server, err)
	}
	a.caps.greet(server, before)
	unhook()
	nc.SetDeadline(time.Time{})
	return so, nil
}

// ownLogin is a login by our own identity, to act as authz; "" stands for ourselves.
type ownLogin struct {
	backends Backends
	authz    string
}

func (l ownLogin) once() bool { return false }

func (l ownLogin) begin(so *signOn) (*exchangeSASL, error) {
	var offered []string
	for name := range so.caps {
		if mech, ok := strings.CutPrefix(name, "AUTH="); ok {
			offered = append(offered, mech)
		}
	}
	mech, client, err := l.backends.SASL(so.server, offered, l.authz, so.nc.Secured())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errCredentials, err)
	}
	return so.beginSASL(mech, client)
}

func (l ownLogin) end(so *signOn, st status, code, text string) error {
	switch {
	case st == statusOK:
		return so.capsFrom(code)
	case codeName(code) == "UNAVAILABLE":
		return fmt.Errorf("%w: %s", backend.ErrDown, text)
	case codeName(code) == "AUTHORIZATIONFAILED", strings.Contains(strings.ToLower(text), "authoriz"):
		// Cyrus: "authorization failure" without a code is about the user, not about us.
		return errAuthz
	}
	return fmt.Errorf("%w: %.200s", errCredentials, text)
}

// open gives the session a connection to server: signed on as the user, with everything enabled
// there that the user has enabled, and with the user's origin in the server's log.
func (s *session) open(server mbox.Server) (*conn, error) {
	so, err := s.signOn(server)
	if err != nil {
		return nil, err
	}
	return s.take(so)
}

// signOn opens a connection to server as the user, and says there who the client is.
func (s *session) signOn(server mbox.Server) (*signOn, error) {
	hello, err := s.introduction()
	if err != nil {
		return nil, err
	}
	return s.srv.connect(s.ctx, server, string(s.user), hello)
}

// take makes a connection that is signed on as the user one of the session's.
func (s *session) take(so *signOn) (*conn, error) {
	s.srv.caps.learn(so.server, so.caps)
	so.nc.SetDeadline(time.Now().Add(s.cfg.Limits.BackendLogin))
	err := so.enable(s.enabled)
	if err == nil {
		err = s.checkNamespace(so)
	}
	if err != nil {
		so.nc.Close()
		return nil, err
	}
	so.nc.SetDeadline(time.Time{})
	c := s.newConn(so)
	if so.caps.has("ID") { // which a server may offer after the login only
		c.hello = so.hello
	}
	return c, nil
}

// introduction is the command that tells a backend where the client comes from, "" for none.
func (s *session) introduction() (string, error) {
	if s.cfg.HideOrigin {
		return "", nil
	}
	ttl := proxyTTL
	pairs := [][2]string{
		{"x-originating-ip", s.peer.Addr().String()},
		{"x-originating-port", strconv.Itoa(int(s.peer.Port()))},
		{"x-session-id", s.id},
	}
	for _, p := range s.id0 {
		switch name := strings.ToLower(p[0]); {
		case name == "x-proxy-ttl":
			ttl, _ = strconv.Atoi(p[1])
		case name == "x-session-id", strings.HasPrefix(name, "x-originating-"): // ours to say
		default:
			pairs = append(pairs, p)
		}
	}
	if ttl <= 1 {
		return "", errLoop
	}
	pairs = slices.Insert(pairs, 3, [2]string{"x-proxy-ttl", strconv.Itoa(ttl - 1)})
	var list []string
	for _, p := range pairs[:min(len(pairs), 30)] { // RFC 2971 section 3.3
		if imapwire.Quotable(p[0]) && imapwire.Quotable(p[1]) {
			list = append(list, quote(p[0])+" "+quote(p[1]))
		}
	}
	return "ID (" + strings.Join(list, " ") + ")", nil
}

// introduceAgain has the servers at which the user is logged in already told what the client now says of itself: others
// ahead of their next command, that of the selected mailbox at once. It may take the occasion to tell which messages are
// gone (RFC 9051 section 7.5.1), which must not happen when the client has given a command that names messages by their
// numbers. Cyrus 3.6 tells of new flags only.
func (s *session) introduceAgain() {
	hello, err := s.introduction()
	if err != nil {
		return // it gets no more connections, and keeps those it has
	}
	for _, c := range s.conns {
		switch {
		case hello == "" || !c.caps.has("ID"):
		case c == s.sel:
			c.do(&exchange{all: true, stall: s.cfg.Limits.BackendReply}, func(tag string) []byte { return []byte(tag + " " + hello + "\r\n") })
		default:
			c.hello = hello
		}
	}
}
