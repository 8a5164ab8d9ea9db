package cluster

import (
	"bytes"
	"encoding/json"
	"hash/crc64"
	"os"
	"path/filepath"
	"testing"
	"time"

	"murder/fsm"
	"murder/internal/mbox"
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
	first := snapshotOf(t, f1)
	old, err := os.ReadFile(first)
	if err != nil {
		t.Fatal(err)
	}
	write(t, l, activate("user.right"))
	if _, err := f1.Barrier(testContext(t)); err != nil {
		t.Fatal(err)
	}
	last := snapshotOf(t, f1)
	r.kill("f1")
	forge(t, last, old, entryOf("user.wrong"))
	f1 = r.open(r.cfgs["f1"])
	r.eventually("the wrong copy", func() bool { _, ok := f1.View().Get("user.wrong"); return ok })
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
	mustHave(t, f1, "user.right")
	if _, ok := f1.View().Get("user.wrong"); ok {
		t.Error("the wrong copy came back")
	}
	mustHave(t, f1, "user.b")
	r.equalDigests()
}

// snapshotOf takes a snapshot and returns its file.
func snapshotOf(t *testing.T, n *Node) string {
	t.Helper()
	f := n.engine.Load().raft.Snapshot()
	if err := f.Error(); err != nil {
		t.Fatal(err)
	}
	meta, r, err := f.Open()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	return filepath.Join(n.cfg.DataDir, raftDir, "snapshots", meta.ID, "state.bin")
}

// forge makes a snapshot hold an older copy and, for what came since, another entry. Its checksum is good.
func forge(t *testing.T, path string, old, entry []byte) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	now, err := fsm.ReadSnapshot(f)
	if err != nil {
		t.Fatal(err)
	}
	m, err := fsm.ReadSnapshot(bytes.NewReader(old))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Apply(now.Index(), entry); err != nil {
		t.Fatal(err)
	}
	var state bytes.Buffer
	if _, err := m.Snapshot().WriteTo(&state); err != nil {
		t.Fatal(err)
	}
	metaPath := filepath.Join(filepath.Dir(path), "meta.json")
	data, err := os.ReadFile(metaPath)
	if err != nil {
		t.Fatal(err)
	}
	var meta map[string]any
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(&meta); err != nil {
		t.Fatal(err)
	}
	sum := crc64.New(crc64.MakeTable(crc64.ECMA))
	sum.Write(state.Bytes())
	meta["CRC"], meta["Size"] = sum.Sum(nil), state.Len()
	if data, err = json.Marshal(meta); err != nil {
		t.Fatal(err)
	}
	for p, b := range map[string][]byte{path: state.Bytes(), metaPath: data} {
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// The leader's disk hangs: the library goes on with heartbeats, so the leader must end. Others write
// again in less than fifteen seconds.
func TestLeaderDiskHangs(t *testing.T) {
	t.Parallel()
	r := startRig(t, 3, 0)
	l := r.waitLeader()
	write(t, l, activate("user.a"))
	ended := r.mayEnd(l.cfg.NodeID)
	begun := time.Now()
	r.disk(l.cfg.NodeID).hang()
	defer r.disk(l.cfg.NodeID).release()
	go l.Write(testContext(t), []mbox.Write{activate("user.stuck")})
	if code := <-ended; code != ExitStore {
		t.Fatalf("exit %d", code)
	}
	r.isolate(l.cfg.NodeID) // as the end of its process would
	write(t, r.waitLeader(), activate("user.b"))
	if d := time.Since(begun); d > 15*time.Second {
		t.Errorf("no write for %s", d)
	}
}

// Copies can be compared when one of them begins behind the last change of the map.
func TestDigestAfterQuietRestart(t *testing.T) {
	t.Parallel()
	r := startRig(t, 1, 1)
	l, f1 := r.nodes["c1"], r.nodes["f1"]
	write(t, l, activate("user.a"))
	if _, err := l.reign.Load().do(testContext(t), fsm.Empty{}); err != nil {
		t.Fatal(err)
	}
	r.eventually("the learner there", func() bool { return f1.State().Index() >= l.State().Index() })
	if err := f1.engine.Load().raft.Snapshot().Error(); err != nil {
		t.Fatal(err)
	}
	r.kill("f1")
	f1 = r.open(r.cfgs["f1"])
	r.eventually("a complete copy", f1.Synced)
	r.equalDigests()
}
