package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"murder/cluster/admin"
	"murder/fsm"
	"murder/internal/mbox"
)

// forgery lets the copies of some nodes miss a change that their log holds, as a bad memory would.
type forgery struct {
	r     *rig
	of    atomic.Pointer[string] // node, "" for none
	exits chan string
}

const forgedSetting = "forged-by-a-test"

func startForgery(t *testing.T, coordinators, learners int) *forgery {
	t.Helper()
	f := &forgery{r: newRig(t), exits: make(chan string, 8)}
	f.r.configure = func(c *Config) {
		id := c.NodeID
		c.hooks.checkpoint = 50 * time.Millisecond
		c.hooks.exit = func(code int, reason string) { f.exits <- fmt.Sprint(id, " ", code, " ", reason) }
		c.hooks.alter = func(entry []byte) []byte {
			if of := f.of.Load(); of != nil && *of == id && bytes.Contains(entry, []byte(forgedSetting)) {
				return fsm.AppendBatch(nil, 0, []fsm.Envelope{{Command: fsm.Empty{}}})
			}
			return entry
		}
	}
	f.r.grow(coordinators, learners)
	return f
}

// alter changes a copy.
func (f *forgery) alter(id string) *Node {
	f.r.t.Helper()
	f.of.Store(&id)
	for other, n := range f.r.nodes {
		if other != id && n.cfg.Role == Coordinator {
			if err := n.propose(testContext(f.r.t), fsm.SetSetting{Key: forgedSetting, Value: "x"}); err != nil {
				f.r.t.Fatal(err)
			}
			break
		}
	}
	return f.r.nodes[id]
}

// forge changes a copy, and waits until that is found out.
func (f *forgery) forge(id string) *Node {
	f.r.t.Helper()
	n := f.alter(id)
	f.r.eventually("the wrong copy is found out", n.replica.diverged.Load)
	return n
}

// onlyWrong asserts that a node, and no other, is found wrong and refuses what it should.
func (f *forgery) onlyWrong(wrong *Node) {
	t := f.r.t
	t.Helper()
	ctx, cancel := context.WithTimeout(testContext(t), 5*time.Second)
	defer cancel()
	if _, err := wrong.Barrier(ctx); !errors.Is(err, mbox.ErrUnavailable) || ctx.Err() != nil {
		t.Errorf("barrier of the wrong copy: %v", err)
	}
	if wrong.Ready(testContext(t), admin.ReadyQuery{}).OK {
		t.Error("the wrong copy is ready")
	}
	if _, err := wrong.replica.Snapshot(); err == nil {
		t.Error("the wrong copy is kept")
	}
	for id, n := range f.r.nodes {
		if n == wrong {
			continue
		}
		f.r.eventually("a barrier at "+id, func() bool { _, err := n.Barrier(testContext(t)); return err == nil })
		if n.replica.diverged.Load() || n.State().Setting(forgedSetting) != "x" {
			t.Errorf("the right copy of %s was given up", id)
		}
	}
	select {
	case e := <-f.exits:
		t.Errorf("ended: %s", e)
	default:
	}
}

// A follower whose copy is wrong is found out, confirms nothing and does not come to lead; the others go on.
func TestForgedFollower(t *testing.T) {
	t.Parallel()
	f := startForgery(t, 3, 1)
	r := f.r
	l := r.waitLeader()
	others := r.followers(l.cfg.NodeID)
	wrong, good := others[0].cfg.NodeID, others[1].cfg.NodeID
	n := f.forge(wrong)
	f.onlyWrong(n)
	r.eventually("the leader knows", func() bool { p, _ := l.reign.Load().position(wrong); return p.diverged })
	if err := l.Transfer(testContext(t), wrong); !isRefusal(err) {
		t.Errorf("made leader: %v", err)
	}
	if s := l.Status(testContext(t)); s.Problem == "" {
		t.Error("status sees no problem")
	}
	write(t, l, activate("user.a"))
	// Of the two that are left only one can lead, whoever is elected.
	r.kill(l.cfg.NodeID)
	r.eventually("the right one leads", func() bool { l := r.leader(); return l != nil && l.cfg.NodeID == good })
	write(t, r.nodes["f1"], activate("user.b"))
	f.onlyWrong(n)
}

// A leader whose copy is wrong condemns nobody: it finds that it is the odd one and gives up the lead.
func TestForgedLeader(t *testing.T) {
	t.Parallel()
	f := startForgery(t, 3, 1)
	l := f.forge(f.r.waitLeader().cfg.NodeID)
	f.r.eventually("another leads", func() bool { n := f.r.leader(); return n != nil && n != l })
	write(t, f.r.nodes["f1"], activate("user.a"))
	f.onlyWrong(l)
	// Made a candidate by force, it does not begin.
	e := l.engine.Load()
	f.r.leader().impatient.set(time.Now().Add(time.Second))
	for _, s := range votersOf(e.raft) {
		if string(s.ID) == l.cfg.NodeID {
			f.r.leader().engine.Load().raft.LeadershipTransferToServer(s.ID, s.Address)
		}
	}
	f.r.eventually("another leads again", func() bool { n := f.r.leader(); return n != nil && n != l })
	f.onlyWrong(l)
}

// A statement that is wrong, of a leader that did not ask before, talks nobody out of a right copy.
func TestForgedStatement(t *testing.T) {
	t.Parallel()
	f := startForgery(t, 3, 1)
	r := f.r
	write(t, r.nodes["f1"], activate("user.a"))
	l := r.waitLeader()
	stated, err := l.reign.Load().do(testContext(t), fsm.Checkpoint{Index: l.State().Index(), Digest: fsm.Digest{1}})
	if err != nil {
		t.Fatal(err)
	}
	for id, n := range r.nodes {
		if err := n.replica.wait(testContext(t), stated.Index); err != nil {
			t.Fatal(err)
		}
		r.eventually("a judgement at "+id, func() bool { return n.replica.suspect.Load() == nil })
		if n.replica.diverged.Load() {
			t.Errorf("%s believed it", id)
		}
		if _, err := n.Barrier(testContext(t)); err != nil {
			t.Error(err)
		}
	}
	if len(f.exits) > 0 {
		t.Errorf("ended: %s", <-f.exits)
	}
}

// Of two voters neither can be found wrong: the one that disagrees with the leader confirms nothing, and says so.
func TestForgedOneOfTwo(t *testing.T) {
	t.Parallel()
	f := startForgery(t, 3, 1)
	r := f.r
	l := r.waitLeader()
	others := r.followers(l.cfg.NodeID)
	wrong := others[0].cfg.NodeID
	r.kill(others[1].cfg.NodeID)
	n := f.alter(wrong)
	r.eventually("doubt", func() bool { return n.replica.suspect.Load() != nil })
	ctx, cancel := context.WithTimeout(testContext(t), 5*time.Second)
	defer cancel()
	if _, err := n.Barrier(ctx); !errors.Is(err, mbox.ErrUnavailable) {
		t.Errorf("barrier of a doubted copy: %v", err)
	}
	n.judge(testContext(t), n.engine.Load())
	if n.replica.diverged.Load() || l.replica.diverged.Load() {
		t.Error("one of them was found wrong")
	}
	if _, err := l.Barrier(testContext(t)); err != nil {
		t.Error(err)
	}
	if len(f.exits) > 0 {
		t.Errorf("ended: %s", <-f.exits)
	}
}

// A voter that was found wrong is no better after a restart, though what it applies is right again: it confirms
// nothing, and says so, until it has been taken in anew.
func TestJudgementOutlivesRestart(t *testing.T) {
	t.Parallel()
	f := startForgery(t, 3, 1)
	r := f.r
	l := r.waitLeader()
	id := r.followers(l.cfg.NodeID)[0].cfg.NodeID
	f.forge(id)
	r.eventually("it is written down", func() bool {
		kept, err := readIdentity(r.cfgs[id].DataDir)
		return err == nil && kept.Diverged
	})
	r.kill(id)
	f.of.Store(nil)
	write(t, l, activate("user.a"))
	n := r.open(r.cfgs[id])
	r.eventually("it follows", func() bool { return n.State().Index() >= l.State().Index() })
	f.onlyWrong(n)
	r.eventually("the operator is told", func() bool {
		p := l.Status(testContext(t)).Problem
		return strings.Contains(p, id) && strings.Contains(p, "murderctl member remove")
	})
	r.waitVoters(3)

	r.kill(id)
	if err := l.Remove(testContext(t), id); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(r.cfgs[id].DataDir); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(r.cfgs[id].DataDir, 0o700); err != nil {
		t.Fatal(err)
	}
	n = r.open(r.cfgs[id])
	if err := n.Join(testContext(t), r.token(Coordinator)); err != nil {
		t.Fatal(err)
	}
	r.waitVoters(3)
	r.eventually("it is ready", func() bool { return n.Ready(testContext(t), admin.ReadyQuery{}).OK })
	if p := l.Status(testContext(t)).Problem; p != "" {
		t.Errorf("problem: %s", p)
	}
	r.equalDigests()
}

// The leader's snapshot has taken the place of a copy that was found wrong, and the node dies before it has
// written down that this is over: what it begins with is right, and is not judged again.
func TestJudgementIsOfOneCopy(t *testing.T) {
	t.Parallel()
	f := startForgery(t, 3, 0)
	r := f.r
	l := r.waitLeader()
	id := r.followers(l.cfg.NodeID)[0].cfg.NodeID
	dir := r.cfgs[id].DataDir
	f.forge(id)
	r.eventually("it is written down", func() bool {
		kept, err := readIdentity(dir)
		return err == nil && kept.Diverged && kept.DivergedAt > 0
	})
	r.kill(id)
	f.of.Store(nil)
	marked, err := readIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}

	// So much is written that the leader no longer has the entries that it lacks.
	l = r.waitLeader()
	for i := range 8 {
		write(t, l, activate(fmt.Sprint("user.", i)))
	}
	for _, n := range r.nodes {
		if err := n.Tune(Tuning{TrailingLogs: 1}); err != nil {
			t.Fatal(err)
		}
		if err := n.engine.Load().raft.Snapshot().Error(); err != nil {
			t.Fatal(err)
		}
	}
	n := r.open(r.cfgs[id])
	r.eventually("it has the leader's copy", func() bool {
		return n.State().Index() > marked.DivergedAt && n.replica.doubted() == nil
	})
	r.kill(id)
	if s, err := Inspect(r.cfgs[id]); err != nil || s.SnapshotIndex <= marked.DivergedAt {
		t.Fatalf("it kept no snapshot of the leader's: %+v %v", s, err)
	}
	if err := marked.write(dir); err != nil {
		t.Fatal(err)
	}
	if s, err := Inspect(r.cfgs[id]); err != nil || s.Diverged {
		t.Errorf("inspected: %+v %v", s, err)
	}
	n = r.open(r.cfgs[id])
	if err := n.replica.doubted(); err != nil {
		t.Error(err)
	}
	r.eventually("that is written down", func() bool {
		kept, err := readIdentity(dir)
		return err == nil && !kept.Diverged && kept.DivergedAt == 0
	})
	r.eventually("it is ready", func() bool { return n.Ready(testContext(t), admin.ReadyQuery{}).OK })
	r.equalDigests()
}

// A mark without an index, and one of a copy that went further than the snapshot, judge the copy.
func TestJudged(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		id       identity
		snapshot uint64
		want     bool
	}{
		{identity{}, 5, false},
		{identity{Diverged: true}, 5, true},
		{identity{Diverged: true, DivergedAt: 5}, 0, true},
		{identity{Diverged: true, DivergedAt: 5}, 5, true},
		{identity{Diverged: true, DivergedAt: 5}, 6, false},
	} {
		if got := c.id.judged(c.snapshot); got != c.want {
			t.Errorf("%+v, beginning with %d: %v", c.id, c.snapshot, got)
		}
	}
}

// Of survivors that are as far, one whose copy was found wrong is not the one to go on with; if it is the only one,
// its copy is the cluster's.
func TestRecoverWithWrongCopy(t *testing.T) {
	t.Parallel()
	good, wrong := Survivor{Term: 3, LastIndex: 10}, Survivor{Term: 3, LastIndex: 10, Diverged: true}
	if !good.Further(wrong) || wrong.Further(good) {
		t.Error("the wrong copy is as good")
	}
	if wrong.LastIndex++; !wrong.Further(good) {
		t.Error("entries are given up for a copy that they make again")
	}
	r, cfg := stoppedCoordinator(t, false)
	id, err := readIdentity(cfg.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	id.Diverged = true
	if err := id.write(cfg.DataDir); err != nil {
		t.Fatal(err)
	}
	if s, err := Recover(cfg); err != nil || !s.Diverged {
		t.Fatal(s, err)
	}
	write(t, r.open(cfg), activate("user.recovered"))
}
