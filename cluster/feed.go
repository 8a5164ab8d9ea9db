package cluster

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// feed brings what is committed to this node's copy, and knows where it comes from. What every member does
// needs no more than this; only what a voter does besides (reign.go and what it calls) knows raft itself.
//
// There is one feed, raft's own: the leader sends to a learner as to a voter. That is the simplest, and
// BenchmarkLearners says up to how many learners a leader can afford it. For more, a stream from any
// coordinator, or from another learner, would be a second.
type feed interface {
	// leader is who leads as far as this feed knows; both are empty while it knows nobody.
	leader() (id, addr string)
	// changes says who leads whenever that changes, "" for nobody. It must be read always.
	changes() <-chan string
	// place is where this node stands.
	place() place
	// servers are the nodes that take part.
	servers() []raft.Server
	// keep writes the copy to the disk if it has changed, for the next start.
	keep() error
	// kept opens a copy on disk that holds at least what was committed before the call.
	kept() (io.ReadCloser, error)
	// stop ends the feed: nothing is applied any more. close, after everybody who uses it has ended, gives
	// back what it holds open. Both may be repeated.
	stop() error
	close() error
}

// place is where a node stands in the log.
type place struct {
	state              string // leader, follower, candidate, shutdown
	term, last, commit uint64
}

// raftFeed is a node's part in raft, as a voter or as a learner.
type raftFeed struct {
	raft     *raft.Raft
	trans    *raft.NetworkTransport
	carrier  transport // the same, unless tests put something before it
	stores   *stores
	observer *raft.Observer
	observed chan raft.Observation
	leaders  chan string
	done     chan struct{} // closed when raft has stopped
	ending   sync.Once
}

// learnerThreshold is after how many entries a learner takes a snapshot: its log is in memory only (recentlog.go), and
// what it has to fetch again after a restart is what came since.
const learnerThreshold = 1024

// openRaft takes up a node's part in raft.
func (n *Node) openRaft(role Role) (*raftFeed, error) {
	st, err := openStores(&n.cfg, role == Coordinator, func() uint64 { index, _ := n.replica.applied(); return index })
	if err != nil {
		return nil, err
	}
	if st.guard != nil {
		st.guard.observe = n.metrics.store
	}
	trans := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream:  newRaftStream(n.port, n.nodeAt),
		MaxPool: maxPool,
		// Overlapped requests have left followers stuck for ever after a short store error, while
		// heartbeats went on (hashicorp/raft issue 612). One at a time costs nothing with batches.
		MaxRPCsInFlight: 1,
		Timeout:         5 * time.Second,
		Logger:          newHCLog(n.log, "transport"),
	})
	// The deadline of a snapshot covers sending it and the receiver's work: 5 s for each 4 MiB.
	trans.TimeoutScale = 4 << 20
	rc := n.cfg.raftConfig()
	if role != Coordinator {
		rc.SnapshotThreshold = min(rc.SnapshotThreshold, learnerThreshold)
	}
	var carrier transport = trans
	if n.cfg.hooks.transport != nil {
		carrier = n.cfg.hooks.transport(trans)
	}
	r, err := raft.NewRaft(rc, n.replica, st.log, st.stable, st.snapshots, &patientTransport{carrier, n})
	if err != nil {
		trans.Close()
		st.close()
		return nil, fmt.Errorf("starting raft: %w", err)
	}
	f := &raftFeed{raft: r, trans: trans, carrier: carrier, stores: st, observed: make(chan raft.Observation, 64), leaders: make(chan string), done: make(chan struct{})}
	f.observer = raft.NewObserver(f.observed, false, func(o *raft.Observation) bool {
		_, ok := o.Data.(raft.LeaderObservation)
		return ok
	})
	r.RegisterObserver(f.observer)
	n.wg.Go(f.observe)
	return f, nil
}

// Tuning is what may change while a node runs; zero leaves a value as it is.
type Tuning struct {
	SnapshotInterval  time.Duration
	SnapshotThreshold uint64
	TrailingLogs      uint64
}

// Tune changes when snapshots are taken and how much of the log is kept behind them. A node that is no member yet
// goes on with what it was opened with.
func (n *Node) Tune(t Tuning) error {
	e := n.engine.Load()
	if e == nil || e.raftFeed == nil {
		return nil
	}
	rc := e.raft.ReloadableConfig()
	for _, v := range []struct{ to, from *uint64 }{{&rc.SnapshotThreshold, &t.SnapshotThreshold}, {&rc.TrailingLogs, &t.TrailingLogs}} {
		if *v.from != 0 {
			*v.to = *v.from
		}
	}
	if t.SnapshotInterval != 0 {
		rc.SnapshotInterval = t.SnapshotInterval
	}
	if e.identity.Role != Coordinator {
		rc.SnapshotThreshold = min(rc.SnapshotThreshold, learnerThreshold)
	}
	if err := e.raft.ReloadConfig(rc); err != nil {
		return fmt.Errorf("changing when snapshots are taken: %w", err)
	}
	return nil
}

// trailing is how many entries are kept behind a snapshot.
func (f *raftFeed) trailing() uint64 { return f.raft.ReloadableConfig().TrailingLogs }

func (f *raftFeed) observe() {
	for {
		select {
		case o := <-f.observed:
			select {
			case f.leaders <- string(o.Data.(raft.LeaderObservation).LeaderID):
			case <-f.done:
				return
			}
		case <-f.done:
			return
		}
	}
}

func (f *raftFeed) leader() (id, addr string) {
	at, who := f.raft.LeaderWithID()
	return string(who), string(at)
}

func (f *raftFeed) changes() <-chan string { return f.leaders }

func (f *raftFeed) place() place {
	return place{state: strings.ToLower(f.raft.State().String()), term: f.raft.CurrentTerm(), last: f.raft.LastIndex(), commit: f.raft.CommitIndex()}
}

func (f *raftFeed) servers() []raft.Server { return serversOf(f.raft) }

func (f *raftFeed) keep() error {
	if err := f.raft.Snapshot().Error(); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return err
	}
	return nil
}

func (f *raftFeed) kept() (io.ReadCloser, error) {
	if err := f.keep(); err != nil {
		return nil, err
	}
	list, err := f.stores.files.List()
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, errors.New("there is nothing to save yet")
	}
	_, r, err := f.stores.files.Open(list[0].ID)
	return r, err
}

func (f *raftFeed) stop() error {
	err := f.raft.Shutdown().Error()
	f.ending.Do(func() {
		f.raft.DeregisterObserver(f.observer)
		close(f.done)
		f.trans.CloseStreams()
		f.trans.Close()
	})
	return err
}

func (f *raftFeed) close() error { return f.stores.close() }

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

// patientTransport is raft's transport, with two differences. What the library says once and does not repeat is
// sent again over a new connection if an old one turns out to be dead. And sending entries to a node that is
// down waits for it to come back. The library would count each failure and pause for up to ten seconds in between,
// so a node that returns would have to wait for its entries although it hears heartbeats. While the lead is
// handed over it must not wait: the library's transfer waits for it.
type patientTransport struct {
	transport
	node *Node
}

// transport is what raft.NetworkTransport does for raft.
type transport interface {
	raft.Transport
	raft.WithPreVote
	raft.WithClose
}

const patience = 100 * time.Millisecond

func (t *patientTransport) AppendEntries(id raft.ServerID, addr raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if len(req.Entries) == 0 && req.PrevLogEntry == 0 && req.LeaderCommitIndex == 0 { // a heartbeat
		return t.transport.AppendEntries(id, addr, req, resp)
	}
	t.node.teller.sending(raft.Server{ID: id, Address: addr}, req)
	floor := t.node.acks.floor(string(id), req.Term)
	err := t.appendEntries(id, addr, req, resp)
	if err == nil {
		t.node.answered(raft.Server{ID: id, Address: addr}, floor, req, resp)
	}
	t.node.teller.sent(id, req, resp.Success, err)
	return err
}

func (t *patientTransport) appendEntries(id raft.ServerID, addr raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	for {
		err := t.transport.AppendEntries(id, addr, req, resp)
		if err == nil || time.Now().Before(t.node.impatient.get()) || !isDialError(err) || !t.node.stillReplicates(req.Term, id, addr) {
			return err
		}
		select {
		case <-time.After(patience):
		case <-t.node.ctx.Done():
			return err
		}
	}
}

// maxPool is how many idle connections to a node the library keeps.
const maxPool = 3

// anew repeats a request that failed on a connection from the pool. Such a connection may have been dead for
// long, because the other process has ended since it was used, and a vote or a transfer that is lost with it
// costs an election timeout. All of these requests may be sent twice.
func anew(request func() error) (err error) {
	for range maxPool + 1 {
		if err = request(); err == nil || isDialError(err) {
			return err
		}
	}
	return err
}

func (t *patientTransport) RequestVote(id raft.ServerID, addr raft.ServerAddress, req *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	return anew(func() error { return t.transport.RequestVote(id, addr, req, resp) })
}

func (t *patientTransport) RequestPreVote(id raft.ServerID, addr raft.ServerAddress, req *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	return anew(func() error { return t.transport.RequestPreVote(id, addr, req, resp) })
}

func (t *patientTransport) TimeoutNow(id raft.ServerID, addr raft.ServerAddress, req *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	return anew(func() error { return t.transport.TimeoutNow(id, addr, req, resp) })
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
