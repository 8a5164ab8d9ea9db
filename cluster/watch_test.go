package cluster

import (
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"murder/fsm"
)

// A learner whose copy is found to differ throws it away and ends; started again it has the right one.
func TestDivergedLearner(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	exits := make(chan int, 4)
	r.configure = func(cfg *Config) {
		if cfg.NodeID == "f1" {
			cfg.hooks.exit = func(code int, _ string) { exits <- code }
		}
	}
	r.grow(1, 1)
	l, f1 := r.nodes["c1"], r.nodes["f1"]
	write(t, l, activate("user.a"))
	// A change of the configuration leaves an index to which no copy has anything to apply.
	f := l.engine.Load().raft.AddNonvoter("ghost", "127.0.0.1:1", 0, time.Second)
	if err := f.Error(); err != nil {
		t.Fatal(err)
	}
	r.eventually("the learner there", func() bool { return f1.engine.Load().raft.AppliedIndex() >= f.Index() })
	f1.replica.machine.Apply(f.Index(), entryOf("user.wrong"))
	write(t, l, activate("user.b"))
	v := l.State()
	if _, err := l.reign.Load().do(testContext(t), fsm.Checkpoint{Index: v.Index(), Digest: v.Digest()}); err != nil {
		t.Fatal(err)
	}
	select {
	case code := <-exits:
		if code != ExitStore {
			t.Errorf("exit %d", code)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it goes on with a wrong copy")
	}
	r.kill("f1")
	f1 = r.open(r.cfgs["f1"])
	r.eventually("a complete copy", f1.Synced)
	if _, err := f1.Barrier(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if _, ok := f1.View().Get("user.wrong"); ok {
		t.Error("the wrong copy came back")
	}
	mustHave(t, f1, "user.b")
	r.equalDigests()
}

// The leader's disk hangs: the library goes on with heartbeats, so the leader must end. Others write
// again in less than fifteen seconds.
func TestLeaderDiskHangs(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var mu sync.Mutex
	stores := map[string]*hangingStore{}
	exits := make(chan string, 4)
	r.configure = func(cfg *Config) {
		id := cfg.NodeID
		cfg.hooks.wrap = func(s logAndStable) logAndStable {
			mu.Lock()
			defer mu.Unlock()
			stores[id] = &hangingStore{logAndStable: s, release: make(chan struct{})}
			return stores[id]
		}
		cfg.hooks.exit = func(code int, _ string) {
			if code == ExitStore {
				exits <- id
			}
		}
	}
	r.grow(3, 0)
	l := r.waitLeader()
	write(t, l, activate("user.a"))
	mu.Lock()
	s := stores[l.cfg.NodeID]
	mu.Unlock()
	begun := time.Now()
	s.hang()
	if id := <-exits; id != l.cfg.NodeID {
		t.Fatalf("%s ended", id)
	}
	r.isolate(l.cfg.NodeID) // as the end of its process would
	ok := make(chan struct{})
	go func() {
		defer close(ok)
		write(t, r.waitLeader(), activate("user.b"))
	}()
	<-ok
	if d := time.Since(begun); d > 15*time.Second {
		t.Errorf("no write for %s", d)
	}
	close(s.release)
}

// hangingStore answers nothing from hang to release.
type hangingStore struct {
	logAndStable
	mu      sync.Mutex
	hangs   bool
	release chan struct{}
}

func (s *hangingStore) hang() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hangs = true
}

func (s *hangingStore) StoreLogs(l []*raft.Log) error {
	s.mu.Lock()
	hangs := s.hangs
	s.mu.Unlock()
	if hangs {
		<-s.release
	}
	return s.logAndStable.StoreLogs(l)
}
