package cluster

import (
	"os"
	"regexp"
	"testing"
	"time"

	"murder/fsm"
)

// A learner's log is in memory: what its snapshot holds does not stay there as well, and it goes on afterwards.
func TestLearnerLogIsTrimmed(t *testing.T) {
	t.Parallel()
	r := startRig(t, 1, 1)
	n, f := r.nodes["c1"], r.nodes["f1"]
	for range 2 * learnerTrailing {
		if err := n.propose(testContext(t), fsm.Empty{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.Barrier(testContext(t)); err != nil {
		t.Fatal(err)
	}
	e := f.engine.Load()
	if err := e.feed.keep(); err != nil {
		t.Fatal(err)
	}
	first, _ := e.stores.log.FirstIndex()
	last, _ := e.stores.log.LastIndex()
	if have := last - first + 1; have > learnerTrailing+64 { // some may have come since
		t.Errorf("%d entries are kept, from %d to %d", have, first, last)
	}
	write(t, f, activate("user.a"))
	mustHave(t, f, "user.a")
}

// What every member does goes through the feed, so that there can be another than raft.
func TestOnlyVotersKnowRaft(t *testing.T) {
	t.Parallel()
	beyond := regexp.MustCompile(`\b(e|engine|r\.engine)\.raft\.|serversOf\(|votersOf\(`)
	for _, file := range []string{"node.go", "keepup.go", "write.go", "status.go", "health.go", "gauges.go", "records.go", "restore.go", "repair.go",
		"version.go", "damage.go", "gossip.go", "rpc.go", "calls.go", "epoch.go"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range beyond.FindAll(text, -1) {
			t.Errorf("%s reaches behind the feed: %s", file, at)
		}
	}
}

func TestTune(t *testing.T) {
	t.Parallel()
	r := startRig(t, 1, 1)
	for id, n := range r.nodes {
		before := n.engine.Load().raft.ReloadableConfig()
		if err := n.Tune(Tuning{TrailingLogs: 5000, SnapshotInterval: time.Hour}); err != nil {
			t.Fatal(err)
		}
		got := n.engine.Load().raft.ReloadableConfig()
		if got.TrailingLogs != 5000 || got.SnapshotInterval != time.Hour || got.SnapshotThreshold != before.SnapshotThreshold || got.HeartbeatTimeout != before.HeartbeatTimeout {
			t.Errorf("%s: %+v", id, got)
		}
	}
	if err := r.nodes["c1"].Tune(Tuning{SnapshotInterval: time.Millisecond}); err == nil {
		t.Error("a snapshot every millisecond")
	}
}
