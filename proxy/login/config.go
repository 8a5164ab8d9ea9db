// Package login is what protocols share that only log a user in and then stand between him and one
// backend: POP3 and ManageSieve. It accepts connections, secures them, bounds them, finds the user's
// backend in the map, and carries octets both ways; what is said in which words is the protocols'.
package login

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/prometheus/client_golang/prometheus"

	"murder/internal/auth"
	"murder/internal/backend"
	"murder/internal/mbox"
)

// Directory is the mailbox map. *cluster.Node satisfies it.
type Directory interface {
	// View returns the local committed copy without asking anybody.
	View() mbox.View
	// Barrier returns when everything committed before the call is in View; an error means that
	// this cannot be known.
	Barrier(ctx context.Context) (uint64, error)
	// Synced reports whether the local copy has ever been complete.
	Synced() bool
}

// Backends opens connections to backends. *backend.Set satisfies it.
type Backends interface {
	Dial(ctx context.Context, server mbox.Server, svc backend.Service) (*backend.Conn, error)
	SASL(server mbox.Server, offered []string, authz string, secured bool) (string, sasl.Client, error)
	LoginFailed(server mbox.Server, svc backend.Service, err error)
	Settings(server mbox.Server) backend.Settings
	Servers() []mbox.Server
}

// Limits bound one session and the server. Zero means the default, given in brackets.
type Limits struct {
	Connections int // at a time [10000]
	PerAddress  int // from one address, 0 for no limit
	PerUser     int // logged in as one user, 0 for no limit
	Failures    int // refused logins of one connection before it is closed [5]
	BadCommands int // before the connection is closed [10]

	PreAuth time.Duration // from connect to login [2m]
	Idle    time.Duration // neither side says anything after login; backends close earlier [35m]
	Write   time.Duration // somebody does not read [10m]
	Barrier time.Duration // waiting for the map [2s]
	Backend time.Duration // from a backend's greeting to its consent [30s]
}

// Config says how a server works.
type Config struct {
	Hostname  string           // in the greeting; "" means the host's name
	Version   string           // shown to clients
	Directory Directory        // required
	Backends  Backends         // required
	Auth      *auth.Mechanisms // required
	Namespace mbox.Namespace
	Self      mbox.Server // our own name, if the map could name us by mistake
	TLS       *tls.Config // nil: neither STARTTLS nor TLS listeners
	// Proxies are load balancers whose connections begin with a header of the PROXY protocol.
	Proxies []netip.Prefix
	Limits  Limits

	Logger  *slog.Logger          // nil discards
	Metrics prometheus.Registerer // nil for none
}

func (c *Config) check() error {
	switch {
	case c.Directory == nil:
		return errors.New("no directory")
	case c.Backends == nil:
		return errors.New("no backends")
	case c.Auth == nil:
		return errors.New("no authentication")
	}
	if c.Hostname == "" {
		c.Hostname, _ = os.Hostname()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	l := &c.Limits
	or(&l.Connections, 10000)
	or(&l.Failures, 5)
	or(&l.BadCommands, 10)
	or(&l.PreAuth, 2*time.Minute)
	or(&l.Idle, 35*time.Minute)
	or(&l.Write, 10*time.Minute)
	or(&l.Barrier, 2*time.Second)
	or(&l.Backend, 30*time.Second)
	return nil
}

func or[T comparable](p *T, def T) {
	var zero T
	if *p == zero {
		*p = def
	}
}

type metrics struct {
	sessions  prometheus.Gauge
	logins    *prometheus.CounterVec // outcome
	refused   prometheus.Counter
	tlsFailed prometheus.Counter
	panics    prometheus.Counter
}

func newMetrics(r prometheus.Registerer, protocol string) *metrics {
	opts := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "murder", Subsystem: protocol, Name: name, Help: help}
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts(opts(name, help)))
	}
	m := &metrics{
		sessions:  prometheus.NewGauge(prometheus.GaugeOpts(opts("sessions", "Client sessions."))),
		logins:    prometheus.NewCounterVec(prometheus.CounterOpts(opts("logins_total", "Logins by outcome.")), []string{"outcome"}),
		refused:   counter("refused_total", "Connections refused because there were too many."),
		tlsFailed: counter("tls_failures_total", "Failed TLS handshakes with clients."),
		panics:    counter("panics_total", "Sessions ended by a fault of this program."),
	}
	if r != nil {
		r.MustRegister(m.sessions, m.logins, m.refused, m.tlsFailed, m.panics)
	}
	return m
}
