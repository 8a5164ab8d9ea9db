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
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

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
	// ErrLoop is told to the operator by Dial itself.
	ErrLoop = fmt.Errorf("that is this frontend itself: %w", ErrDown)
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
	VerifyName                     // signed by RootCAs, for Settings.TLSName or the host
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
	Mechs    []string // SASL mechanisms in order of preference; nil for the usual
	// AllowPlaintext permits PLAIN in clear beyond loopback.
	AllowPlaintext bool

	MaxConns int    // connections at a time over all services, 0 for no limit
	Drain    bool   // takes no new users
	Public   string // name that clients may be referred to, "" for none
}

// Config describes all servers.
type Config struct {
	// Default holds for servers not in Servers. Settings in Servers are complete, not merged.
	Default Settings
	Servers map[mbox.Server]Settings
	// Own reports whether this very process listens at an address, which then is no backend whatever the
	// map or the settings say; nil if it listens nowhere.
	Own func(netip.AddrPort) bool
	// Dial opens a connection to host:port; nil means TCP.
	Dial    func(ctx context.Context, address string) (net.Conn, error)
	Logger  *slog.Logger          // nil discards
	Metrics prometheus.Registerer // nil for none
}

// Set is all servers. It is safe for concurrent use.
type Set struct {
	log     *slog.Logger
	metrics metrics

	mu      sync.RWMutex
	cfg     Config
	servers map[mbox.Server]*server // those used so far
}

// New returns a set. It dials nothing.
func New(cfg Config) *Set {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Set{log: cfg.Logger, metrics: newMetrics(cfg.Metrics), cfg: cfg, servers: make(map[mbox.Server]*server)}
}

// Update replaces the settings. Open connections and what is known about failures stay.
func (s *Set) Update(def Settings, servers map[mbox.Server]Settings) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cfg.Default, s.cfg.Servers = def, servers
	for _, srv := range s.servers {
		srv.current = nil
	}
}

// Known reports whether server has settings of its own.
func (s *Set) Known(server mbox.Server) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, ok := s.cfg.Servers[server]
	return ok
}

// Servers returns the servers with settings of their own, sorted.
func (s *Set) Servers() []mbox.Server {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Sorted(maps.Keys(s.cfg.Servers))
}

// Settings returns what holds for server; the host is filled in.
func (s *Set) Settings(server mbox.Server) Settings {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.settings(server)
}

func (s *Set) settings(server mbox.Server) Settings {
	set, known := s.cfg.Servers[server]
	if !known {
		set = s.cfg.Default
		set.Host = ""
	}
	if set.Host != "" {
		return set
	}
	// Cyrus: a server is named host, host:port or host:port/option; the port is that of IMAP, and
	// the option tls asks for TLS from the first octet.
	name, option, _ := strings.Cut(string(server), "/")
	if option == "tls" {
		set.TLS = Implicit
	}
	set.Host = name
	if host, port, err := net.SplitHostPort(name); err == nil {
		set.Host = host
		if n, err := strconv.Atoi(port); err == nil && set.Ports[IMAP] == 0 {
			set.Ports = maps.Clone(set.Ports)
			if set.Ports == nil {
				set.Ports = make(map[Service]int)
			}
			set.Ports[IMAP] = n
		}
	}
	return set
}

var defaultPorts = map[TLSPolicy][services]int{
	NoTLS:    {143, 2003, 110, 4190},
	StartTLS: {143, 2003, 110, 4190},
	Implicit: {993, 2003, 995, 4190},
}

func (set Settings) port(svc Service) int {
	if n := set.Ports[svc]; n != 0 {
		return n
	}
	return defaultPorts[set.TLS][svc]
}

// server is what is known about one server from using it.
type server struct {
	name     mbox.Server
	conns    atomic.Int64
	current  *terms // nil: not looked up yet
	breakers [services]breaker
	turns    [services]chan struct{} // held by connections that wait for the greeting
}

// terms are the settings of a server and what follows from them. Connections share them, and nobody changes them.
type terms struct {
	Settings
	tls    *tls.Config // with the sessions that can be resumed
	tlsErr error
}

// use returns the terms of a server and what is known about it.
func (s *Set) use(name mbox.Server) (*terms, *server) {
	s.mu.Lock()
	defer s.mu.Unlock()
	srv := s.servers[name]
	if srv == nil {
		srv = &server{name: name}
		for svc := range srv.turns {
			srv.turns[svc] = make(chan struct{}, approach)
		}
		s.servers[name] = srv
	}
	if srv.current == nil {
		t := &terms{Settings: s.settings(name)}
		t.tls, t.tlsErr = t.tlsConfig()
		srv.current = t
	}
	return srv.current, srv
}

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
	// Refused is why the server did not take our identity, RefusedAt when it last did so.
	Refused   string
	RefusedAt time.Time
}

// Broken reports whether a service of server has failed so lately that it would not even be tried.
func (s *Set) Broken(name mbox.Server, svc Service) bool {
	s.mu.RLock()
	srv := s.servers[name]
	s.mu.RUnlock()
	return srv != nil && srv.breakers[svc].open(time.Now())
}

// State returns the states of the services of server that have been used.
func (s *Set) State(name mbox.Server) []State {
	s.mu.RLock()
	srv := s.servers[name]
	s.mu.RUnlock()
	if srv == nil {
		return nil
	}
	var states []State
	for svc := range services {
		if st := srv.breakers[svc].status(); st.Breaker != "" {
			st.Server, st.Service = name, svc
			states = append(states, st)
		}
	}
	return states
}

// States returns the states of all services of all servers that have been used, by name.
func (s *Set) States() []State {
	s.mu.RLock()
	names := slices.Sorted(maps.Keys(s.servers))
	s.mu.RUnlock()
	var states []State
	for _, name := range names {
		states = append(states, s.State(name)...)
	}
	return states
}

// looped notes that a server turned out to be ourselves. It is logged as LoginFailed is.
func (s *Set) looped(srv *server, svc Service, err error) {
	if srv.breakers[svc].refused(time.Now(), err) {
		s.log.Error("the map or the settings lead to this frontend itself", "backend", string(srv.name), "service", svc.String(), "err", err)
	}
}

// LoginFailed notes that a server refused our own identity, which an operator must hear of. It does
// not open the breaker, and is logged once a minute for each server and service.
func (s *Set) LoginFailed(name mbox.Server, svc Service, err error) {
	_, srv := s.use(name)
	s.metrics.logins.WithLabelValues(string(name), svc.String()).Inc()
	if srv.breakers[svc].refused(time.Now(), err) {
		s.log.Error("backend refuses our identity", "backend", string(name), "service", svc.String(), "err", err)
	}
}
