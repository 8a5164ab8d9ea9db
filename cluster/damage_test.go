package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"

	"murder/cluster/admin"
	"murder/fsm"
)

// stoppedCoordinator returns the configuration of a coordinator that has written something, taken a
// snapshot if wanted, and been killed.
func stoppedCoordinator(t *testing.T, snapshot bool) (*rig, Config) {
	t.Helper()
	r := newRig(t)
	r.configure = func(cfg *Config) { cfg.TrailingLogs = 10 }
	n := r.open(r.config("c1", Coordinator))
	if _, err := n.Init(testContext(t), admin.InitRequest{}); err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		write(t, n, activate(fmt.Sprint("user.before", i)))
	}
	if snapshot {
		if err := n.engine.Load().raft.Snapshot().Error(); err != nil {
			t.Fatal(err)
		}
	}
	write(t, n, activate("user.after"))
	r.kill("c1")
	return r, r.cfgs["c1"]
}

func mustBeDamaged(t *testing.T, cfg Config, want string) {
	t.Helper()
	n, err := Open(cfg)
	if err == nil {
		n.kill()
	}
	var damaged *DamagedError
	if !errors.As(err, &damaged) || !strings.Contains(err.Error(), want) {
		t.Errorf("want damage (%s), got: %v", want, err)
		return
	}
	for _, command := range []string{"murderctl member remove c1 --yes", "mv " + cfg.DataDir, "murderctl cluster join TOKEN"} {
		if !strings.Contains(err.Error(), command) {
			t.Errorf("the advice lacks %q: %v", command, err)
		}
	}
}

// What a stopped coordinator does when its files are not what it wrote.
func TestDamagedFiles(t *testing.T) {
	t.Parallel()
	_, cfg := stoppedCoordinator(t, true)
	dir := filepath.Join(cfg.DataDir, raftDir)
	db := filepath.Join(dir, "raft.db")
	states, err := filepath.Glob(filepath.Join(dir, "snapshots", "*", "state.bin"))
	if err != nil || len(states) != 1 {
		t.Fatal(states, err)
	}
	whole := map[string][]byte{}
	for _, path := range []string{db, states[0]} {
		if whole[path], err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
	}
	flip := func(b []byte, mark string) []byte {
		i := bytes.Index(b, []byte(mark))
		if i < 0 {
			t.Fatalf("%q is not in the file", mark)
		}
		b[i] ^= 4
		return b
	}
	for name, c := range map[string]struct {
		file   string
		damage func([]byte) []byte
		want   string
	}{
		"log cut short":          {db, func(b []byte) []byte { return b[:2*os.Getpagesize()] }, "cut short"},
		"log empty":              {db, func(b []byte) []byte { return nil }, "is empty"},
		"log of zeros":           {db, func(b []byte) []byte { return make([]byte, len(b)) }, "no valid header"},
		"log with a changed bit": {db, func(b []byte) []byte { return flip(b, "user.after") }, "damaged"},
		"snapshot cut short":     {states[0], func(b []byte) []byte { return b[:len(b)-10] }, "none of the 1 snapshots"},
		"snapshot changed":       {states[0], func(b []byte) []byte { b[len(b)/2] ^= 1; return b }, "none of the 1 snapshots"},
		"snapshot empty":         {states[0], func(b []byte) []byte { return nil }, "none of the 1 snapshots"},
	} {
		if err := os.WriteFile(c.file, c.damage(bytes.Clone(whole[c.file])), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) { mustBeDamaged(t, cfg, c.want) })
		if err := os.WriteFile(c.file, whole[c.file], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(filepath.Dir(states[0])); err != nil {
		t.Fatal(err)
	}
	t.Run("snapshot lost", func(t *testing.T) { mustBeDamaged(t, cfg, "no good snapshot") })
	if err := os.Remove(db); err != nil {
		t.Fatal(err)
	}
	t.Run("log lost", func(t *testing.T) { mustBeDamaged(t, cfg, "is missing") })
}

// A learner whose snapshots are damaged begins anew, by itself.
func TestLearnerWithDamagedSnapshot(t *testing.T) {
	t.Parallel()
	r := startRig(t, 1, 1)
	write(t, r.nodes["c1"], activate("user.a"))
	f1 := r.nodes["f1"]
	if _, err := f1.Barrier(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if err := f1.engine.Load().raft.Snapshot().Error(); err != nil {
		t.Fatal(err)
	}
	r.kill("f1")
	cfg := r.cfgs["f1"]
	states, _ := filepath.Glob(filepath.Join(cfg.DataDir, raftDir, "snapshots", "*", "state.bin"))
	if len(states) == 0 {
		t.Fatal("no snapshot")
	}
	for _, s := range states {
		if err := os.Truncate(s, 5); err != nil {
			t.Fatal(err)
		}
	}
	f1 = r.open(cfg)
	r.eventually("a complete copy", f1.Synced)
	if _, err := f1.Barrier(testContext(t)); err != nil {
		t.Fatal(err)
	}
	mustHave(t, f1, "user.a")
	r.equalDigests()
}

// Whatever bit flips and wherever the file ends: never a crash, and a command is what was written or
// is found to be damaged. Raft's own entries, the configurations, have no checksum.
func TestChangedBits(t *testing.T) {
	t.Parallel()
	_, cfg := stoppedCoordinator(t, false)
	whole, err := os.ReadFile(filepath.Join(cfg.DataDir, raftDir, "raft.db"))
	if err != nil {
		t.Fatal(err)
	}
	cfg.Logger = slog.New(slog.DiscardHandler)
	dir := t.TempDir()
	want := readLog(t, &cfg, dir, whole)
	if len(want) < 40 {
		t.Fatalf("%d entries", len(want))
	}
	rnd := rand.New(rand.NewPCG(rand.Uint64(), 2))
	found, harmless := 0, 0
	for i := range 100 {
		b := bytes.Clone(whole)
		if i%10 == 0 {
			b = b[:rnd.IntN(len(b))]
		} else {
			b[rnd.IntN(len(b))] ^= 1 << rnd.IntN(8)
		}
		got := readLog(t, &cfg, dir, b)
		if got == nil {
			found++
			continue
		}
		harmless++
		for index, data := range want {
			// What reads as a newer version stops the node when it is applied.
			if !bytes.Equal(got[index], data) && fsm.CheckEntry(got[index]) == nil {
				t.Errorf("change %d: entry %d is not what was written, and nobody noticed: %x, was %x", i, index, got[index], data)
			}
		}
	}
	t.Logf("%d changes found, %d in places that nobody reads", found, harmless)
	if found == 0 {
		t.Error("nothing was found")
	}
}

// readLog reads a log file as a start does; nil if it is refused.
func readLog(t *testing.T, cfg *Config, dir string, file []byte) map[uint64][]byte {
	t.Helper()
	path := filepath.Join(dir, "raft.db")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	if len(file) == 0 || cfg.checkDatabase(path) != nil {
		return nil
	}
	db, err := raftboltdb.New(raftboltdb.Options{Path: path, BoltOptions: &bbolt.Options{NoFreelistSync: true, NoSync: true}})
	if err != nil {
		return nil
	}
	defer db.Close()
	if cfg.checkLog(db, 0) != nil {
		return nil
	}
	got := map[uint64][]byte{}
	last, _ := db.LastIndex()
	for i := range last {
		var l raft.Log
		if err := db.GetLog(i+1, &l); err != nil {
			t.Error(err)
		}
		if l.Type == raft.LogCommand {
			got[i+1] = l.Data
		}
	}
	return got
}
