package imap

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/prometheus/client_golang/prometheus"

	"murder/internal/auth"
	"murder/internal/backend"
	"murder/internal/mbox"
)

// Directory is the mailbox map as the frontend asks for it. *cluster.Node satisfies it.
type Directory interface {
	// View returns the local committed copy without asking anybody.
	View() mbox.View
	// Barrier returns when everything committed before the call is in View; mbox.ErrUnavailable
	// when that cannot be known.
	Barrier(ctx context.Context) (uint64, error)
	// Changes blocks until something after an index is applied; mbox.ErrLagged means that a
	// fresh View must be taken.
	Changes(ctx context.Context, after uint64) ([]mbox.Change, uint64, error)
	// Write changes the map: here, only conditional removals.
	Write(ctx context.Context, writes []mbox.Write) ([]mbox.Verdict, error)
	// Synced reports whether the local copy has ever been complete.
	Synced() bool
}

// Backends opens and secures connections to backends. *backend.Set satisfies it.
type Backends interface {
	Dial(ctx context.Context, server mbox.Server, svc backend.Service) (*backend.Conn, error)
	SASL(server mbox.Server, offered []string, authz string, secured bool) (string, sasl.Client, error)
	LoginFailed(server mbox.Server, svc backend.Service, err error)
	Servers() []mbox.Server
	Known(server mbox.Server) bool
}

// Limits bound one session and the server. Zero means the default, given in brackets.
type Limits struct {
	Connections int           // sessions at a time [20000]
	PerAddress  int           // of them from one address; loopback is not counted [no limit]
	PerUser     int           // of them logged in as one user, administrators aside [no limit]
	PreAuth     time.Duration // from connect to login [60s]
	Idle        time.Duration // without a command [30m]
	Write       time.Duration // a client that does not read [10m]
	Line        int           // octets of a command without its literals [64 KiB]
	Arguments   int           // octets of a command that is read whole, with literals [256 KiB]
	Append      int64         // octets of one message [unlimited by us: the backends decide]

	BackendLogin time.Duration // greeting to signed on [10s]
	BackendReply time.Duration // first octet of a short command's answer [30s]
	BackendStall time.Duration // silence during a long command [10m]
	BackendIdle  time.Duration // unused, not selected connections are closed [5m]
	HomeIdle     time.Duration // the same at the backend of the user's INBOX [three times BackendIdle]

	Barrier  time.Duration // waiting for the map [2s]
	MoveWait time.Duration // waiting for a mailbox that is being moved [5s]
	BadLines int           // wrong commands in a row before BYE [10]
}

// Config says how a Server works.
type Config struct {
	Hostname  string // in the greeting; "" means the host's name
	Version   string
	Directory Directory        // required
	Backends  Backends         // required
	Auth      *auth.Mechanisms // required
	Namespace mbox.Namespace
	TLS       *tls.Config // nil: neither STARTTLS nor TLS listeners
	// Proxies are load balancers: connections from there begin with a PROXY header.
	Proxies   []netip.Prefix
	Limits    Limits
	Placement Placement
	// Autocreate gives users without an INBOX one when they log in. Our identity must be an
	// administrator of the backends.
	Autocreate bool
	// Suppress lists capabilities that are never shown, exact tokens.
	// Cyrus: suppress_capabilities.
	Suppress []string
	// HideOrigin keeps the client's address and session id from the backends' logs.
	HideOrigin bool
	// ProbeInterval is the time between two looks at the capabilities of each backend; 0 means
	// 60 s, negative never.
	ProbeInterval time.Duration
	// SpecialUse shows special-use flags in plain LIST answers too, which asks every backend that
	// holds a mailbox shown. Cyrus: specialusealways, which its frontends do not honour.
	SpecialUse bool

	Logger  *slog.Logger          // nil discards
	Metrics prometheus.Registerer // nil for none
}

func (c *Config) check() error {
	switch {
	case c.Directory == nil:
		return errors.New("imap: no directory")
	case c.Backends == nil:
		return errors.New("imap: no backends")
	case c.Auth == nil:
		return errors.New("imap: no authentication")
	}
	if c.Hostname == "" {
		c.Hostname, _ = os.Hostname()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.ProbeInterval == 0 {
		c.ProbeInterval = time.Minute
	}
	c.Suppress = slices.Clone(c.Suppress)
	for i, name := range c.Suppress {
		c.Suppress[i] = strings.ToUpper(name)
	}
	if c.Placement.Policy == "" {
		c.Placement.Policy = LeastMailboxes
	}
	if p := c.Placement.Policy; !slices.Contains(Policies, p) {
		return fmt.Errorf("imap: unknown placement policy %q", p)
	}
	c.Limits.fill()
	return nil
}

func (l *Limits) fill() {
	or(&l.Connections, 20000)
	or(&l.PreAuth, time.Minute)
	or(&l.Idle, 30*time.Minute)
	or(&l.Write, 10*time.Minute)
	or(&l.Line, 64<<10)
	or(&l.Arguments, 256<<10)
	or(&l.BackendLogin, 10*time.Second)
	or(&l.BackendReply, 30*time.Second)
	or(&l.BackendStall, 10*time.Minute)
	or(&l.BackendIdle, 5*time.Minute)
	or(&l.HomeIdle, 3*l.BackendIdle)
	or(&l.Barrier, 2*time.Second)
	or(&l.MoveWait, 5*time.Second)
	or(&l.BadLines, 10)
}

func or[T comparable](p *T, def T) {
	var zero T
	if *p == zero {
		*p = def
	}
}
