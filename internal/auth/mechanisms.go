package auth

import (
	"context"
	"crypto/tls"
	"log/slog"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/prometheus/client_golang/prometheus"
)

// Names of mechanisms.
const (
	Plain             = sasl.Plain
	Login             = sasl.Login
	External          = sasl.External
	ScramSHA1         = "SCRAM-SHA-1"
	ScramSHA1Plus     = "SCRAM-SHA-1-PLUS"
	ScramSHA256       = "SCRAM-SHA-256"
	ScramSHA256Plus   = "SCRAM-SHA-256-PLUS"
	defaultPause      = 3 * time.Second
	defaultTimeout    = 5 * time.Second
	defaultConcurrent = 64
)

// Config says what Mechanisms offers and to whom.
type Config struct {
	Source Source // required

	// Mechs are the mechanisms that may be offered, in any order; nil means all but the -PLUS
	// variants. What is usable on one connection also depends on TLS and on the source.
	Mechs []string
	// AllowPlaintext offers PLAIN and LOGIN in clear to any peer, not only on loopback.
	AllowPlaintext bool
	// Admins and Proxies name accounts that get the flag whatever the source says.
	Admins, Proxies []string
	// Canonical rewrites a name before any source sees it (case folding, default domain); nil
	// leaves names alone. An error refuses the login.
	Canonical func(string) (string, error)
	// External maps a verified client certificate to a name; nil takes the first e-mail address of
	// the certificate, otherwise its common name.
	External func(*tls.ConnectionState) (string, error)

	// Pause is the time from a login attempt to its refusal; 0 means 3 s, negative none.
	Pause time.Duration
	// Timeout bounds one question to the source; 0 means 5 s.
	Timeout time.Duration
	// Concurrent bounds the questions to the source at a time; 0 means 64.
	Concurrent int

	Logger  *slog.Logger          // nil discards
	Metrics prometheus.Registerer // nil for none
}

// Mechanisms verifies clients. It is safe for concurrent use.
type Mechanisms struct {
	cfg Config
}

// NewMechanisms returns the mechanisms of cfg. It panics without a source.
func NewMechanisms(cfg Config) *Mechanisms {
	return &Mechanisms{cfg: cfg}
}

// Names returns the mechanisms usable on c now, the preferred first. Ask again after STARTTLS.
func (m *Mechanisms) Names(c Conn) []string { return nil }

// PlaintextAllowed reports whether Password would look at credentials sent over c.
func (m *Mechanisms) PlaintextAllowed(c Conn) bool {
	return m.cfg.AllowPlaintext || c.Private()
}

// Password verifies a name and password given without SASL: IMAP LOGIN, POP3 USER and PASS. On
// refusal it returns ErrRejected after the pause, or ErrUnavailable, ErrTooManyFailures, ErrNeedsTLS.
// When ctx ends first, its error is returned.
func (m *Mechanisms) Password(ctx context.Context, user, password string, c Conn) (Account, error) {
	return Account{}, ErrRejected
}

// Start begins an exchange; ctx bounds all of it, also the pause. The name of the mechanism is
// matched without regard to case. Errors: ErrUnknownMechanism, ErrNeedsTLS, ErrTooManyFailures.
func (m *Mechanisms) Start(ctx context.Context, mech string, c Conn) (*Exchange, error) {
	return nil, ErrUnknownMechanism
}

// Exchange is one attempt to authenticate. It implements sasl.Server, is used by one goroutine, and
// is dropped without ceremony when the client cancels.
type Exchange struct {
	result Result
}

// Next takes a decoded response and returns the next challenge. The first call gets the initial
// response, or nil if there was none; an empty initial response is empty and not nil. It blocks
// while a source is asked and for the pause before a refusal. After done or an error the exchange
// is over; errors wrap ErrRejected, ErrUnavailable, ErrNotAuthorized or ErrMalformed, or are ctx's.
//
// A mechanism with a final server message (SCRAM) sends it as one more challenge, to which the
// client answers with an empty response; done never comes with a challenge.
func (x *Exchange) Next(response []byte) (challenge []byte, done bool, err error) {
	return nil, false, ErrRejected
}

// Result is valid once Next has returned done.
func (x *Exchange) Result() Result { return x.result }
