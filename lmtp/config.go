package lmtp

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

// Directory is the mailbox map as delivery asks for it. *cluster.Node satisfies it.
type Directory interface {
	// View returns the local committed copy without asking anybody.
	View() mbox.View
	// Barrier returns when everything committed before the call is in View; an error when that
	// cannot be known.
	Barrier(ctx context.Context) (uint64, error)
	// Synced reports whether the local copy has ever been complete.
	Synced() bool
}

// Backends opens and secures connections to backends. *backend.Set satisfies it.
type Backends interface {
	Dial(ctx context.Context, server mbox.Server, svc backend.Service) (*backend.Conn, error)
	SASL(server mbox.Server, offered []string, authz string, secured bool) (mech string, client sasl.Client, err error)
	LoginFailed(server mbox.Server, svc backend.Service, err error)
	Broken(server mbox.Server, svc backend.Service) bool
}

// Limits bound one session and the server. Zero means the default, given in brackets.
type Limits struct {
	Connections int // clients at a time [500]
	PerSource   int // of these, from one address; loopback is not counted [50]
	Recipients  int // of one transaction [1000]
	BadCommands int // wrong commands in a row before the session is closed [10]

	Idle     time.Duration // between commands [300s]
	Data     time.Duration // silence during DATA [180s]
	Write    time.Duration // a client that does not read [300s]
	Handling time.Duration // from the final dot to the last reply [540s]; below every MTA's patience of 600 s

	Line        int   // octets of one message line, at most 8000 [8000]
	Received    int   // Received fields before a message is taken for a loop [100]; negative for no limit
	SpoolMemory int   // octets of one message kept in memory [128 KiB]
	Memory      int64 // octets of all messages kept in memory; beyond it messages go to files at once [64 MiB]
	Spool       int64 // octets of all spool files [2 GiB]
	SpoolFloor  int64 // octets that must be free in the spool directory [64 MiB]; negative for no floor

	BackendConns   int           // connections to one backend [10]
	BackendWaiters int           // transactions waiting for a connection to one backend [200]
	BackendWait    time.Duration // their patience [30s]
	BackendIdle    time.Duration // an unused connection is closed [30s]; must stay below Cyrus's 360 s
	BackendAge     time.Duration // a connection is not used again [10m]
	// BackendUses is how many transactions one connection serves [1000]. A new one, with a process, LHLO and AUTH, costs
	// as much as four deliveries: after 100 that would show. What a process may take up BackendAge bounds.
	BackendUses int

	SignOn   time.Duration // greeting, LHLO, STARTTLS and AUTH [30s]
	Envelope time.Duration // each reply before the data [60s]
	Stall    time.Duration // a backend that does not read the data [60s]
	Reply    time.Duration // replies after the final dot [300s]
	Straggle time.Duration // waiting for more after one "too big" for several recipients [2s]

	// Ahead is how long backends wait for a message that they have been told of while the client sends
	// it [1s]; negative tells them only once it is complete.
	Ahead time.Duration

	AuthPause time.Duration // before an account that may not deliver is refused [3s]
}

// Config says how a Server works.
type Config struct {
	Hostname string    // in the greeting and in Received; "" means the host's name
	Resolver *Resolver // required
	Backends Backends  // required
	// Auth verifies MTAs; nil for trusted sources only.
	Auth *auth.Mechanisms
	// Admins may deliver after AUTH, beside the administrators of the whole system.
	// Cyrus: lmtp_admins.
	Admins []string
	// TrustedNetworks need no AUTH.
	TrustedNetworks []netip.Prefix
	// Proxies are load balancers whose connections begin with a header of the PROXY protocol.
	Proxies []netip.Prefix
	// SoftNoAuth answers untrusted clients with a temporary failure. Cyrus: soft_noauth.
	SoftNoAuth bool
	// TLS offers STARTTLS; nil does not.
	TLS *tls.Config

	// CheckAtBackend puts each recipient to his backend at RCPT, so that the MTA hears of a full mailbox
	// before it sends the message. It costs an exchange with the backend for each recipient, and a
	// process there for as long as the client takes to send its message. Without it the map alone
	// answers RCPT.
	CheckAtBackend bool
	// MaxMessage is the largest message in octets. 0 means no limit of our own: SIZE then shows the
	// smallest limit seen on a backend, while each recipient is held to its own backend's. Where
	// limits differ, set the largest: MTAs bounce by what SIZE says.
	MaxMessage int64
	// Fold breaks lines that are too long at 998 octets instead of refusing the message.
	Fold bool
	// SyntheticMessageID adds a Message-ID made of the content where there is none, so that backends
	// recognise a message that an MTA sends again.
	SyntheticMessageID bool
	// NoTrace leaves the Received field out.
	NoTrace bool
	// DeferUnknown answers unknown recipients with a temporary failure, for the time of a migration.
	DeferUnknown bool
	// SpoolDir holds messages that do not fit in memory; "" means the system's temporary directory.
	SpoolDir string

	Limits  Limits
	Logger  *slog.Logger          // nil discards
	Metrics prometheus.Registerer // nil for none
}

func (c *Config) check() error {
	switch {
	case c.Resolver == nil:
		return errors.New("lmtp: no resolver")
	case c.Backends == nil:
		return errors.New("lmtp: no backends")
	case c.Limits.Line > hazardLine:
		return errors.New("lmtp: message lines longer than 8000 octets would be cut by backends")
	}
	if c.Hostname == "" {
		c.Hostname, _ = os.Hostname()
	}
	if c.SpoolDir == "" {
		c.SpoolDir = os.TempDir()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.Limits.fill()
	return nil
}

// hazardLine is the longest line that is safe.
//
// Cyrus: lmtpd reads lines in pieces of 8189 octets and takes each piece for a line.
const hazardLine = 8000

func (l *Limits) fill() {
	or(&l.Connections, 500)
	or(&l.PerSource, 50)
	or(&l.Recipients, 1000)
	or(&l.BadCommands, 10)
	or(&l.Idle, 300*time.Second)
	or(&l.Data, 180*time.Second)
	or(&l.Write, 300*time.Second)
	or(&l.Handling, 540*time.Second)
	or(&l.Line, hazardLine)
	or(&l.Received, 100)
	or(&l.SpoolMemory, 128<<10)
	or(&l.Memory, 64<<20)
	or(&l.Spool, 2<<30)
	or(&l.SpoolFloor, 64<<20)
	or(&l.BackendConns, 10)
	or(&l.BackendWaiters, 200)
	or(&l.BackendWait, 30*time.Second)
	or(&l.BackendIdle, 30*time.Second)
	or(&l.BackendAge, 10*time.Minute)
	or(&l.BackendUses, 1000)
	or(&l.SignOn, 30*time.Second)
	or(&l.Envelope, 60*time.Second)
	or(&l.Stall, 60*time.Second)
	or(&l.Reply, 300*time.Second)
	or(&l.Straggle, 2*time.Second)
	or(&l.Ahead, time.Second)
	or(&l.AuthPause, 3*time.Second)
}

func or[T comparable](p *T, def T) {
	var zero T
	if *p == zero {
		*p = def
	}
}
