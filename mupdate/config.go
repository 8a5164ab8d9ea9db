package mupdate

import (
	"crypto/tls"
	"log/slog"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"murder/internal/auth"
	"murder/internal/mbox"
)

// Role says what an identity may do.
type Role uint8

const (
	// Reader may FIND, LIST, UPDATE and NOOP.
	Reader Role = iota
	// Backend may also write, for the servers it is bound to or, when it is bound to none, for any.
	Backend
	// Admin may write for any server.
	Admin
)

// Identity is what an authenticated name may do.
type Identity struct {
	Role Role
	// Servers are the server names that the identity may speak for. Many sites share one login
	// among all backends; then leave it empty and bind by peer address, or not at all.
	Servers []mbox.Server
	// Takeover may ACTIVATE over another server's record; Permissive lets every write win, as with
	// Cyrus's own master.
	Takeover, Permissive bool
	// Unified says that the servers are backends and frontends at once (Cyrus: mupdate_config: unified),
	// which must not hear of their own mailboxes by UPDATE and wipe nothing whatever FIND says.
	Unified bool
	// Order is the sort order of this client's own mailbox list. MUPDATE tells no client version,
	// so it must be configured: mbox.OrderDB (the default) suits Cyrus 3.6 and later.
	Order mbox.Order
}

// PeerRule describes clients by address. The first rule that matches counts. It applies where the
// identity leaves something open.
type PeerRule struct {
	Prefix  netip.Prefix
	Servers []mbox.Server
	Unified bool
	Order   mbox.Order
}

// ReplayMode says which records a stream repeats after its dump. Cyrus's slave merges a dump in a way
// that can drop good names; repeating the suspect ones repairs that.
type ReplayMode uint8

const (
	ReplaySuspect ReplayMode = iota
	ReplayAll
	ReplayOff
)

// Config is a server's configuration. Zero values mean the defaults named.
type Config struct {
	Directory Directory        // required
	Auth      *auth.Mechanisms // required

	// NodeID begins every session id; it must be unique in the cluster.
	NodeID string
	// ServerName, Implementation and Version stand in the greeting.
	ServerName, Implementation, Version string
	// Upstream is empty on a voter, which greets with "(master)" and never answers a look-up from an
	// unconfirmed copy. On a learner it is the cluster's name: it greets with
	// "mupdate://UPSTREAM" and goes on with its own copy while no leader can be reached.
	Upstream string

	// Identities are the names that may log in. A name that is missing gets DefaultIdentity, an
	// account with the admin flag Admin; without either the login is refused.
	Identities      map[string]Identity
	DefaultIdentity *Identity
	Peers           []PeerRule
	// AllowProxy accepts an authorization identity that differs from the authentication identity.
	// The role is that of the latter in any case.
	AllowProxy bool

	TLS *tls.Config // offers STARTTLS

	ReadOnly          bool   // refuse writes as a Cyrus slave does: "read-only session"
	StrictRFC         bool   // the RFC's replies where Cyrus's differ
	DenyUnknownDelete bool   // NO to DELETE of an absent name
	DenyUnboundDelete bool   // NO to DELETE from a session whose server is not known
	CompleteTransfer  bool   // a sync session may ACTIVATE what another server has in transfer
	NoopStrict        bool   // close a stream whose NOOP finds no leader, instead of degrading
	DefaultDomain     string // stripped from names that carry it
	Replay            ReplayMode
	GuardFile         string // keeps the size of the last dump across restarts; "" forgets it
	// ConflictBrake is how many names of one server, which may be its own former self, a sync session is told
	// of in permissive mode before NO. In any mode more of them raise an alarm. Default 20, negative never.
	ConflictBrake    int
	MaxConnections   int // default 4096
	MaxLoginFailures int // default 3
	ReadAhead        int // commands of one session proposed together; default 256

	LoginTimeout   time.Duration // from connect to login; default 60 s
	IdleTimeout    time.Duration // default 3 h, at least 15 min (RFC 3656 section 2)
	CommandTimeout time.Duration // by when a command is answered or the connection closed; default 10 s
	NoopTimeout    time.Duration // by when a barrier that may degrade does; default 3 s
	WriteTimeout   time.Duration // for a client that does not read; default 60 s
	DumpTimeout    time.Duration // for one whole LIST or UPDATE dump; default 10 min
	Coalesce       time.Duration // most that a change waits in a busy stream; default and most 50 ms

	Logger  *slog.Logger          // nil discards
	Metrics prometheus.Registerer // nil for none
}

func (cfg *Config) setDefaults() {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	text := func(p *string, def string) {
		if *p == "" {
			*p = def
		}
	}
	text(&cfg.NodeID, "node")
	text(&cfg.ServerName, cfg.NodeID)
	text(&cfg.Implementation, "murder")
	text(&cfg.Version, "devel")
	number := func(p *int, def int) {
		if *p == 0 {
			*p = def
		}
	}
	number(&cfg.ConflictBrake, 20)
	number(&cfg.MaxConnections, 4096)
	number(&cfg.MaxLoginFailures, 3)
	number(&cfg.ReadAhead, 256)
	span := func(p *time.Duration, def time.Duration) {
		if *p <= 0 {
			*p = def
		}
	}
	span(&cfg.LoginTimeout, time.Minute)
	span(&cfg.IdleTimeout, 3*time.Hour)
	cfg.IdleTimeout = max(cfg.IdleTimeout, 15*time.Minute)
	span(&cfg.CommandTimeout, 10*time.Second)
	span(&cfg.NoopTimeout, 3*time.Second)
	span(&cfg.WriteTimeout, time.Minute)
	span(&cfg.DumpTimeout, 10*time.Minute)
	span(&cfg.Coalesce, 50*time.Millisecond)
	cfg.Coalesce = min(cfg.Coalesce, 50*time.Millisecond)
}
