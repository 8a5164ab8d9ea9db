package cluster

import (
	"bytes"
	"fmt"
	"testing"

	"murder/fsm"
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

// What the leader says about a node that has no complete copy yet is not written into the copy: the digest of
// the copy would be wrong from then on.
func TestRecordOfTheLeader(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.configure = func(c *Config) { c.Services = map[string]string{"mupdate": "127.0.0.1:3905"} }
	r.grow(1, 1)
	l, f1 := r.nodes["c1"], r.nodes["f1"]
	r.eventually("the node is registered", func() bool { rec, ok := f1.State().Node("f1"); return ok && rec.State == fsm.NodeActive })
	old := f1.State()
	rec, _ := old.Node("f1")
	rec.Services = map[string]string{"mupdate": "127.0.0.1:3905", "imap": "127.0.0.1:143"} // as if more had come to be known since
	if err := l.propose(testContext(t), fsm.RegisterNode{Node: rec}); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		f1.replica.view.Store(old)
		f1.synced.Store(false)
		if err := f1.announce(testContext(t), f1.engine.Load()); err != nil {
			t.Fatal(err)
		}
		if rec, _ := old.Node("f1"); len(rec.Services) > 1 {
			t.Fatalf("the copy was changed: %v", rec.Services)
		}
	}
	// Afterwards its snapshot is what it says.
	f1.synced.Store(true)
	var saved bytes.Buffer
	if err := f1.Backup(testContext(t), &saved); err != nil {
		t.Fatal(err)
	}
	if _, err := fsm.ReadSnapshot(&saved); err != nil {
		t.Error(err)
	}
}
