package cluster

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"murder/fsm"
	"murder/internal/mbox"
)

// Versions of the cluster that this binary can take part in.
const (
	minCluster = fsm.MinVersion
	maxCluster = fsm.MaxVersion
)

// Node is this process's part in a cluster. All methods may be called from any goroutine.
type Node struct {
	cfg    Config
	timing timing
	log    *slog.Logger

	port     *port
	replica  *replica
	links    *linkSet
	proposer *proposer
	metrics  *metrics
	teller   *teller

	mu      sync.Mutex // becoming a member, and stopping
	stopped bool
	engine  atomic.Pointer[engine] // nil until the node is a member
	ca      atomic.Pointer[authority]
	gossip  atomic.Pointer[gossip]
	reign   atomic.Pointer[reign] // nil unless this node leads and has begun its work

	synced   atomic.Bool
	draining atomic.Bool            // no longer ready, or about to be
	idle     atomic.Bool            // drained: it takes no clients
	spaceLow atomic.Bool            // the disk is nearly full
	standing chan struct{}          // a slot: one changes the two above at a time
	joins    chan struct{}          // slots
	backups  chan struct{}          // slots
	refusal  atomic.Pointer[string] // why the cluster does not want this node, for its operator
	sought   atomic.Pointer[leaderHint]
	waiting  atomic.Pointer[string] // what a node that bootstraps waits for

	impatient moment // until when sending entries gives up at once
	pulse     moment // last round of keepPulse
	judged    moment // when this node last asked whose copy is right
	unstuck   moment // last transfer because of a stuck voter
	stoodIn   moment // when this node last stood in for a leader
	yield     yielding
	acks      acks
	pace      pace

	leaderMu      sync.Mutex
	leaderChanged chan struct{} // closed and replaced
	leaderSince   time.Time     // of the last change

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// engine is what exists once the node is a member.
type engine struct {
	identity  *identity
	keys      *keys
	feed      feed
	*raftFeed // the same, for what only voters do; nil if the copy comes from another feed
}

// guard watches over the log on disk; nil for a node without one.
func (e *engine) guard() *storeGuard {
	if e.raftFeed == nil {
		return nil
	}
	return e.stores.guard
}

type leaderHint struct {
	node, addr string
}

// Open binds the cluster port and, if the data directory holds a membership, takes it up again. A
// node without one waits for Init or Join.
func Open(cfg Config) (*Node, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	id, err := readIdentity(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	if id != nil {
		if err := id.check(&cfg); err != nil {
			return nil, err
		}
		if id.Damaged != "" {
			return nil, cfg.damaged("%s", id.Damaged)
		}
		if v := id.ClusterVersion; v != 0 {
			if err := cfg.checkVersion(v); err != nil {
				return nil, err
			}
		}
	}
	p, err := listen(&cfg)
	if err != nil {
		return nil, err
	}
	cfg.Logger = cfg.Logger.With("node", cfg.NodeID)
	n := &Node{cfg: cfg, timing: timings[cfg.Timing], log: cfg.Logger, port: p, leaderChanged: make(chan struct{}), leaderSince: time.Now()}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.standing, n.joins, n.backups = make(chan struct{}, 1), make(chan struct{}, maxJoins), make(chan struct{}, maxBackups)
	n.replica = newReplica(n.log, cfg.hooks.exit)
	n.replica.admits, n.replica.alter = cfg.checkVersion, cfg.hooks.alter
	n.links = newLinkSet(n.openLink)
	n.proposer = newProposer(cfg.NodeID)
	n.proposer.submit, n.proposer.pause = n.attempt, n.pause
	if cfg.hooks.submit != nil {
		n.proposer.submit = cfg.hooks.submit(n.attempt)
	}
	n.metrics = newMetrics(n)
	n.replica.persisted = func(dur time.Duration) { n.metrics.snapshots.Observe(dur.Seconds()) }
	n.replica.restored = func(dur time.Duration) { n.metrics.restored.Set(dur.Seconds()) }
	n.teller = newTeller(n)
	n.proposer.retry, n.proposer.repeated = n.metrics.retries.Inc, n.metrics.repeats.Inc
	p.admit, p.meet, p.serve = n.admit, n.noteEpoch, n.serve
	if err := cfg.Bootstrap.check(cfg.Role, p.advertise); err != nil {
		p.close()
		return nil, err
	}
	if cfg.Bootstrap.Expect > 0 && cfg.Role.member() == Coordinator {
		if p.boot, err = bootServerConfig(n.now()); err != nil {
			p.close()
			return nil, err
		}
	}
	p.start()
	n.pulse.set(time.Now())
	n.wg.Go(n.keepPulse)
	if id == nil {
		n.wg.Go(n.bootstrapUntilMember)
	}
	if id != nil {
		if err := n.start(id); err != nil {
			n.Shutdown(context.Background())
			return nil, err
		}
	}
	return n, nil
}

// Address is the cluster address that other nodes use.
func (n *Node) Address() string { return n.port.advertise }

// start takes up a membership: the identity and keys are in the data directory.
func (n *Node) start(id *identity) error {
	self := member{id.ClusterID, id.NodeID, id.Role}
	k, err := readKeys(n.cfg.DataDir, self)
	if err != nil {
		return err
	}
	if id.Role == Coordinator {
		ca, err := readAuthority(n.cfg.DataDir)
		if err != nil {
			return err
		}
		n.ca.Store(ca)
		if err := n.cfg.checkLogFile(); err != nil {
			return err
		}
	}
	k.now = n.now
	n.port.epoch.Store(id.Epoch)
	n.port.keys.Store(k)
	f, err := n.openRaft(id.Role)
	if err != nil {
		return err
	}
	if n.replica.recall(id) {
		n.log.Error(errDiverged.Error(), "hint", divergedHint)
	}
	e := &engine{identity: id, keys: k, feed: f, raftFeed: f}
	if index, _ := n.replica.applied(); index > 0 {
		n.synced.Store(true) // a snapshot of an earlier run: old, perhaps, but whole
	}
	n.engine.Store(e)
	n.wg.Go(func() { n.watchLeader(e) })
	n.wg.Go(func() { n.keepUp(e) })
	n.wg.Go(func() { n.watchSpace(e) })
	if id.Role == Coordinator {
		n.wg.Go(func() { n.watchLeadership(e) })
		n.wg.Go(func() { n.watchLeaderLink(e) })
	}
	n.log.Info("member of cluster", "cluster", id.ClusterID, "role", string(id.Role), "address", n.port.advertise)
	return nil
}

// Shutdown hands leadership over if this node leads, waits until another leader is known, and stops.
// It gives up waiting when ctx ends, and stops all the same. The node stays a member.
func (n *Node) Shutdown(ctx context.Context) error {
	n.draining.Store(true)
	n.mu.Lock()
	if n.stopped {
		n.mu.Unlock()
		return nil
	}
	n.stopped = true
	n.mu.Unlock()
	e := n.engine.Load()
	if e != nil {
		if err := n.StandDown(ctx); err != nil {
			n.log.Warn("stopping although nobody else leads", "err", err)
		}
		n.rememberJudgement(e)
		if e.identity.Role != Coordinator && n.synced.Load() {
			// So that the next start has something to begin with.
			if err := e.feed.keep(); err != nil {
				n.log.Warn("last snapshot failed", "err", err)
			}
		}
	}
	return n.halt()
}

// halt stops at once, as far as a process can without ending.
func (n *Node) halt() error {
	n.cancel()
	n.links.close()
	var err error
	if e := n.engine.Load(); e != nil {
		err = e.feed.stop()
	}
	n.port.close()
	n.wg.Wait()
	if e := n.engine.Load(); e != nil {
		err = errors.Join(err, e.feed.close())
	}
	n.metrics.close()
	return err
}

// View returns this node's committed copy. It costs nothing and never blocks.
func (n *Node) View() mbox.View { return n.replica.view.Load() }

// State returns the same copy with everything else that the cluster agrees on.
func (n *Node) State() *fsm.View { return n.replica.view.Load() }

// Changes returns what has changed after an index, in order, and the index that this leads to; the
// slice may be empty. It waits until there is something, and returns ctx's error when ctx ends first.
// mbox.ErrLagged says that so old changes are not kept: take a View and go on from its index.
func (n *Node) Changes(ctx context.Context, after uint64) ([]mbox.Change, uint64, error) {
	return n.replica.since(ctx, after)
}

// Synced reports whether this node has held a complete copy, which may have grown old since.
func (n *Node) Synced() bool { return n.synced.Load() }

// Leader returns the id of the leader as far as this node knows.
func (n *Node) Leader() (string, bool) {
	e := n.engine.Load()
	if e == nil {
		return "", false
	}
	id, _ := e.feed.leader()
	return id, id != ""
}

// lag is how many entries the leader's copy is ahead of this one, by the leader's last sign of life.
func (n *Node) lag() (entries uint64, age time.Duration, ok bool) {
	id, known := n.Leader()
	if !known {
		return 0, 0, false
	}
	l := n.links.peek(id)
	if l == nil {
		return 0, 0, false
	}
	b := l.last.Load()
	if b == nil {
		return 0, 0, false
	}
	own, _ := n.replica.applied()
	if b.applied > own {
		entries = b.applied - own
	}
	return entries, time.Since(b.at), true
}

// beat is what this node tells its peers each second.
func (n *Node) beat() beat {
	b := beat{leading: n.reign.Load() != nil, diverged: n.replica.diverged.Load()}
	b.applied, _ = n.replica.applied()
	if e := n.engine.Load(); e != nil {
		p := e.feed.place()
		b.term, b.last = p.term, p.last
	}
	return b
}

// admit refuses a peer that the registry does not know.
func (n *Node) admit(m member) error {
	v := n.State()
	if !n.synced.Load() {
		return nil
	}
	rec, ok := v.Node(m.Node)
	if !ok {
		return refuse("node %s is not registered in cluster %s, so it has been removed: to bring it back, empty its data directory and join it again", m.Node, m.Cluster)
	}
	if roleOf(rec.Role) != m.Role {
		return refuse("node %s is registered as a %s, but its certificate is for a %s: empty its data directory and join it again", m.Node, rec.Role, m.Role)
	}
	return nil
}

// nodeAt finds the member at a raft address, "" if none is known.
func (n *Node) nodeAt(addr string) string {
	e := n.engine.Load()
	if e == nil {
		return ""
	}
	for _, s := range e.feed.servers() {
		if string(s.Address) == addr {
			return string(s.ID)
		}
	}
	return ""
}

func (n *Node) openLink(ctx context.Context, node, addr string) (*link, error) {
	want := node
	if node == addr { // a hint: any member will do
		want = ""
	}
	conn, err := n.port.dial(ctx, addr, alpnRPC, want)
	if err != nil {
		return nil, err
	}
	l, epoch, err := openLink(conn, node, n.cfg.hooks.wire, n.timing.silence, n.beat)
	n.noteEpoch(epoch, node)
	return l, err
}
