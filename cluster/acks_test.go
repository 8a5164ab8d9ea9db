package cluster

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// A voter that comes back with an older data directory is refused, and so it is when it is started again; taken in
// anew it is welcome. The end of the log of a voter that is only behind means nothing.
func TestVoterSetBack(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	exits := make(chan string, 8)
	r.configure = func(c *Config) {
		id := c.NodeID
		c.hooks.exit = func(code int, reason string) { exits <- fmt.Sprint(id, " ", code, " ", reason) }
	}
	r.grow(3, 0)
	l := r.waitLeader()
	id := r.followers(l.cfg.NodeID)[0].cfg.NodeID
	write(t, l, activate("user.before"))
	r.kill(id)
	dir, old := r.cfgs[id].DataDir, t.TempDir()
	if err := os.CopyFS(old, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	for i := range 10 { // it misses these, which is no sin
		write(t, l, activate(fmt.Sprint("user.missed", i)))
	}
	n := r.open(r.cfgs[id])
	write(t, l, activate("user.acknowledged"))
	r.eventually("it has followed", func() bool {
		return l.acks.floor(id, 0) >= l.engine.Load().raft.CommitIndex()-1 && n.State().Index() >= l.State().Index()
	})
	if len(exits) > 0 {
		t.Fatalf("ended: %s", <-exits)
	}

	r.kill(id)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(dir, os.DirFS(old)); err != nil {
		t.Fatal(err)
	}
	r.open(r.cfgs[id])
	select {
	case e := <-exits:
		for _, want := range []string{id + " 76 ", "it had acknowledged entry", "murderctl member remove " + id + " --yes", "murderctl cluster join TOKEN"} {
			if !strings.Contains(e, want) {
				t.Errorf("%q is not in: %s", want, e)
			}
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it votes again")
	}
	if s := l.Status(testContext(t)); !strings.Contains(s.Problem, id) || !strings.Contains(s.Problem, "it had acknowledged entry") {
		t.Errorf("problem: %s", s.Problem)
	}
	r.kill(id)
	var damaged *DamagedError
	if again, err := Open(r.cfgs[id]); !errors.As(err, &damaged) {
		if again != nil {
			again.kill()
		}
		t.Fatalf("started again: %v", err)
	}
	if err := l.Remove(testContext(t), id); err != nil {
		t.Fatal(err)
	}
	r.eventually("the problem is gone", func() bool { return l.Status(testContext(t)).Problem == "" })
}

func TestAcks(t *testing.T) {
	t.Parallel()
	var a acks
	a.note("c2", 3, 10, 7)
	for _, tt := range []struct{ term, want uint64 }{{3, 10}, {4, 7}} {
		if got := a.floor("c2", tt.term); got != tt.want {
			t.Errorf("term %d: %d, want %d", tt.term, got, tt.want)
		}
	}
	a.note("c2", 4, 8, 8) // the others had cut its log
	if got := a.floor("c2", 4); got != 8 {
		t.Errorf("in a new term: %d", got)
	}
	a.note("c2", 3, 12, 6) // late
	if got := a.floor("c2", 4); got != 8 {
		t.Errorf("after a late answer: %d", got)
	}
	if !a.flag("c2", "x") || a.flag("c2", "y") || a.flagged("c2") != "x" {
		t.Error("it is told once")
	}
	a.retain([]raft.Server{{ID: "c3"}})
	if a.floor("c2", 4) != 0 || a.flagged("c2") != "" {
		t.Error("who does not vote any more is remembered")
	}
}
