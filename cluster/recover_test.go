package cluster

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

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
