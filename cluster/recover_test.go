package cluster

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"murder/cluster/admin"
	"murder/internal/mbox"
)

// Two of three coordinators are lost for good.
func TestRecover(t *testing.T) {
	t.Parallel()
	r := startRig(t, 3, 1)
	ctx := testContext(t)
	for i := range 10 {
		write(t, r.nodes["f1"], activate(fmt.Sprint("user.u", i)))
	}
	l := r.waitLeader().cfg.NodeID // it has everything
	for _, id := range []string{"c1", "c2", "c3"} {
		r.kill(id)
	}
	cfg := r.cfgs[l]
	s, err := Inspect(cfg)
	if err != nil || s.NodeID != l || s.LastIndex == 0 || s.Term == 0 {
		t.Fatal(s, err)
	}
	if _, err := Recover(cfg); err != nil {
		t.Fatal(err)
	}
	n := r.open(cfg)
	write(t, n, activate("user.after"))
	if n.View().Len() != 11 {
		t.Errorf("%d mailboxes", n.View().Len())
	}
	r.eventually("the lost ones are forgotten", func() bool {
		st := n.Status(ctx)
		return st.Voters == 1 && len(st.Nodes) == 2 && st.Problem == ""
	})
	write(t, r.nodes["f1"], activate("user.f"))
	r.equalDigests()
	// A lost one that comes back with its old data is told what to do.
	for _, id := range []string{"c1", "c2", "c3"} {
		if id == l {
			continue
		}
		back := r.open(r.cfgs[id])
		r.eventually(id+" is told", func() bool { return strings.Contains(back.Status(ctx).Problem, "has been removed") })
		break
	}
}

// The lost ones come back with their old data, all of them: for themselves they are a majority, and elect
// one that wants the recovered one to follow.
func TestRecoveredFollowsNoOldMajority(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ended := make(chan string, 100)
	r.configure = func(c *Config) {
		id := c.NodeID
		c.hooks.exit = func(code int, reason string) { ended <- fmt.Sprint(id, " ", code, " ", reason) }
	}
	r.grow(3, 1)
	write(t, r.nodes["f1"], activate("user.before"))
	l := r.waitLeader().cfg.NodeID
	r.equalDigests()
	all := []string{"c1", "c2", "c3"}
	for _, id := range all {
		r.kill(id)
	}
	if _, err := Recover(r.cfgs[l]); err != nil {
		t.Fatal(err)
	}
	n := r.open(r.cfgs[l])
	write(t, n, activate("user.after"))
	write(t, r.nodes["f1"], activate("user.f"))
	var old []*Node
	for _, id := range all {
		if id != l {
			old = append(old, r.open(r.cfgs[id]))
		}
	}
	end := <-ended
	id, why, _ := strings.Cut(end, " ")
	if id == l || !strings.HasPrefix(why, "76 ") || !strings.Contains(why, "recovered without this coordinator (epoch 1, here 0)") {
		t.Fatal(end)
	}
	r.kill(id) // as the exit would have done
	var other *Node
	for _, o := range old {
		if o.cfg.NodeID != id {
			other = o
		}
	}
	r.eventually("the other is told", func() bool { return strings.Contains(other.Status(testContext(t)).Problem, "no quorum") })
	for i := range 20 {
		write(t, n, activate(fmt.Sprint("user.n", i)))
		write(t, r.nodes["f1"], activate(fmt.Sprint("user.f", i)))
	}
	for _, m := range []*Node{n, r.nodes["f1"]} {
		if _, err := m.Barrier(testContext(t)); err != nil {
			t.Fatal(err)
		}
		mustHave(t, m, "user.after")
		mustHave(t, m, "user.f")
		if leader, _ := m.Leader(); leader != l {
			t.Errorf("%s follows %s", m.cfg.NodeID, leader)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if _, err := other.Write(ctx, []mbox.Write{activate("user.old")}); err == nil {
		t.Error("an old member takes writes")
	}
	for len(ended) > 0 {
		if again := <-ended; !strings.HasPrefix(again, id+" ") { // it may have met the other, too, before it was killed
			t.Error(again)
		}
	}
	// The epoch is remembered over a restart.
	r.kill(l)
	n = r.open(r.cfgs[l])
	write(t, r.nodes["f1"], activate("user.last"))
	if e := n.port.epoch.Load(); e != 1 {
		t.Errorf("epoch %d after a restart", e)
	}
}

func TestRestoreBackup(t *testing.T) {
	t.Parallel()
	r := startRig(t, 1, 0)
	n, ctx := r.nodes["c1"], testContext(t)
	write(t, n, activate("user.kept"), activate("user.deleted"), activate("user.moved"))
	var backup bytes.Buffer
	if err := n.Backup(ctx, &backup); err != nil {
		t.Fatal(err)
	}
	moved := activate("user.moved")
	moved.Location = "b1!other"
	write(t, n, moved, mbox.Write{Kind: mbox.Delete, Name: "user.deleted", By: moved.By}, activate("user.new"))
	dry, err := n.Restore(ctx, bytes.NewReader(backup.Bytes()), false)
	if err != nil || dry.Adds != 1 || dry.Changes != 1 || dry.Deletes != 1 || dry.Applied {
		t.Fatal(dry, err)
	}
	mustHave(t, n, "user.new")
	done, err := n.Restore(ctx, bytes.NewReader(backup.Bytes()), true)
	if err != nil || !done.Applied || done.Skipped != 0 {
		t.Fatal(done, err)
	}
	again, err := n.Restore(ctx, bytes.NewReader(backup.Bytes()), false)
	if err != nil || again.Adds+again.Changes+again.Deletes != 0 {
		t.Errorf("not restored: %+v %v", again, err)
	}
	if e, _ := n.View().Get("user.moved"); e.Location != "b1!default" {
		t.Errorf("location %s", e.Location)
	}
	if _, err := n.Restore(ctx, strings.NewReader("nonsense"), false); err == nil {
		t.Error("nonsense restored")
	}
}

// What changes between the plan and the write is left alone and reported.
func TestRestoreLeavesChangesAlone(t *testing.T) {
	t.Parallel()
	if maxCluster < 2 {
		t.Skip("this version cannot tell")
	}
	r := startRig(t, 1, 0)
	n, ctx := r.nodes["c1"], testContext(t)
	write(t, n, activate("user.back"), activate("user.back2"), activate("user.moved"), activate("user.moved2"))
	old := n.State()
	at := func(name string, where mbox.Location) mbox.Write {
		w := activate(name)
		w.Location = where
		return w
	}
	remove := func(name string) mbox.Write {
		return mbox.Write{Kind: mbox.Delete, Name: mbox.Name(name), By: activate(name).By}
	}
	write(t, n, remove("user.back"), remove("user.back2"), at("user.moved", "b1!x"), at("user.moved2", "b1!x"), activate("user.new"), activate("user.new2"))
	plan := n.State()
	write(t, n, at("user.back", "b1!new"), at("user.moved", "b1!new"), at("user.new", "b1!new")) // meanwhile
	var report admin.RestoreReport
	if err := n.restore(ctx, plan, old, true, &report); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[mbox.Name]mbox.Location{"user.back": "b1!new", "user.back2": "b1!default", "user.moved": "b1!new",
		"user.moved2": "b1!default", "user.new": "b1!new", "user.new2": ""} {
		if e, _ := n.View().Get(name); e.Location != want {
			t.Errorf("%s is at %q, want %q", name, e.Location, want)
		}
	}
	if report.Adds != 1 || report.Changes != 1 || report.Deletes != 1 || report.Skipped != 3 ||
		strings.Join(report.LeftAlone, " ") != "user.back user.moved user.new" {
		t.Errorf("%+v", report)
	}
}

func TestRaftProtocol(t *testing.T) {
	t.Parallel()
	for _, epoch := range []uint64{0, 1, 17} {
		if got, ok := raftEpoch(raftProtocol(epoch)); !ok || got != epoch {
			t.Errorf("epoch %d comes back as %d, %v", epoch, got, ok)
		}
	}
	for _, p := range []string{"", alpnRPC, alpnRaft + "2", alpnRaft + ";epoch=", alpnRaft + ";epoch=x"} {
		if epoch, ok := raftEpoch(p); ok {
			t.Errorf("%q: epoch %d", p, epoch)
		}
	}
}
