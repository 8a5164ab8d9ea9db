package cluster

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
)

func TestGossip(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.configure = func(cfg *Config) { cfg.GossipListen = "127.0.0.1:0" }
	r.grow(1, 2)
	all := func(want string) func() bool {
		return func() bool {
			for _, n := range r.nodes {
				for _, m := range n.Status(testContext(t)).Nodes {
					if _, up := r.nodes[m.ID]; m.Gossip != want && up || !up && m.Gossip == "alive" {
						return false
					}
				}
			}
			return true
		}
	}
	r.eventually("everybody is seen alive", all("alive"))
	info, err := os.Stat(filepath.Join(r.cfgs["f1"].DataDir, gossipKeyFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info, err)
	}
	if err := r.nodes["f2"].Shutdown(testContext(t)); err != nil {
		t.Fatal(err)
	}
	delete(r.nodes, "f2")
	r.eventually("the one that left is seen gone", all("alive"))
}

// deafen gives a node's gossip a key of its own: it neither understands the others nor is understood.
func (g *gossip) deafen(t *testing.T) {
	t.Helper()
	old, own := g.ring.GetPrimaryKey(), newGossipKey()
	if err := errors.Join(g.ring.AddKey(own), g.ring.UseKey(own), g.ring.RemoveKey(old)); err != nil {
		t.Fatal(err)
	}
}

// All gossip is cut. Every node sees the others as gone in the gauge and in a column of the status, and
// that is all: the same node leads in the same term, everybody writes and reads, nodes join, change their
// places and go.
func TestGossipCut(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.configure = func(cfg *Config) {
		cfg.GossipListen, cfg.Timing = "127.0.0.1:0", "wan" // the leader stays, also on a busy machine
		cfg.hooks.gossip = func(c *memberlist.Config) {     // by default it takes half a minute to believe in a death
			c.ProbeInterval, c.ProbeTimeout, c.SuspicionMult = 300*time.Millisecond, 100*time.Millisecond, 2
		}
	}
	r.grow(3, 1)
	ctx := testContext(t)
	seen := func(want int) func() bool {
		return func() bool {
			for _, n := range r.nodes {
				if g := n.gossip.Load(); g == nil || g.alive() != want {
					return false
				}
			}
			return true
		}
	}
	r.eventually("everybody is seen alive", seen(4))
	l := r.waitLeader()
	term := l.engine.Load().raft.CurrentTerm()
	for _, n := range r.nodes {
		n.gossip.Load().deafen(t)
	}
	r.eventually("nobody is seen", seen(1))
	for id, n := range r.nodes {
		write(t, n, activate("user.deaf-"+id))
		if _, err := n.Barrier(ctx); err != nil {
			t.Error(err)
		}
		if s := n.Status(ctx); s.Problem != "" || s.VotersUp != 3 || s.Leader != l.cfg.NodeID {
			t.Errorf("%s: %+v", id, s)
		}
		if h := n.Healthy(ctx); !h.OK {
			t.Errorf("%s: %+v", id, h)
		}
	}
	if now := r.waitLeader(); now != l || now.engine.Load().raft.CurrentTerm() != term {
		t.Errorf("%s leads in term %d, before it was %s in %d", now.cfg.NodeID, now.engine.Load().raft.CurrentTerm(), l.cfg.NodeID, term)
	}
	f2 := r.open(r.config("f2", Frontend))
	if err := f2.Join(ctx, r.token(Frontend)); err != nil {
		t.Fatal(err)
	}
	if err := l.Transfer(ctx, ""); err != nil {
		t.Fatal(err)
	}
	r.kill("f1")
	if err := r.nodes["c1"].Remove(ctx, "f1"); err != nil {
		t.Fatal(err)
	}
	write(t, f2, activate("user.f2"))
	r.equalDigests()
}
