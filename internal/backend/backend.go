// Package backend knows the servers behind the proxies: where each is dialled, how its connections
// are secured, who we are there, and whether it is worth trying at the moment.
//
// The package opens connections and chooses the SASL mechanism (RFC 4422; PLAIN, EXTERNAL, SCRAM, each
// with an authorization identity); the dialogue belongs to the protocols.
package backend

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/prometheus/client_golang/prometheus"

	"murder/internal/mbox"
)

// Service is a protocol that a backend speaks.
type Service uint8

const (
	IMAP Service = iota
	LMTP
	POP3
	Sieve
	services
)

func (s Service) String() string {
	return [...]string{"imap", "lmtp", "pop3", "sieve", "?"}[min(s, services)]
}

// Errors of Dial and StartTLS. All of them wrap ErrDown: the server cannot be used now, mail for it
// waits.
var (
	ErrDown        = errors.New("backend is not available")
	ErrBreakerOpen = fmt.Errorf("failed recently, not tried: %w", ErrDown)
	ErrUnreachable = fmt.Errorf("cannot connect: %w", ErrDown)
	ErrTLS         = fmt.Errorf("cannot secure the connection: %w", ErrDown)
	ErrBusy        = fmt.Errorf("too many connections: %w", ErrDown)
)

// ErrNoMechanism means that the server offers no mechanism we may use there.
var ErrNoMechanism = errors.New("no usable mechanism")

// TLSPolicy says how connections to a server are secured.
type TLSPolicy uint8

const (
	StartTLS TLSPolicy = iota // after the greeting; a server that does not offer it is not used
	Implicit                  // from the first octet
	NoTLS                     // never
)

// Verification says which certificates are accepted.
type Verification uint8

const (
	VerifyCA   Verification = iota // signed by RootCAs; the name does not matter
	VerifyName                     // signed by RootCAs, for Settings.TLSName
	VerifyPin                      // the key's SHA-256 is one of Settings.Pins
	VerifyNone                     // any
)

// Settings describe one server.
type Settings struct {
	Host  string          // to dial; "" means the server's name in the map
	Ports map[Service]int // missing ones: 143 (993 with Implicit), 2003, 110 (995), 4190
	Bind  netip.Addr      // local address to dial from; zero lets the system choose

	TLS         TLSPolicy
	Verify      Verification
	RootCAs     *x509.CertPool                   // nil means the system's
	TLSName     string                           // expected with VerifyName and sent as SNI; "" means Host
	Pins        []string                         // SHA-256 of the public key (SPKI) in hexadecimal
	Certificate func() (*tls.Certificate, error) // client certificate; nil for none

	Authname string   // our identity there
	Password string   // its password
	Mechs    []string // SASL mechanisms in order of preference; nil means EXTERNAL (with Certificate), SCRAM-SHA-256, SCRAM-SHA-1, PLAIN
	// AllowPlaintext permits PLAIN in clear beyond loopback.
	AllowPlaintext bool

	MaxConns int    // connections at a time over all services, 0 for no limit
	Public   string // name that clients may be referred to, "" for none
}

// Config describes all servers.
type Config struct {
	// Default holds for servers not in Servers. Settings in Servers are complete, not merged.
	Default Settings
	Servers map[mbox.Server]Settings
	Logger  *slog.Logger          // nil discards
	Metrics prometheus.Registerer // nil for none
}

// Set is all servers. It is safe for concurrent use.
type Set struct{}

// New returns a set. It dials nothing.
func New(cfg Config) *Set { return &Set{} }

// Known reports whether server has settings of its own.
func (s *Set) Known(server mbox.Server) bool { return false }

// Servers returns the servers with settings of their own, sorted.
func (s *Set) Servers() []mbox.Server { return nil }

// Settings returns what holds for server; the host is filled in.
func (s *Set) Settings(server mbox.Server) Settings { return Settings{} }

// Dial connects to a service of a server, over TLS if the policy is Implicit. It tries every address
// for at most 2 s, for 5 s in all. A server that failed three times in a row is left alone for 5 s,
// doubling to 60 s, then tried by one caller at a time.
//
// A connection counts as good once the first octet has been read from it, and as failed if reading
// ends or times out before that: set a read deadline for the greeting.
func (s *Set) Dial(ctx context.Context, server mbox.Server, svc Service) (*Conn, error) {
	return nil, ErrUnreachable
}

// SASL chooses a mechanism among those a server offers and returns its client, to act as authz (""
// for ourselves). secured is Conn.Secured. The client's Start gives the same mechanism. An
// initial response of nil means none. Errors wrap ErrNoMechanism.
func (s *Set) SASL(server mbox.Server, offered []string, authz string, secured bool) (mech string, client sasl.Client, err error) {
	return "", nil, ErrNoMechanism
}

// LoginFailed notes that a server refused our own identity, which an operator must hear of. It does
// not open the breaker.
func (s *Set) LoginFailed(server mbox.Server, svc Service, err error) {}

// State describes one service of one server for status output.
type State struct {
	Server    mbox.Server
	Service   Service
	Breaker   string // closed, open, half-open
	Failures  int    // in a row
	RetryAt   time.Time
	Conns     int
	LastError string
	LastAt    time.Time // of LastError
}

// State returns the states of the services of server that have been used.
func (s *Set) State(server mbox.Server) []State { return nil }

// Conn is a connection to a backend.
type Conn struct {
	net.Conn
}

// NeedStartTLS reports whether the policy demands StartTLS and it has not happened yet.
func (c *Conn) NeedStartTLS() bool { return false }

// StartTLS performs the handshake, after the server has agreed. Drop whatever was buffered before.
// After an error, which wraps ErrTLS, the connection must be closed.
func (c *Conn) StartTLS(ctx context.Context) error { return ErrTLS }

// Secured reports whether a password may be sent: TLS, or a server on this host.
func (c *Conn) Secured() bool { return false }

// CloseWrite ends our direction; the server's may go on.
func (c *Conn) CloseWrite() error { return nil }

// Server returns the name the connection was dialled by.
func (c *Conn) Server() mbox.Server { return "" }
