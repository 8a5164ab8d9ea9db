package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"regexp"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"

	"murder/cluster/admin"
)

// Role says what a node is for.
type Role string

// Roles. Both is a coordinator that also runs the mail frontends: in the cluster it is a coordinator.
const (
	Coordinator Role = "coordinator"
	Frontend    Role = "frontend"
	Both        Role = "both"
	Agent       Role = "agent"
)

// member is the role that certificate, token and registry carry.
func (r Role) member() Role {
	if r == Both {
		return Coordinator
	}
	return r
}

// Config is what Open needs. Only NodeID, DataDir, Role and Listen are required.
type Config struct {
	NodeID  string // unique in the cluster for ever: letters, digits, ".", "-", "_", at most 63
	DataDir string
	Role    Role
	// Listen is the address of the cluster port. Advertise is how other nodes reach it: a host name or
	// address that they can route to; empty means the address that Listen is bound to.
	Listen    string
	Advertise string
	// GossipListen is the address of the gossip port, UDP and TCP; empty for no gossip. Others reach it
	// by the host of the cluster address.
	GossipListen string
	// Services are the addresses of this node's other services, by name, for other nodes to use.
	Services map[string]string
	// Timing is "lan" (default), "lan-fast" or "wan": how soon a silent leader is replaced.
	Timing string
	// Voters is how many coordinators shall vote: 1, 3 (default) or 5.
	Voters int
	// PromoteAfter is how long a new coordinator must keep up before it votes; default 10 s.
	PromoteAfter  time.Duration
	BinaryVersion string
	// AutoFinalize is when the cluster version is raised after the last node has been upgraded: a duration
	// (default "24h"), "now" or "never". The leader's counts.
	AutoFinalize string
	// CleanupDeadServers removes nodes that have been silent for long, under conditions (dead.go).
	CleanupDeadServers bool
	// Bootstrap lets a node that is no member yet find or make its cluster by itself.
	Bootstrap Bootstrap
	Logger    *slog.Logger
	Metrics   prometheus.Registerer // nil: no metrics

	// Snapshots of the copy: taken every SnapshotInterval (default 60 s) if SnapshotThreshold entries
	// (default 8192) have been added; TrailingLogs entries (default 32768) stay in the log.
	SnapshotInterval  time.Duration
	SnapshotThreshold uint64
	TrailingLogs      uint64

	// Findings are what this process has to say to an operator beyond the cluster; part of Status. It
	// must not block.
	Findings func() []admin.Finding
	// Serving says whether this process takes clients, or still has some that finish what they are doing; part of
	// Status.
	Serving func() bool
	// Answers are requests of coordinators to this process that Node.AskAll sends.
	Answers map[string]Answerer

	finalizeAfter time.Duration // AutoFinalize; negative for never
	hooks         hooks
}

// hooks are for tests of this package.
type hooks struct {
	exit func(code int, reason string)
	dial func(ctx context.Context, addr string) (net.Conn, error) // instead of a plain TCP connection
	wrap func(logAndStable) logAndStable
	// transport and submit are put between raft, and the proposer, and what carries their messages.
	transport func(transport) transport
	submit    func(submitter) submitter
	tick      time.Duration // lease ticks
	space     func(dir string) space

	gossip func(*memberlist.Config)

	spaceInterval time.Duration
	noBallast     bool

	deadCoordinator, deadLearner time.Duration
	first                        uint32 // cluster version of a new cluster
	clockNow                     func() time.Time
	tryWrite                     func(context.Context, *raft.Raft) error
	begin                        func() error // of a reign
	wire                         int          // version of the frames
	checkpoint                   time.Duration
	led                          func() time.Duration // how much longer than it has a leader has led
	alter                        func([]byte) []byte  // what the copy applies
}

// Exit codes of a process that must not go on.
const (
	ExitStore   = 74 // the log store failed or hangs: another coordinator shall lead
	ExitCorrupt = 76 // the log or a copy is damaged: empty the data directory and join again
	ExitVersion = 78 // the log holds something that this binary does not know: install a newer one
)

type timing struct {
	heartbeat, lease, commit time.Duration
	silence                  time.Duration // a link without any sign of life is given up
}

var timings = map[string]timing{
	"lan":      {500 * time.Millisecond, 250 * time.Millisecond, 200 * time.Millisecond, 3 * time.Second},
	"lan-fast": {300 * time.Millisecond, 150 * time.Millisecond, 200 * time.Millisecond, 3 * time.Second},
	"wan":      {2 * time.Second, time.Second, 500 * time.Millisecond, 6 * time.Second},
}

var nodeIDPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// complete checks a configuration and fills in the defaults.
func (c *Config) complete() error {
	switch {
	case !nodeIDPattern.MatchString(c.NodeID):
		return fmt.Errorf("node id %q: use 1 to 63 letters, digits, dots, hyphens and underscores, a letter or digit first", c.NodeID)
	case c.DataDir == "":
		return errors.New("data directory is not set")
	case c.Listen == "":
		return errors.New("address of the cluster port is not set")
	}
	switch c.Role {
	case Coordinator, Frontend, Both, Agent:
	default:
		return fmt.Errorf("role %q: want coordinator, frontend, both or agent", c.Role)
	}
	if c.Timing == "" {
		c.Timing = "lan"
	}
	if _, ok := timings[c.Timing]; !ok {
		return fmt.Errorf("timing %q: want lan, lan-fast or wan", c.Timing)
	}
	switch c.Voters {
	case 0:
		c.Voters = 3
	case 1, 3, 5:
	default:
		return fmt.Errorf("voters %d: want 1, 3 or 5", c.Voters)
	}
	var err error
	if c.finalizeAfter, err = c.autoFinalize(); err != nil {
		return err
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	setDefault(&c.PromoteAfter, 10*time.Second)
	setDefault(&c.SnapshotInterval, 60*time.Second)
	setDefault(&c.SnapshotThreshold, 8192)
	setDefault(&c.TrailingLogs, 32768)
	setDefault(&c.hooks.tick, 5*time.Second)
	setDefault(&c.hooks.wire, wireVersion)
	setDefault(&c.hooks.checkpoint, checkpointInterval)
	setDefault(&c.hooks.spaceInterval, spaceInterval)
	setDefault(&c.hooks.first, maxCluster)
	setDefault(&c.hooks.deadCoordinator, deadCoordinator)
	setDefault(&c.hooks.deadLearner, deadLearner)
	if c.hooks.tryWrite == nil {
		c.hooks.tryWrite = tryWrite
	}
	if c.hooks.exit == nil {
		c.hooks.exit = func(code int, _ string) { os.Exit(code) }
	}
	return nil
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// advertised returns the address that other nodes shall dial, given what the port is bound to.
func (c *Config) advertised(bound net.Addr) (string, error) {
	addr := c.Advertise
	if addr == "" {
		addr = bound.String()
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", fmt.Errorf("advertised cluster address %q: %w", addr, err)
	}
	if ip := net.ParseIP(host); host == "" || (ip != nil && ip.IsUnspecified()) {
		return "", fmt.Errorf("advertised cluster address %q cannot be dialled by other nodes: set it to a host name or address of this machine", addr)
	}
	if port == "0" {
		_, port, _ = net.SplitHostPort(bound.String())
	}
	return net.JoinHostPort(host, port), nil
}

// raftConfig translates a configuration into the library's.
func (c *Config) raftConfig() *raft.Config {
	t := timings[c.Timing]
	rc := raft.DefaultConfig()
	rc.LocalID = raft.ServerID(c.NodeID)
	rc.HeartbeatTimeout, rc.ElectionTimeout = t.heartbeat, t.heartbeat
	// The lease bounds how long an old and a new leader can both think that they lead.
	rc.LeaderLeaseTimeout = t.lease
	// Whoever waits to hear of a commit is told by the teller.
	rc.CommitTimeout = t.commit
	rc.BatchApplyCh = true
	rc.SnapshotInterval = c.SnapshotInterval
	rc.SnapshotThreshold = c.SnapshotThreshold
	rc.TrailingLogs = c.TrailingLogs
	// A removed node stays up to say so.
	rc.ShutdownOnRemove = false
	rc.NoLegacyTelemetry = true
	rc.Logger = newHCLog(c.Logger, "raft")
	return rc
}
