package cluster

import (
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"murder/fsm"
)

// stateOf applies commands, one by one.
func entries(commands ...fsm.Command) []*raft.Log {
	var logs []*raft.Log
	for i, c := range commands {
		logs = append(logs, &raft.Log{Index: uint64(i + 1), Type: raft.LogCommand, Data: fsm.AppendBatch(nil, 0, []fsm.Envelope{{Command: c}})})
	}
	return logs
}

func speaker(id string, most uint32) fsm.Command {
	return fsm.RegisterNode{Node: fsm.Node{ID: id, Role: fsm.RoleCoordinator, MinCluster: 1, MaxCluster: most}}
}

func TestOutlook(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		log      []fsm.Command
		possible uint32
		blockers []string
	}{
		{"all old", []fsm.Command{speaker("a", 1), speaker("b", 1)}, 1, nil},
		{"one old", []fsm.Command{speaker("a", 2), speaker("b", 1), speaker("c", 2)}, 1, []string{"b"}},
		{"one old gone", []fsm.Command{speaker("a", 2), speaker("b", 1), fsm.RemoveNode{ID: "b"}}, 2, nil},
		{"all new", []fsm.Command{speaker("a", 2), speaker("b", 2)}, 2, nil},
		{"all new and raised", []fsm.Command{speaker("a", 2), speaker("b", 2), fsm.SetClusterVersion{Version: 2}}, 2, nil},
		// This binary leads and knows nothing of version 3: another has to raise it.
		{"newer than this binary", []fsm.Command{speaker("a", 3), speaker("b", 3)}, 2, nil},
	} {
		r := newReplica(testLogger(t), nil)
		r.ApplyBatch(entries(tt.log...))
		o := outlookOf(r.view.Load())
		if tt.name == "newer than this binary" {
			o.newest = o.possible
		}
		if o.possible != tt.possible || !slices.Equal(o.blockers(), tt.blockers) {
			t.Errorf("%s: possible %d, blocked by %v", tt.name, o.possible, o.blockers())
		}
	}
}

// exits runs f and returns the code with which it would have ended the process.
func exits(f func(exit func(int, string))) (code int, reason string) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(func(c int, r string) {
			code, reason = c, r
			runtime.Goexit()
		})
	}()
	<-done
	return code, reason
}

// The entry that raises the version beyond this binary ends it, and so does a snapshot of later.
func TestVersionBeyondThisBinary(t *testing.T) {
	t.Parallel()
	cfg := Config{NodeID: "a", BinaryVersion: "1.0"}
	log := entries(speaker("a", 9), fsm.SetClusterVersion{Version: maxCluster + 1})
	code, reason := exits(func(exit func(int, string)) {
		r := newReplica(testLogger(t), exit)
		r.admits = cfg.checkVersion
		r.ApplyBatch(log)
	})
	if code != ExitVersion || !strings.Contains(reason, "install that version or a newer one") {
		t.Errorf("entry: exit %d: %s", code, reason)
	}

	newer := newReplica(testLogger(t), nil)
	newer.ApplyBatch(log)
	snapshot, err := newer.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	store := raft.NewInmemSnapshotStore()
	sink, err := store.Create(raft.SnapshotVersionMax, 2, 1, raft.Configuration{}, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := snapshot.Persist(sink); err != nil {
		t.Fatal(err)
	}
	_, reader, err := store.Open(sink.ID())
	if err != nil {
		t.Fatal(err)
	}
	code, _ = exits(func(exit func(int, string)) {
		r := newReplica(testLogger(t), exit)
		r.admits = cfg.checkVersion
		r.Restore(reader)
	})
	if code != ExitVersion {
		t.Errorf("snapshot: exit %d", code)
	}
}

// A node remembers what the cluster spoke, and refuses to start as a binary that is too old for it.
func TestVersionAtStart(t *testing.T) {
	t.Parallel()
	r := startRig(t, 1, 0)
	n := r.nodes["c1"]
	r.eventually("the version is remembered", func() bool {
		id, err := readIdentity(n.cfg.DataDir)
		return err == nil && id.ClusterVersion == maxCluster
	})
	cfg := r.cfgs["c1"]
	r.kill("c1")
	id, err := readIdentity(cfg.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	id.ClusterVersion = maxCluster + 1
	if err := id.write(cfg.DataDir); err != nil {
		t.Fatal(err)
	}
	var old *VersionError
	if _, err := Open(cfg); !errors.As(err, &old) {
		t.Errorf("started: %v", err)
	}
}

func TestAutoFinalize(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		text  string
		after time.Duration
		ok    bool
	}{{"", 24 * time.Hour, true}, {"now", 0, true}, {"never", -1, true}, {"90m", 90 * time.Minute, true}, {"soon", 0, false}, {"-1h", 0, false}} {
		c := Config{AutoFinalize: tt.text}
		if d, err := c.autoFinalize(); (err == nil) != tt.ok || d != tt.after {
			t.Errorf("%q: %v, %v", tt.text, d, err)
		}
	}

	start := func(t *testing.T, when string, led *atomic.Int64) *rig {
		r := newRig(t)
		r.configure = func(c *Config) {
			c.AutoFinalize, c.hooks.first, c.Timing = when, 1, "wan"
			c.hooks.led = func() time.Duration { return time.Duration(led.Load()) }
		}
		r.grow(3, 1)
		return r
	}
	t.Run("now", func(t *testing.T) {
		r := start(t, "now", new(atomic.Int64))
		r.eventually("the version is raised", func() bool { return r.nodes["f1"].State().ClusterVersion() == maxCluster })
	})
	t.Run("after a day", func(t *testing.T) {
		var led atomic.Int64
		r := start(t, "20h", &led)
		f1 := r.nodes["f1"]
		r.eventually("the beginning is noted", func() bool { return f1.State().Setting(settingRaisable) != "" })
		s := f1.Status(testContext(t))
		if s.VersionPossible != maxCluster || s.VersionRaisedAt.IsZero() || s.Version != 1 {
			t.Errorf("status: %+v", s)
		}
		// The note outlives its author, and a leader whose clock is a day ahead hurries nothing.
		for id := range r.nodes {
			r.jump(id, 24*time.Hour)
		}
		l := r.moveLead()
		for range 2 {
			if err := l.reign.Load().finalizeWhenDue(testContext(t)); err != nil {
				t.Fatal(err)
			}
		}
		if v := l.State(); v.ClusterVersion() != 1 || !strings.HasPrefix(v.Setting(settingRaisable), "2 ") {
			t.Errorf("version %d, note %q", v.ClusterVersion(), v.Setting(settingRaisable))
		}
		led.Store(int64(19 * time.Hour))
		if err := l.reign.Load().finalizeWhenDue(testContext(t)); err != nil {
			t.Fatal(err)
		}
		r.eventually("the time is kept in the log", func() bool { return f1.State().Clock() > uint64((19 * time.Hour).Milliseconds()) })
		led.Store(0) // the next leader begins from there
		if v := r.moveLead().State().ClusterVersion(); v != 1 {
			t.Errorf("version %d after 19 hours", v)
		}
		led.Store(int64(time.Hour))
		r.eventually("the version is raised", func() bool { return f1.State().ClusterVersion() == maxCluster })
		r.eventually("the note is gone", func() bool { return f1.State().Setting(settingRaisable) == "" })
	})
	t.Run("by hand", func(t *testing.T) {
		r := start(t, "never", new(atomic.Int64))
		ctx := testContext(t)
		if err := r.waitLeader().propose(ctx, speaker("lost", 1)); err != nil {
			t.Fatal(err)
		}
		if _, err := r.nodes["c2"].Finalize(ctx); !isRefusal(err) || !strings.Contains(err.Error(), "lost (version , speaks up to 1, does not answer)") {
			t.Errorf("finalized: %v", err)
		}
		r.eventually("the status names it", func() bool {
			s := r.nodes["c2"].Status(ctx)
			return slices.Equal(s.VersionBlockedBy, []string{"lost"}) && strings.Contains(s.Problem, "lost")
		})
		if err := r.nodes["c3"].Remove(ctx, "lost"); err != nil {
			t.Fatal(err)
		}
		a, err := r.nodes["c3"].Finalize(ctx)
		if err != nil || a.From != 1 || a.Version != maxCluster {
			t.Errorf("%+v, %v", a, err)
		}
	})
}
