package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

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
	draining atomic.Bool
	spaceLow atomic.Bool            // the disk is nearly full
	joins    chan struct{}          // slots
	refusal  atomic.Pointer[string] // why the cluster does not want this node, for its operator
	sought   atomic.Pointer[leaderHint]
	waiting  atomic.Pointer[string] // what a node that bootstraps waits for

	impatient atomic.Int64 // until when sending entries gives up at once, Unix nanoseconds
	unstuck   atomic.Int64 // last transfer because of a stuck voter, Unix nanoseconds
	stoodIn   atomic.Int64 // when this node last stood in for a leader, Unix nanoseconds

	leaderMu      sync.Mutex
	leaderChanged chan struct{} // closed and replaced
	leaderSince   time.Time     // of the last change

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// engine is what exists once the node is a member.
type engine struct {
	identity *identity
	keys     *keys
	raft     *raft.Raft
	trans    *raft.NetworkTransport
	stores   *stores
	observer *raft.Observer
	observed chan raft.Observation
	dead     chan struct{} // closed when raft has stopped
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
	n.joins = make(chan struct{}, maxJoins)
	n.replica = newReplica(n.log, cfg.hooks.exit)
	n.replica.admits = cfg.checkVersion
	n.links = newLinkSet(n.openLink)
	n.proposer = newProposer(cfg.NodeID)
	n.proposer.submit, n.proposer.pause = n.attempt, n.pause
	n.metrics = newMetrics(n)
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
	st, err := openStores(&n.cfg, id.Role == Coordinator)
	if err != nil {
		return err
	}
	n.port.epoch.Store(id.Epoch)
	n.port.keys.Store(k)
	trans := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream:  newRaftStream(n.port, n.nodeAt),
		MaxPool: 3,
		// Overlapped requests have left followers stuck for ever after a short store error, while
		// heartbeats went on (hashicorp/raft issue 612). One at a time costs nothing with batches.
		MaxRPCsInFlight: 1,
		Timeout:         5 * time.Second,
		Logger:          newHCLog(n.log, "transport"),
	})
	// The deadline of a snapshot covers sending it and the receiver's work: 5 s for each 4 MiB.
	trans.TimeoutScale = 4 << 20
	rc := n.cfg.raftConfig()
	if id.Role != Coordinator {
		// A learner's log is in memory only: what it would have to fetch again after a restart is
		// bounded by its last snapshot.
		rc.SnapshotThreshold = min(rc.SnapshotThreshold, 1024)
	}
	r, err := raft.NewRaft(rc, n.replica, st.log, st.stable, st.snapshots, &patientTransport{trans, n})
	if err != nil {
		trans.Close()
		st.close()
		return fmt.Errorf("starting raft: %w", err)
	}
	e := &engine{identity: id, keys: k, raft: r, trans: trans, stores: st, observed: make(chan raft.Observation, 64), dead: make(chan struct{})}
	e.observer = raft.NewObserver(e.observed, false, func(o *raft.Observation) bool {
		_, ok := o.Data.(raft.LeaderObservation)
		return ok
	})
	r.RegisterObserver(e.observer)
	if index, _ := n.replica.applied(); index > 0 {
		n.synced.Store(true) // a snapshot of an earlier run: old, perhaps, but whole
	}
	n.engine.Store(e)
	n.wg.Go(func() { n.watchLeadership(e) })
	n.wg.Go(func() { n.watchLeader(e) })
	n.wg.Go(func() { n.keepUp(e) })
	if id.Role == Coordinator {
		n.wg.Go(func() { n.watchSpace(e) })
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
		if e.identity.Role != Coordinator && n.synced.Load() {
			// So that the next start has something to begin with.
			if err := e.raft.Snapshot().Error(); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
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
		e.raft.DeregisterObserver(e.observer)
		err = e.raft.Shutdown().Error()
		close(e.dead)
		e.trans.CloseStreams()
		e.trans.Close()
	}
	n.port.close()
	n.wg.Wait()
	if e := n.engine.Load(); e != nil {
		err = errors.Join(err, e.stores.close())
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
	_, id := e.raft.LeaderWithID()
	return string(id), id != ""
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
	b := beat{leading: n.reign.Load() != nil}
	b.applied, _ = n.replica.applied()
	if e := n.engine.Load(); e != nil {
		b.term, b.last = e.raft.CurrentTerm(), e.raft.LastIndex()
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
	for _, s := range serversOf(e.raft) {
		if string(s.Address) == addr {
			return string(s.ID)
		}
	}
	return ""
}

func serversOf(r *raft.Raft) []raft.Server {
	f := r.GetConfiguration()
	if f.Error() != nil {
		return nil
	}
	return f.Configuration().Servers
}

func votersOf(r *raft.Raft) []raft.Server {
	var voters []raft.Server
	for _, s := range serversOf(r) {
		if s.Suffrage == raft.Voter {
			voters = append(voters, s)
		}
	}
	return voters
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
	l, epoch, err := openLink(conn, node, n.timing.silence, func() (applied, last uint64) {
		b := n.beat()
		return b.applied, b.last
	})
	n.noteEpoch(epoch, node)
	return l, err
}

// patientTransport is raft's transport, but that sending entries to a node that is down waits for it
// to come back. The library would count each failure and pause for up to ten seconds in between,
// so a node that returns would have to wait for its entries although it hears heartbeats. While the lead is
// handed over it must not wait: the library's transfer waits for it.
type patientTransport struct {
	*raft.NetworkTransport
	node *Node
}

const patience = 100 * time.Millisecond

func (t *patientTransport) AppendEntries(id raft.ServerID, addr raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if len(req.Entries) == 0 && req.PrevLogEntry == 0 && req.LeaderCommitIndex == 0 { // a heartbeat
		return t.NetworkTransport.AppendEntries(id, addr, req, resp)
	}
	t.node.teller.sending(raft.Server{ID: id, Address: addr}, req)
	err := t.appendEntries(id, addr, req, resp)
	t.node.teller.sent(id, req, resp.Success, err)
	return err
}

func (t *patientTransport) appendEntries(id raft.ServerID, addr raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	for {
		err := t.NetworkTransport.AppendEntries(id, addr, req, resp)
		if err == nil || time.Now().UnixNano() < t.node.impatient.Load() || !isDialError(err) || !t.node.stillReplicates(req.Term, id, addr) {
			return err
		}
		select {
		case <-time.After(patience):
		case <-t.node.ctx.Done():
			return err
		}
	}
}

func isDialError(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

func (n *Node) stillReplicates(term uint64, id raft.ServerID, addr raft.ServerAddress) bool {
	e := n.engine.Load()
	if e == nil || e.raft.State() != raft.Leader || e.raft.CurrentTerm() != term {
		return false
	}
	for _, s := range serversOf(e.raft) {
		if s.ID == id && s.Address == addr {
			return true
		}
	}
	return false
}
