package cluster

import (
	"fmt"
	"testing"
)

func TestWriteFromEveryNode(t *testing.T) {
	t.Parallel()
	r := startRig(t, 3, 1)
	for id, n := range r.nodes {
		name := "user." + id
		write(t, n, activate(name))
		mustHave(t, n, name) // its own write, at once
		for _, other := range r.nodes {
			if _, err := other.Barrier(testContext(t)); err != nil {
				t.Fatal(err)
			}
			mustHave(t, other, name)
		}
	}
	r.equalDigests()
	for _, n := range r.nodes {
		if s := n.Status(testContext(t)); s.Problem != "" || len(s.Nodes) != 4 || s.Voters != 3 || s.Leader == "" {
			t.Errorf("status of %s: %+v", n.cfg.NodeID, s)
		}
	}
}

func TestLeaderKilled(t *testing.T) {
	t.Parallel()
	r := startRig(t, 3, 1)
	f1 := r.nodes["f1"]
	write(t, f1, activate("user.before"))
	old := r.waitLeader().cfg.NodeID
	r.kill(old)
	write(t, f1, activate("user.during")) // waits for the next leader
	mustHave(t, f1, "user.before")
	mustHave(t, f1, "user.during")
	back := r.open(r.cfgs[old])
	if _, err := back.Barrier(testContext(t)); err != nil {
		t.Fatal(err)
	}
	mustHave(t, back, "user.during")
	r.equalDigests()
}

func TestRestartOfAll(t *testing.T) {
	t.Parallel()
	r := startRig(t, 3, 1)
	for i := range 20 {
		write(t, r.nodes["c2"], activate(fmt.Sprint("user.u", i)))
	}
	for id := range r.cfgs {
		r.kill(id)
	}
	for _, cfg := range r.cfgs {
		r.open(cfg)
	}
	for _, n := range r.nodes {
		if _, err := n.Barrier(testContext(t)); err != nil {
			t.Fatal(err)
		}
		if n.View().Len() != 20 {
			t.Errorf("node %s has %d mailboxes", n.cfg.NodeID, n.View().Len())
		}
	}
	write(t, r.nodes["f1"], activate("user.after"))
	r.equalDigests()
}
