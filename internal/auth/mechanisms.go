package auth

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/prometheus/client_golang/prometheus"

	"murder/internal/limit"
)

// Names of mechanisms.
const (
	Plain           = sasl.Plain
	Login           = sasl.Login
	External        = sasl.External
	ScramSHA1       = "SCRAM-SHA-1"
	ScramSHA1Plus   = "SCRAM-SHA-1-PLUS"
	ScramSHA256     = "SCRAM-SHA-256"
	ScramSHA256Plus = "SCRAM-SHA-256-PLUS"
)

// preference is the order in which mechanisms are offered.
var preference = []string{ScramSHA256Plus, ScramSHA1Plus, ScramSHA256, ScramSHA1, External, Plain, Login}

const (
	defaultPause      = 3 * time.Second
	defaultTimeout    = 5 * time.Second
	defaultConcurrent = 64

	maxUser     = 512
	maxPassword = 4096
)

// Config says what Mechanisms offers and to whom.
type Config struct {
	Source Source // required

	// Mechs are the mechanisms that may be offered, in any order; nil means all but the -PLUS
	// variants, because Cyrus's own client library stumbles over these. What is usable on one
	// connection also depends on TLS and on the source.
	Mechs []string
	// AllowPlaintext offers PLAIN and LOGIN in clear to any peer, not only on loopback.
	AllowPlaintext bool
	// Admins and Proxies name accounts that get the flag whatever the source says.
	Admins, Proxies []string
	// Groups adds the groups of a file to those that the source knows; nil adds none.
	Groups *GroupFile
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
	// Failures makes an address wait that has failed too often; nil for no such limit. With FailuresByName only
	// the name waits with which it failed: behind one address there may be many who need no password guessed.
	Failures       *limit.Failures
	FailuresByName bool

	Logger  *slog.Logger          // nil discards
	Metrics prometheus.Registerer // nil for none
}

// Mechanisms verifies clients. It is safe for concurrent use.
type Mechanisms struct {
	cfg    Config
	slots  chan struct{}
	logins *prometheus.CounterVec
	salts  []byte // key of the salts shown for unknown users
}

// NewMechanisms returns the mechanisms of cfg. It panics without a source.
func NewMechanisms(cfg Config) *Mechanisms {
	if cfg.Source == nil {
		panic("auth: no source")
	}
	if cfg.Mechs == nil {
		cfg.Mechs = []string{ScramSHA256, ScramSHA1, External, Plain, Login}
	}
	if cfg.Canonical == nil {
		cfg.Canonical = func(name string) (string, error) { return name, nil }
	}
	if cfg.External == nil {
		cfg.External = CertificateName
	}
	if cfg.Pause == 0 {
		cfg.Pause = defaultPause
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.Concurrent == 0 {
		cfg.Concurrent = defaultConcurrent
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Mechanisms{
		cfg:   cfg,
		slots: make(chan struct{}, cfg.Concurrent),
		salts: randomBytes(32),
		logins: register(cfg.Metrics, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "murder_logins_total",
			Help: "Attempts to log in, by protocol, mechanism and result (ok, rejected, unavailable, malformed, limited, gone).",
		}, []string{"protocol", "mechanism", "result"})),
	}
}

// register adds c to r, or returns what another Mechanisms has added before.
func register(r prometheus.Registerer, c *prometheus.CounterVec) *prometheus.CounterVec {
	if r == nil {
		return c
	}
	var already prometheus.AlreadyRegisteredError
	if err := r.Register(c); errors.As(err, &already) {
		if existing, ok := already.ExistingCollector.(*prometheus.CounterVec); ok {
			return existing
		}
	}
	return c
}

// Names returns the mechanisms usable on c now, the preferred first. Ask again after STARTTLS.
func (m *Mechanisms) Names(c Conn) []string {
	var names []string
	for _, mech := range preference {
		if m.usable(mech, c) == nil {
			names = append(names, mech)
		}
	}
	return names
}

// PlaintextAllowed reports whether Password would look at credentials sent over c.
func (m *Mechanisms) PlaintextAllowed(c Conn) bool {
	return m.cfg.AllowPlaintext || c.Private()
}

func (m *Mechanisms) usable(mech string, c Conn) error {
	if !slices.Contains(preference, mech) || !slices.Contains(m.cfg.Mechs, mech) {
		return ErrUnknownMechanism
	}
	switch mech {
	case Plain, Login:
		if !m.PlaintextAllowed(c) {
			return ErrNeedsTLS
		}
	case External:
		if c.TLS == nil || len(c.TLS.VerifiedChains) == 0 {
			return ErrUnknownMechanism
		}
	default:
		base, plus := strings.CutSuffix(mech, plusSuffix)
		keys, ok := m.cfg.Source.(KeySource)
		if !ok || !slices.Contains(keys.KeyMechs(), base) || plus && !bindable(c) {
			return ErrUnknownMechanism
		}
	}
	return nil
}

// Password verifies a name and password given without SASL: IMAP LOGIN, POP3 USER and PASS. On
// refusal it returns ErrRejected after the pause, or ErrUnavailable, ErrTooManyFailures, ErrNeedsTLS.
// When ctx ends first, its error is returned.
func (m *Mechanisms) Password(ctx context.Context, user, password string, c Conn) (Account, error) {
	if !m.PlaintextAllowed(c) {
		return Account{}, ErrNeedsTLS
	}
	if m.blocked(c, "") || m.blocked(c, user) {
		m.count(c, "password", ErrTooManyFailures)
		return Account{}, ErrTooManyFailures
	}
	began := time.Now()
	account, err := m.verify(ctx, user, password, c)
	return account, m.settle(ctx, began, c, "password", user, err)
}

// blocked reports whether an address, or a name at it, has failed too often; the name is "" before it is known.
func (m *Mechanisms) blocked(c Conn, user string) bool {
	return m.cfg.FailuresByName == (user != "") && m.cfg.Failures.Blocked(c.Peer.Addr(), user)
}

// verify asks the source, and flags the account.
func (m *Mechanisms) verify(ctx context.Context, user, password string, c Conn) (account Account, err error) {
	if password == "" || len(password) > maxPassword || strings.Contains(password, "\x00") {
		return Account{}, ErrRejected
	}
	err = m.ask(ctx, user, func(ctx context.Context, name string) error {
		account, err = m.cfg.Source.Verify(ctx, name, password, c)
		if errors.Is(err, ErrUnknownUser) {
			dummy.check(ctx, password)
		}
		return err
	})
	return m.flagged(account), err
}

// lookup finds an account that need not prove anything. A source that cannot look up knows everybody.
func (m *Mechanisms) lookup(ctx context.Context, user string) (account Account, err error) {
	err = m.ask(ctx, user, func(ctx context.Context, name string) error {
		account, err = Account{Name: name}, nil
		if source, ok := m.cfg.Source.(AccountSource); ok {
			account, err = source.Lookup(ctx, name)
		}
		return err
	})
	return m.flagged(account), err
}

// ask puts one question about a name to the source, within the limits of time and number. A panic in
// the source is a temporary failure.
func (m *Mechanisms) ask(ctx context.Context, user string, question func(ctx context.Context, name string) error) (err error) {
	name, err := m.canonical(user)
	if err != nil {
		return err
	}
	outer := ctx
	ctx, cancel := context.WithTimeout(ctx, m.cfg.Timeout)
	defer cancel()
	select {
	case m.slots <- struct{}{}:
		defer func() { <-m.slots }()
	case <-ctx.Done():
		return cmp.Or(outer.Err(), fmt.Errorf("waiting for a slot: %w", ErrUnavailable))
	}
	defer m.guard(&err)
	err = question(ctx, name)
	if err != nil && ctx.Err() != nil && !errors.Is(err, ErrRejected) {
		return cmp.Or(outer.Err(), fmt.Errorf("asking the source: %w: %w", ErrUnavailable, err))
	}
	return err
}

func (m *Mechanisms) canonical(user string) (string, error) {
	if user == "" || len(user) > maxUser {
		return "", ErrRejected
	}
	for i := range len(user) {
		if user[i] < 0x20 || user[i] == 0x7f {
			return "", ErrRejected
		}
	}
	name, err := m.cfg.Canonical(user)
	if err != nil || name == "" {
		return "", ErrRejected
	}
	return name, nil
}

// authorize decides whether an account may act as authz, "" for itself.
//
// Cyrus: an identity of proxyservers may become anybody. Here one that is only a proxy cannot become
// an administrator, so that the password of a web mail program is not the key to everything.
func (m *Mechanisms) authorize(ctx context.Context, authc Account, authz string) (Result, error) {
	self := Result{Authc: authc.Name, Authz: authc.Name, Account: authc}
	if authz == "" {
		return self, nil
	}
	name, err := m.canonical(authz)
	switch {
	case err != nil:
		return Result{}, ErrNotAuthorized
	case name == authc.Name:
		return self, nil
	case !authc.Admin && !authc.Proxy:
		return Result{}, ErrNotAuthorized
	}
	// Whether a name that the source does not know has a mailbox is for the map to say.
	target, err := m.lookup(ctx, authz)
	if errors.Is(err, ErrUnknownUser) {
		target, err = m.flagged(Account{Name: name}), nil
	}
	if err != nil {
		return Result{}, err
	}
	if target.Admin && !authc.Admin {
		return Result{}, ErrNotAuthorized
	}
	return Result{Authc: authc.Name, Authz: target.Name, Account: target}, nil
}

// settle turns the outcome of an attempt into what a protocol may know, serves the pause, and keeps
// the books. The pause runs from the beginning of the attempt, so that the time a source took to find
// out does not show.
func (m *Mechanisms) settle(ctx context.Context, began time.Time, c Conn, mech, user string, err error) error {
	if errors.Is(err, ErrUnknownUser) {
		err = ErrRejected
	}
	switch {
	case err == nil:
	case errors.Is(err, ErrRejected), errors.Is(err, ErrNotAuthorized):
		if !m.cfg.FailuresByName {
			m.cfg.Failures.Add(c.Peer.Addr(), "")
		} else if user != "" && len(user) <= maxUser {
			m.cfg.Failures.Add(c.Peer.Addr(), user)
		}
		m.note(ctx, slog.LevelInfo, "login refused", c, mech, user, err)
		if wait := m.cfg.Pause - time.Since(began); wait > 0 {
			timer := time.NewTimer(wait)
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-ctx.Done():
				err = ctx.Err()
			}
		}
	case errors.Is(err, ErrTooManyFailures):
	case errors.Is(err, ErrMalformed):
		m.note(ctx, slog.LevelInfo, "login malformed", c, mech, user, err)
	case ctx.Err() != nil:
		err = ctx.Err()
	default:
		if !errors.Is(err, ErrUnavailable) {
			err = fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		m.note(ctx, slog.LevelWarn, "login not possible", c, mech, user, err)
	}
	m.count(c, mech, err)
	return err
}

func (m *Mechanisms) note(ctx context.Context, level slog.Level, msg string, c Conn, mech, user string, err error) {
	m.cfg.Logger.LogAttrs(ctx, level, msg, slog.String("protocol", c.Protocol), slog.String("mech", mech),
		slog.String("user", user[:min(len(user), maxUser)]), slog.String("peer", c.Peer.String()), slog.String("conn", c.SessionID), slog.Any("err", err))
}

func (m *Mechanisms) count(c Conn, mech string, err error) {
	result := "gone"
	switch {
	case err == nil:
		result = "ok"
	case errors.Is(err, ErrRejected), errors.Is(err, ErrNotAuthorized):
		result = "rejected"
	case errors.Is(err, ErrMalformed):
		result = "malformed"
	case errors.Is(err, ErrTooManyFailures):
		result = "limited"
	case errors.Is(err, ErrUnavailable):
		result = "unavailable"
	}
	m.logins.WithLabelValues(c.Protocol, mech, result).Inc()
}

// guard turns a panic into a temporary failure. It must be deferred directly.
func (m *Mechanisms) guard(err *error) {
	if p := recover(); p != nil {
		m.cfg.Logger.Error("panic while authenticating", "panic", p, "stack", string(debug.Stack()))
		*err = fmt.Errorf("%w: panic", ErrUnavailable)
	}
}
