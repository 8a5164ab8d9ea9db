package cluster

import (
	"context"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"

	"murder/cluster/admin"
	"murder/fsm"
)

func (r *rig) token(role Role) string {
	r.t.Helper()
	tok, err := r.nodes["c1"].CreateToken(testContext(r.t), admin.TokenRequest{Role: string(role)})
	if err != nil {
		r.t.Fatal(err)
	}
	return tok.Token
}

func wantRefusal(t *testing.T, what string, err error, words ...string) {
	t.Helper()
	if err == nil || !isRefusal(err) {
		t.Errorf("%s: got %v, want a refusal", what, err)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%s: %q does not say %q", what, err, w)
		}
	}
}

func changed(t *testing.T, line string, f func(*token)) string {
	t.Helper()
	tok, err := parseToken(line)
	if err != nil {
		t.Fatal(err)
	}
	f(&tok)
	return tok.String()
}

func TestJoinRefusals(t *testing.T) {
	t.Parallel()
	r := startRig(t, 1, 1)
	c1 := r.nodes["c1"]
	ctx := testContext(t)
	good := r.token(Frontend)

	f2 := r.open(r.config("f2", Frontend))
	wantRefusal(t, "half a token", f2.Join(ctx, good[:40]), "copy the whole line")
	wantRefusal(t, "other role", f2.Join(ctx, r.token(Coordinator)), "create a token for that role")
	wantRefusal(t, "wrong secret", f2.Join(ctx, changed(t, good, func(k *token) { k.Secret = "x" })), "secret is wrong")
	wantRefusal(t, "unknown token", f2.Join(ctx, changed(t, good, func(k *token) { k.ID = "x" })), "not known")

	expired, err := c1.CreateToken(ctx, admin.TokenRequest{Role: "frontend", Lifetime: time.Nanosecond})
	if err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, "expired", f2.Join(ctx, expired.Token), "expired at")

	// Another authority behind the address: the token's hash does not match.
	short, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	err = f2.Join(short, changed(t, good, func(k *token) { k.CAHash = strings.Repeat("0", 64) }))
	if err == nil || !strings.Contains(err.Error(), "not of the cluster that made this token") {
		t.Errorf("other authority: %v", err)
	}

	// A role that the token is not for, claimed by a node that lies.
	e := c1.engine.Load()
	req := joinRequest{Cluster: e.identity.ClusterID, Node: "f9", Role: Coordinator, MinCluster: 1, MaxCluster: 1}
	tok, _ := parseToken(good)
	req.Token, req.Secret = tok.ID, tok.Secret
	_, err = c1.reign.Load().takeIn(ctx, req)
	wantRefusal(t, "lying about the role", err, "create one for that role")
	req.Role, req.Cluster = Frontend, "elsewhere"
	_, err = c1.reign.Load().takeIn(ctx, req)
	wantRefusal(t, "other cluster", err, "cluster elsewhere")

	twin := r.config("f1", Frontend)
	wantRefusal(t, "id in use", r.openTwin(twin).Join(ctx, good), "in use by a live node")

	cfg := r.config("f3", Frontend)
	cfg.Advertise = "127.0.0.1:1"
	wantRefusal(t, "not reachable", r.open(cfg).Join(ctx, good), "cannot reach node f3 at 127.0.0.1:1")

	if err := f2.Join(ctx, good); err != nil {
		t.Fatal(err)
	}
	if err := f2.Join(ctx, good); err != nil {
		t.Errorf("joining twice: %v", err)
	}
	f4 := r.open(r.config("f4", Frontend))
	wantRefusal(t, "used up", f4.Join(ctx, good), "used up")
	if err := c1.RevokeToken(ctx, tok.ID); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, "revoked", f4.Join(ctx, good), "revoked")
	_, err = r.nodes["f1"].CreateToken(ctx, admin.TokenRequest{Role: "frontend"})
	wantRefusal(t, "token from a frontend", err, "on a coordinator")
	_, err = f4.Init(ctx, admin.InitRequest{})
	wantRefusal(t, "cluster of a frontend", err, "begins with a coordinator")
}

// openTwin starts a node beside another of the same id.
func (r *rig) openTwin(cfg Config) *Node {
	n, err := Open(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { n.kill() })
	return n
}

func TestUnroutableAddress(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	cfg := r.config("c1", Coordinator)
	cfg.Listen = "0.0.0.0:0"
	if _, err := Open(cfg); err == nil || !strings.Contains(err.Error(), "cannot be dialled by other nodes") {
		t.Errorf("got %v", err)
	}
}

func TestStrangers(t *testing.T) {
	t.Parallel()
	a, b := startRig(t, 1, 1), startRig(t, 1, 0)
	ctx := testContext(t)
	// A node of another cluster.
	_, err := b.nodes["c1"].openLink(ctx, "c1", a.nodes["c1"].Address())
	if err == nil || !strings.Contains(err.Error(), "belongs to cluster") {
		t.Errorf("other cluster: %v", err)
	}
	// A frontend that tries to take part in elections gets no raft connection.
	f1, c1 := a.nodes["f1"], a.nodes["c1"]
	conn, err := f1.port.dial(ctx, c1.Address(), alpnRaft, "c1")
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := conn.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Errorf("raft connection of a frontend: %v", err)
	}
	conn.Close()
	// The node that answers is not the one that was meant.
	if _, err := f1.openLink(ctx, "c2", c1.Address()); err == nil || !strings.Contains(err.Error(), "where node c2 was expected") {
		t.Errorf("wrong node: %v", err)
	}
	// What a frontend may not propose.
	err = f1.propose(ctx, fsm.SetSetting{Key: "x", Value: "y"})
	wantRefusal(t, "setting from a frontend", err, "on a coordinator")
}

// A removed node is told so, on the connection it has and on a new one, and after a restart.
func TestRemoved(t *testing.T) {
	t.Parallel()
	r := startRig(t, 1, 2)
	ctx := testContext(t)
	if err := r.nodes["c1"].Remove(ctx, "f1"); err != nil {
		t.Fatal(err)
	}
	f1 := r.nodes["f1"]
	r.eventually("f1 knows that it was removed", func() bool {
		s := f1.Status(ctx)
		return strings.Contains(s.Problem, "has been removed") && strings.Contains(s.Problem, "join it again")
	})
	r.kill("f1")
	f1 = r.open(r.cfgs["f1"])
	r.eventually("f1 is told again", func() bool { return strings.Contains(f1.Status(ctx).Problem, "has been removed") })
	wantRefusal(t, "unknown member", r.nodes["c1"].Remove(ctx, "f1"), "not a member")
	if s := r.nodes["c1"].Status(ctx); len(s.Nodes) != 2 {
		t.Errorf("%d nodes", len(s.Nodes))
	}
	// Emptied, it can come back.
	r.kill("f1")
	cfg := r.cfgs["f1"]
	cfg.DataDir = t.TempDir()
	if err := r.open(cfg).Join(ctx, r.token(Frontend)); err != nil {
		t.Fatal(err)
	}
}

// A member that has lost its disk joins again under its id, and does not vote at once.
func TestEmptyDisk(t *testing.T) {
	t.Parallel()
	r := startRig(t, 3, 0)
	ctx := testContext(t)
	write(t, r.nodes["c1"], activate("user.a"))
	r.waitLeader()
	r.kill("c3")
	cfg := r.cfgs["c3"]
	cfg.DataDir = t.TempDir()
	c3 := r.open(cfg)
	if err := c3.Join(ctx, r.token(Coordinator)); err != nil {
		t.Fatal(err)
	}
	mustHave(t, c3, "user.a")
	r.waitVoters(3)
	r.equalDigests()
}

// A node that starts on another address tells the cluster, leader or not.
func TestNewAddress(t *testing.T) {
	t.Parallel()
	r := startRig(t, 3, 1)
	ctx := testContext(t)
	for _, id := range []string{"f1", "c2"} {
		r.waitLeader()
		r.kill(id)
		cfg := r.cfgs[id]
		old := cfg.Listen
		cfg.Listen = "127.0.0.1:0"
		n := r.open(cfg)
		if n.Address() == old {
			t.Skip("the system gave out the same port again")
		}
		r.eventually(id+" is known at its new address", func() bool {
			l := r.leader()
			if l == nil {
				return false
			}
			rec, _ := l.State().Node(id)
			return rec.Address == n.Address() && l.nodeAt(n.Address()) == id
		})
		write(t, n, activate("user.new-"+id))
		if _, err := n.Barrier(ctx); err != nil {
			t.Fatal(err)
		}
	}
	r.equalDigests()
}

func TestMembersByHand(t *testing.T) {
	t.Parallel()
	r := startRig(t, 3, 1)
	ctx := testContext(t)
	l := r.waitLeader().cfg.NodeID
	via := r.nodes["c1"]
	wantRefusal(t, "demoting the leader", via.Demote(ctx, l), "cluster transfer")
	wantRefusal(t, "promoting a frontend", via.Promote(ctx, "f1", false), "only coordinators can vote")
	victim := "c3"
	if l == victim {
		victim = "c2"
	}
	if err := via.Demote(ctx, victim); err != nil {
		t.Fatal(err)
	}
	r.waitVoters(2)
	if err := via.Promote(ctx, victim, false); err != nil {
		t.Fatal(err)
	}
	r.waitVoters(3)
	other := ""
	for _, id := range []string{"c1", "c2", "c3"} {
		if id != l && id != victim {
			other = id
		}
	}
	wantRefusal(t, "an address that nobody can dial", via.SetAddress(ctx, victim, "0.0.0.0:7401"), "want a host and a port")
	if err := via.SetAddress(ctx, victim, "127.0.0.1:1"); err != nil {
		t.Fatal(err)
	}
	// It is not there, and says so itself.
	r.eventually("the address is right again", func() bool {
		rec, _ := r.waitLeader().State().Node(victim)
		return rec.Address == r.nodes[victim].Address() && r.waitLeader().nodeAt(rec.Address) == victim
	})
	if err := via.Transfer(ctx, other); err != nil {
		t.Fatal(err)
	}
	r.eventually(other+" leads", func() bool { return r.nodes[other].reign.Load() != nil })
	wantRefusal(t, "from a frontend", r.nodes["f1"].Remove(ctx, victim), "only coordinators")
}

// Stopping the leader hands over first, so that nobody has to wait for an election: when it has stopped, another
// leads already, in the next term, and knows that the old one has gone on purpose.
func TestShutdownHandsOver(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.configure = func(c *Config) { c.Timing = "wan" } // no election by timeout meanwhile
	r.grow(3, 1)
	l := r.waitLeader()
	term := l.engine.Load().raft.CurrentTerm()
	if err := l.Shutdown(testContext(t)); err != nil {
		t.Fatal(err)
	}
	delete(r.nodes, l.cfg.NodeID)
	var next *Node
	for _, n := range r.nodes {
		if e := n.engine.Load().raft; e.State() == raft.Leader && e.CurrentTerm() == term+1 {
			next = n
		}
	}
	if next == nil {
		t.Fatal("nobody leads")
	}
	if n := counted(t, l.metrics.transfers.WithLabelValues("ok").(prometheus.Collector)); n != 1 {
		t.Errorf("%v transfers", n)
	}
	write(t, r.nodes["f1"], activate("user.a"))
	if rec, _ := next.State().Node(l.cfg.NodeID); rec.State != fsm.NodeDraining {
		t.Errorf("%s is registered as %s", l.cfg.NodeID, rec.State)
	}
}

func TestCertificateRenewal(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var later bool
	r.configure = func(cfg *Config) {
		cfg.hooks.clockNow = func() time.Time {
			r.net.mu.Lock()
			defer r.net.mu.Unlock()
			if later {
				return time.Now().Add(61 * 24 * time.Hour)
			}
			return time.Now()
		}
	}
	r.grow(1, 1)
	before := map[string]time.Time{}
	for id, n := range r.nodes {
		before[id] = n.engine.Load().keys.cert.Load().Leaf.NotAfter
	}
	r.net.mu.Lock()
	later = true
	r.net.mu.Unlock()
	r.eventually("new certificates", func() bool {
		for id, n := range r.nodes {
			if !n.engine.Load().keys.cert.Load().Leaf.NotAfter.After(before[id]) {
				return false
			}
		}
		return true
	})
	for id, n := range r.nodes {
		if _, err := readKeys(n.cfg.DataDir, n.engine.Load().keys.self); err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
}

// A frontend that starts without anybody else serves what it had.
func TestLonelyFrontend(t *testing.T) {
	t.Parallel()
	r := startRig(t, 1, 1)
	write(t, r.nodes["f1"], activate("user.a"))
	if err := r.nodes["f1"].Shutdown(testContext(t)); err != nil {
		t.Fatal(err)
	}
	r.kill("c1")
	f1 := r.open(r.cfgs["f1"])
	if !f1.Synced() {
		t.Error("not synchronised")
	}
	mustHave(t, f1, "user.a")
	h := f1.Ready(testContext(t), admin.ReadyQuery{})
	if !h.OK || !slices.ContainsFunc(h.Checks, func(c admin.Check) bool { return strings.Contains(c.Detail, "no leader is known") }) {
		t.Errorf("ready, and flagged as old? %+v", h)
	}
}

func TestSecondProcess(t *testing.T) {
	t.Parallel()
	r := startRig(t, 1, 0)
	cfg := r.cfgs["c1"]
	cfg.Listen = "127.0.0.1:0"
	begun := time.Now()
	if _, err := Open(cfg); err == nil || !strings.Contains(err.Error(), "another process uses") {
		t.Errorf("got %v", err)
	}
	if d := time.Since(begun); d > 2*databaseOpenLimit {
		t.Errorf("took %v", d)
	}
}

// Every role joins with a token of its own, has a complete copy, and writes; only coordinators vote.
func TestJoinInEveryRole(t *testing.T) {
	t.Parallel()
	r := startRig(t, 3, 0)
	ctx := testContext(t)
	for id, role := range map[string]Role{"f1": Frontend, "a1": Agent, "c4": Coordinator} {
		n := r.open(r.config(id, role))
		if err := n.Join(ctx, r.token(role)); err != nil {
			t.Fatalf("%s: %v", role, err)
		}
		write(t, n, activate("user."+id))
		rec, ok := r.waitLeader().State().Node(id)
		if !ok || roleOf(rec.Role) != role || rec.DurableLog != (role == Coordinator) {
			t.Errorf("%s is registered as %+v", id, rec)
		}
		for _, m := range n.Status(ctx).Nodes {
			if m.ID == id && m.Suffrage != "learner" {
				t.Errorf("%s is a %s", id, m.Suffrage)
			}
		}
	}
	wantRefusal(t, "promoting an agent", r.nodes["c1"].Promote(ctx, "a1", false), "only coordinators can vote")
	r.equalDigests()
}

// What an operator changes while a node's own announcement is under way is not undone by it.
func TestDemotedWhileAnnouncing(t *testing.T) {
	t.Parallel()
	r := startRig(t, 3, 0)
	l := r.waitLeader()
	var n *Node
	for _, n = range r.nodes {
		if n != l {
			break
		}
	}
	id := n.cfg.NodeID
	held, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	submit := n.proposer.submit
	n.proposer.submit = func(ctx context.Context, u *unit) ([]fsm.Result, uint64, error) {
		e, _, err := fsm.DecodeEnvelope(u.cmds[0])
		if _, ok := e.Command.(fsm.RegisterNode); ok && err == nil {
			once.Do(func() { close(held); <-release })
		}
		return submit(ctx, u)
	}
	n.draining.Store(true) // something to announce
	<-held
	if err := l.Demote(testContext(t), id); err != nil {
		t.Fatal(err)
	}
	close(release)
	r.eventually("it is announced", func() bool { return r.stateOf(id) == fsm.NodeDraining })
	if rec, _ := l.State().Node(id); rec.Attributes[attrNoVote] == "" {
		t.Error("the demotion was undone")
	}
}
