package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"murder/cluster/admin"
	"murder/internal/mbox"
)

// rig is a cluster in this process: real TLS on loopback, real files, ports chosen by the system.
type rig struct {
	t     testing.TB
	nodes map[string]*Node
	cfgs  map[string]Config
	net   *network

	mu    sync.Mutex
	disks map[string]*disk
	ahead map[string]time.Duration // of a node's wall clock
	ends  map[string]chan int      // codes of processes that may end
	// configure changes configurations before nodes start.
	configure func(*Config)
}

func testLogger(t testing.TB) *slog.Logger {
	if os.Getenv("MURDER_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("test", t.Name())
}

func newRig(t testing.TB) *rig {
	r := &rig{t: t, nodes: make(map[string]*Node), cfgs: make(map[string]Config), net: newNetwork(),
		disks: make(map[string]*disk), ahead: make(map[string]time.Duration), ends: make(map[string]chan int)}
	t.Cleanup(r.net.echoes.Wait)
	return r
}

func (r *rig) disk(id string) *disk {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.disks[id] == nil {
		r.disks[id] = new(disk)
	}
	return r.disks[id]
}

// mayEnd says that a node's process may end, until it is opened again. It does not: the test kills it.
func (r *rig) mayEnd(id string) <-chan int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ends[id] = make(chan int, 1)
	return r.ends[id]
}

// ended is called where a process would end.
func (r *rig) ended(id string, code int, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ends[id] == nil {
		r.t.Errorf("node %s would exit with %d: %s", id, code, reason)
		return
	}
	select {
	case r.ends[id] <- code:
	default:
	}
}

func (r *rig) config(id string, role Role) Config {
	return Config{
		NodeID: id, DataDir: r.t.TempDir(), Role: role, Listen: "127.0.0.1:0",
		Timing: "lan-fast", PromoteAfter: time.Millisecond, Logger: testLogger(r.t), BinaryVersion: "test",
	}
}

// open starts a node, or starts it again on the address that it had.
func (r *rig) open(cfg Config) *Node {
	r.t.Helper()
	id := cfg.NodeID
	if r.configure != nil {
		r.configure(&cfg)
	}
	cfg.hooks.noBallast = true
	if cfg.hooks.clockNow == nil {
		cfg.hooks.clockNow = func() time.Time {
			r.mu.Lock()
			defer r.mu.Unlock()
			return time.Now().Add(r.ahead[id])
		}
	}
	if cfg.hooks.wrap == nil {
		cfg.hooks.wrap = func(s logAndStable) logAndStable { return &diskStore{s, r.disk(id)} }
	}
	cfg.hooks.dial = func(ctx context.Context, addr string) (net.Conn, error) { return r.net.dial(ctx, id, addr) }
	cfg.hooks.transport = func(t transport) transport { return &courier{t, r.net, id} }
	cfg.hooks.submit = func(next submitter) submitter { return r.net.proposals(id, next) }
	if cfg.hooks.exit == nil {
		cfg.hooks.exit = func(code int, reason string) { r.ended(id, code, reason) }
	}
	r.mu.Lock()
	delete(r.ends, id)
	r.mu.Unlock()
	n, err := Open(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	cfg.Listen = n.Address()
	r.nodes[id], r.cfgs[id] = n, cfg
	r.net.mu.Lock()
	r.net.addr[n.Address()] = id
	r.net.mu.Unlock()
	r.t.Cleanup(func() { n.kill() })
	return n
}

// kill stops a node without saying goodbye.
func (n *Node) kill() {
	n.mu.Lock()
	stopped := n.stopped
	n.stopped = true
	n.mu.Unlock()
	if !stopped {
		n.halt()
	}
}

func (r *rig) kill(id string) {
	r.nodes[id].kill()
	delete(r.nodes, id)
}

// isolate cuts a node from all others, connections that exist included.
func (r *rig) isolate(id string) {
	r.net.mu.Lock()
	r.net.cut[id] = true
	r.net.mu.Unlock()
	r.sever()
}

// separate cuts one node from others, but not from the rest. With oneWay the others still reach it.
func (r *rig) separate(id string, oneWay bool, others ...string) {
	r.net.mu.Lock()
	for _, o := range others {
		r.net.way[[2]string{id, o}] = true
		if !oneWay {
			r.net.way[[2]string{o, id}] = true
		}
	}
	r.net.mu.Unlock()
	r.sever()
}

// deaf lets a node's messages to others arrive, and their answers be lost.
func (r *rig) deaf(id string, others ...string) {
	r.net.mu.Lock()
	defer r.net.mu.Unlock()
	for _, o := range others {
		r.net.odd[[2]string{id, o}] = mood{unanswered: 1}
	}
}

// forbid lets one node's connections to another be refused.
func (r *rig) forbid(from, to string) {
	r.net.mu.Lock()
	r.net.no[[2]string{from, to}] = true
	r.net.mu.Unlock()
	r.sever()
}

// jump moves a node's wall clock.
func (r *rig) jump(id string, by time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ahead[id] += by
}

// sever breaks all connections; those that are not cut come back.
func (r *rig) sever() {
	for _, n := range r.nodes {
		n.port.sever()
		n.engine.Load().trans.CloseStreams()
		n.links.dropAll()
	}
}

func (r *rig) heal() {
	r.net.heal()
	for id := range r.cfgs {
		r.disk(id).heal()
	}
}

func (s *linkSet) dropAll() {
	s.mu.Lock()
	var names []string
	for name := range s.links {
		names = append(names, name)
	}
	s.mu.Unlock()
	for _, name := range names {
		s.drop(name)
	}
}

// longEnough bounds what never takes so long, on a machine that does much else, too.
const longEnough = time.Minute

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), longEnough)
	t.Cleanup(cancel)
	return ctx
}

// start makes a cluster of c1 (and c2, c3) and learners f1 ... and waits until all have their place.
func startRig(t testing.TB, coordinators, learners int) *rig {
	t.Helper()
	r := newRig(t)
	r.grow(coordinators, learners)
	return r
}

func (r *rig) grow(coordinators, learners int) {
	t := r.t
	t.Helper()
	ctx := testContext(t)
	c1 := r.open(r.config("c1", Coordinator))
	if _, err := c1.Init(ctx, admin.InitRequest{}); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	join := func(id string, role Role) {
		n := r.open(r.config(id, role))
		tok, err := c1.CreateToken(ctx, admin.TokenRequest{Role: string(role)})
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			if err := n.Join(ctx, tok.Token); err != nil {
				t.Errorf("joining %s: %v", id, err)
			}
		})
	}
	for i := 2; i <= coordinators; i++ {
		join(fmt.Sprint("c", i), Coordinator)
	}
	for i := 1; i <= learners; i++ {
		join(fmt.Sprint("f", i), Frontend)
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	r.waitVoters(coordinators)
}

// waitVoters waits until every node knows that so many vote. A voter that has not heard of another's
// promotion yet would refuse it its vote, and a cluster that loses its leader just then has to wait
// for it.
func (r *rig) waitVoters(want int) {
	r.t.Helper()
	r.eventually(fmt.Sprintf("%d voters", want), func() bool {
		for _, n := range r.nodes {
			if len(votersOf(n.engine.Load().raft)) != want {
				return false
			}
		}
		return r.leader() != nil
	})
}

// eventually polls a condition; what waits for an event of ours uses the event instead.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(longEnough); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	eventually(r.t, what, ok)
}

// leader returns a node that leads now, or nil.
func (r *rig) leader() *Node {
	for _, n := range r.nodes {
		if n.reign.Load() != nil && !r.net.alone(n.cfg.NodeID) {
			return n
		}
	}
	return nil
}

// moveLead lets the leader hand over, and waits for the next.
func (r *rig) moveLead() *Node {
	r.t.Helper()
	old := r.waitLeader()
	if err := old.Transfer(testContext(r.t), ""); err != nil {
		r.t.Fatal(err)
	}
	r.eventually("another leader", func() bool { l := r.leader(); return l != nil && l != old })
	return r.leader()
}

func (r *rig) waitLeader() *Node {
	r.t.Helper()
	var l *Node
	r.eventually("a leader", func() bool { l = r.leader(); return l != nil })
	return l
}

func activate(name string) mbox.Write {
	return mbox.Write{Kind: mbox.Activate, Name: mbox.Name(name), Location: "b1!default", ACL: "anyone\tlrs\t",
		By: mbox.Session{ID: "s-" + name, Identity: "cyrus", Servers: []mbox.Server{"b1"}}}
}

func write(t testing.TB, n *Node, ws ...mbox.Write) []mbox.Verdict {
	t.Helper()
	vs, err := n.Write(testContext(t), ws)
	if err != nil {
		t.Fatalf("writing at %s: %v", n.cfg.NodeID, err)
	}
	return vs
}

func mustHave(t testing.TB, n *Node, name string) {
	t.Helper()
	if _, ok := n.View().Get(mbox.Name(name)); !ok {
		t.Fatalf("node %s does not have %s at index %d", n.cfg.NodeID, name, n.View().Index())
	}
}

// equalDigests waits until all nodes have said what their copy is at one index, and asserts that they say
// the same.
func (r *rig) equalDigests() {
	r.t.Helper()
	var n *Node
	for _, n = range r.nodes {
		break
	}
	var report admin.DigestReport
	r.eventually("all copies compared", func() bool {
		var err error
		report, err = n.Digest(testContext(r.t))
		return err == nil && !slices.ContainsFunc(report.Nodes, func(d admin.NodeDigest) bool { return d.Error != "" })
	})
	if !report.Equal {
		r.t.Fatalf("copies differ: %+v", report)
	}
}

// counted is what a counter has counted, or how often a histogram has been told something.
func counted(t testing.TB, c prometheus.Collector) (sum float64) {
	t.Helper()
	reg := prometheus.NewRegistry()
	reg.MustRegister(c)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			sum += m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return sum
}

func isRefusal(err error) bool {
	var f *failure
	return errors.As(err, &f) && f.class == classRefused
}
