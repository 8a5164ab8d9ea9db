// Package sieve is the ManageSieve frontend (RFC 5804): it logs the user in, finds the backend of his
// INBOX in the map, signs on there in his name, and relays.
//
// After login commands are still read one by one, because two of them must not reach the backend:
// UNAUTHENTICATE would leave the session without a user on one side only, and STARTTLS belongs to the
// connection with the frontend. Scripts pass as they come and are never held in memory.
//
// Known gaps: no SASL security layers; CHECKSCRIPT before login is refused.
package sieve

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"murder/internal/auth"
	"murder/internal/backend"
	"murder/internal/imapwire"
	"murder/internal/mbox"
	"murder/proxy/login"
)

// Config says how a Server works.
type Config struct {
	login.Config
	// Referrals sends users to their backend instead of relaying, where it has a public name.
	// Cyrus: sieve_allowreferrals.
	Referrals bool
}

// Server is a ManageSieve frontend: Serve, Shutdown, Sessions and Kick are login.Server's.
type Server struct {
	*login.Server
	referrals bool
	caps      capTable
}

// New returns a server that listens on nothing yet, and begins to ask the backends what they can do.
// Shutdown must be called to release it.
func New(cfg Config) (*Server, error) {
	s := &Server{referrals: cfg.Referrals}
	base, err := login.NewServer(cfg.Config, login.Protocol{
		Name:    "sieve",
		Service: backend.Sieve,
		Full:    "BYE (TRYLATER) \"Too many connections\"\r\n",
		Run:     func(c *login.Session) { (&session{Session: c, srv: s}).run() },
	})
	if err != nil {
		return nil, err
	}
	s.Server = base
	s.caps.first = make(chan struct{})
	s.Go(s.probe)
	return s, nil
}

const (
	maxLine    = 8192
	maxCommand = auth.MaxEncoded + maxLine // before login, with literals
)

// session is one client until login.
type session struct {
	*login.Session
	srv *Server
}

// errLeave ends a session that has been told why.
var errLeave = errors.New("session is over")

func (s *session) run() {
	s.Say(s.capabilities())
	for {
		c, err := readCommand(&s.Reader)
		if err == nil {
			err = s.command(c)
		}
		switch {
		case err == nil:
			continue
		case errors.Is(err, errSyntax):
			if s.no("", err.Error()) == nil {
				continue
			}
		case errors.Is(err, errLeave):
		case s.Ending() != "":
			s.Say("BYE (TRYLATER) " + quote(s.Ending()) + "\r\n")
		case errors.Is(err, login.ErrTLSOctets):
			s.Say("BYE \"TLS begins with STARTTLS here\"\r\n")
		case errors.Is(err, imapwire.ErrLineTooLong), errors.Is(err, imapwire.ErrBadLiteral):
			s.Say("BYE \"Too long\"\r\n")
		}
		return
	}
}

// command executes one command before login. Its error ends the session.
func (s *session) command(c command) error {
	switch c.verb {
	case "CAPABILITY":
		return s.Say(s.capabilities())
	case "NOOP":
		if len(c.args) > 0 {
			return s.Say("OK (TAG " + quote(c.args[0]) + ") \"Done\"\r\n")
		}
		return s.Say("OK \"Done\"\r\n")
	case "LOGOUT":
		s.Say("OK \"Logout completed\"\r\n")
		return errLeave
	case "STARTTLS":
		return s.starttls()
	case "AUTHENTICATE":
		return s.authenticate(c.args)
	}
	return s.no("", "Authenticate first")
}

// no answers a command that makes no sense, or makes none now.
func (s *session) no(code, text string) error {
	if s.BadCommand() {
		s.Say("BYE \"Too many bad commands\"\r\n")
		return errLeave
	}
	return s.Say(no(code, text))
}

func no(code, text string) string {
	if code != "" {
		code = "(" + code + ") "
	}
	return "NO " + code + quote(text) + "\r\n"
}

// capabilities is the list before login.
//
// Cyrus: sieveshell takes no text after the OK, neither here nor after a login.
func (s *session) capabilities() string {
	var b strings.Builder
	line := func(name, value string) { b.WriteString(quote(name) + " " + quote(value) + "\r\n") }
	line("IMPLEMENTATION", strings.TrimSpace("murder "+s.Config().Version))
	line("VERSION", "1.0")
	line("SASL", strings.Join(s.Config().Auth.Names(s.Conn()), " "))
	s.srv.caps.wait(s.Ctx)
	line("SIEVE", s.srv.caps.common("SIEVE"))
	for _, name := range []string{"NOTIFY", "EXTLISTS"} {
		if value := s.srv.caps.common(name); value != "" {
			line(name, value)
		}
	}
	if s.Config().TLS != nil && !s.TLS() {
		b.WriteString("\"STARTTLS\"\r\n")
	}
	b.WriteString("OK\r\n")
	return b.String()
}

func (s *session) starttls() error {
	switch {
	case s.TLS():
		return s.no("", "TLS is active already")
	case s.Config().TLS == nil:
		return s.no("", "TLS is not available")
	}
	if err := s.Say("OK \"Begin TLS negotiation now\"\r\n"); err != nil {
		return err
	}
	if err := s.StartTLS(s.Config().TLS); err != nil {
		return err
	}
	return s.Say(s.capabilities()) // RFC 5804 section 2.2
}

func (s *session) authenticate(args []string) error {
	if len(args) < 1 || len(args) > 2 {
		return s.no("", "Usage: AUTHENTICATE mechanism [response]")
	}
	var initial []byte
	if len(args) == 2 {
		var err error
		if initial, err = decode(args[1]); err != nil {
			return s.no("", err.Error())
		}
	}
	result, err := s.Authenticate(args[0], initial, func(challenge []byte) ([]byte, error) {
		if err := s.Say(quote(base64.StdEncoding.EncodeToString(challenge)) + "\r\n"); err != nil {
			return nil, fmt.Errorf("%w: %w", errLeave, err)
		}
		text, err := readString(&s.Reader)
		switch {
		case errors.Is(err, errSyntax):
			return nil, err
		case err != nil:
			return nil, fmt.Errorf("%w: %w", errLeave, err)
		case text == "*":
			return nil, login.ErrCancelled
		}
		return decode(text)
	})
	switch {
	case err == nil:
		return s.enter(result.Account)
	case errors.Is(err, errLeave):
		return err
	case errors.Is(err, login.ErrCancelled):
		return s.no("", "Authentication cancelled")
	case errors.Is(err, auth.ErrUnknownMechanism):
		return s.no("", "Unknown mechanism")
	case errors.Is(err, errSyntax), errors.Is(err, auth.ErrMalformed):
		return s.no("", "Malformed response")
	}
	return s.failed(err)
}

// decode reads a response in base64. What is empty is a response too.
func decode(text string) ([]byte, error) {
	response, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("%w: base64 expected", errSyntax)
	}
	return append([]byte{}, response...), nil
}

// enter signs on to the user's backend and relays, or refers the user there.
func (s *session) enter(account auth.Account) error {
	inbox := s.Config().Namespace.Inbox(mbox.UserID(account.Name))
	if s.srv.referrals {
		server, err := s.Locate(inbox)
		if err != nil {
			return s.failed(err)
		}
		if public := s.Config().Backends.Settings(server).Public; public != "" {
			return s.refer(public)
		}
	}
	b, err := s.Connect(account, account.Name, inbox, func(ctx context.Context, b *login.Backend, authz string) error {
		return s.srv.signOn(ctx, b, authz)
	})
	if err != nil {
		return s.failed(err)
	}
	if err := s.Say("OK\r\n"); err != nil {
		return err
	}
	r := newRelay(s.Session, b)
	s.Pipe(b, r.up, r.down, r.farewell)
	return errLeave
}

// refer accepts the login and answers the next command with where to go.
//
// Cyrus: clients know a referral in this place.
func (s *session) refer(public string) error {
	if err := s.Say("OK\r\n"); err != nil {
		return err
	}
	c, err := readCommand(&s.Reader)
	switch {
	case err == nil && c.verb == "LOGOUT":
		s.Say("OK \"Logout completed\"\r\n")
	case err == nil || errors.Is(err, errSyntax):
		s.Say("BYE (REFERRAL " + quote("sieve://"+public) + ") \"Your scripts are on another server\"\r\n")
	default:
		return err
	}
	return errLeave
}

// failed answers a login that did not come about; the session stays where it was.
func (s *session) failed(err error) error {
	enough := s.LoginFailed(err)
	code, text := "TRYLATER", "Server unavailable"
	switch {
	case s.Ctx.Err() != nil:
		return s.Ctx.Err()
	case errors.Is(err, auth.ErrRejected):
		code, text = "", "Authentication failed"
	case errors.Is(err, auth.ErrNotAuthorized):
		code, text = "", "Not authorized to act as that user"
	case errors.Is(err, auth.ErrNeedsTLS):
		code, text = "ENCRYPT-NEEDED", "Use STARTTLS first"
	case errors.Is(err, auth.ErrUnavailable):
		text = "Authentication is temporarily unavailable"
	case errors.Is(err, login.ErrTooMany):
		text = "Too many connections"
	case errors.Is(err, login.ErrNoMailbox):
		code, text = "", "No mailbox"
	case errors.Is(err, login.ErrMoving):
		text = "Mailbox is being moved"
	case errors.Is(err, mbox.ErrUnavailable):
		text = "Directory unavailable"
	}
	if enough {
		s.Say("BYE " + quote(text) + "\r\n")
		return errLeave
	}
	return s.Say(no(code, text))
}
