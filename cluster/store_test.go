package cluster

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"murder/cluster/admin"
)

func TestStoreFailureStops(t *testing.T) {
	t.Parallel()
	codes := make(chan int, 1)
	g := newStoreGuard(&diskStore{raft.NewInmemStore(), &disk{err: syscall.ENOSPC}},
		slog.New(slog.DiscardHandler), func(code int, reason string) {
			if !strings.Contains(reason, "no space left") {
				t.Errorf("reason: %s", reason)
			}
			codes <- code
		})
	g.StoreLog(&raft.Log{Index: 1})
	if code := <-codes; code != ExitStore {
		t.Errorf("exit %d", code)
	}
}

func TestStoreHangStops(t *testing.T) {
	t.Parallel()
	for what, call := range map[string]func(*storeGuard){
		"writing": func(g *storeGuard) { g.StoreLog(&raft.Log{Index: 1}) },
		"reading": func(g *storeGuard) { g.GetLog(1, new(raft.Log)) },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			codes := make(chan int, 1)
			d := new(disk)
			d.hang()
			g := newStoreGuard(&diskStore{raft.NewInmemStore(), d},
				slog.New(slog.DiscardHandler), func(code int, _ string) { codes <- code })
			g.alarm, g.limit = 12*time.Millisecond, 40*time.Millisecond
			g.start()
			done := make(chan struct{})
			go func() { call(g); close(done) }()
			select {
			case code := <-codes:
				if code != ExitStore {
					t.Errorf("exit %d", code)
				}
			case <-time.After(10 * time.Second):
				t.Error("a call that hangs is waited for")
			}
			d.release()
			<-done
			g.stop()
		})
	}
}

// A missing key or a compacted entry is no failure.
func TestStoreMisses(t *testing.T) {
	t.Parallel()
	g := newStoreGuard(raft.NewInmemStore(), slog.New(slog.DiscardHandler), func(int, string) { t.Error("exit") })
	if err := g.GetLog(5, new(raft.Log)); err == nil {
		t.Error("found an entry that is not there")
	}
	if _, err := g.Get([]byte("x")); err == nil {
		t.Error("found a key that is not there")
	}
}

func TestDeleteRangeInSteps(t *testing.T) {
	t.Parallel()
	g := newStoreGuard(raft.NewInmemStore(), slog.New(slog.DiscardHandler), func(int, string) { t.Error("exit") })
	var logs []*raft.Log
	for i := range uint64(3 * deleteStep) {
		logs = append(logs, &raft.Log{Index: i + 1})
	}
	g.StoreLogs(logs)
	if err := g.DeleteRange(1, 2*deleteStep+5); err != nil {
		t.Fatal(err)
	}
	if first, _ := g.FirstIndex(); first != 2*deleteStep+6 {
		t.Errorf("first index %d", first)
	}
	if err := g.DeleteRange(3*deleteStep-10, 3*deleteStep); err != nil {
		t.Fatal(err)
	}
	if last, _ := g.LastIndex(); last != 3*deleteStep-11 {
		t.Errorf("last index %d", last)
	}
}

func TestDatabaseCutShort(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	n := r.open(r.config("c1", Coordinator))
	if _, err := n.Init(testContext(t), admin.InitRequest{}); err != nil {
		t.Fatal(err)
	}
	write(t, n, activate("user.a"))
	r.kill("c1")
	cfg := r.cfgs["c1"]
	path := filepath.Join(cfg.DataDir, raftDir, "raft.db")
	if err := cfg.checkDatabase(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 2*int64(os.Getpagesize())); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(cfg); err == nil || !strings.Contains(err.Error(), "cut short") {
		t.Errorf("got %v", err)
	}
	if err := os.WriteFile(path, make([]byte, 1<<16), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(cfg); err == nil || !strings.Contains(err.Error(), "no valid header") {
		t.Errorf("got %v", err)
	}
}

// Backups that nobody reads keep no snapshot from being sent.
func TestStalledBackups(t *testing.T) {
	t.Parallel()
	r := startRig(t, 1, 0)
	n := r.nodes["c1"]
	write(t, n, activate("user.a"))
	var stalled sync.WaitGroup
	ends := make([]*io.PipeReader, 0, maxBackups)
	defer func() {
		for _, p := range ends {
			p.Close()
		}
		stalled.Wait()
	}()
	for range maxBackups {
		p, w := io.Pipe()
		ends = append(ends, p)
		stalled.Go(func() { n.Backup(context.Background(), w) })
		if _, err := p.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	snapshots := n.engine.Load().stores.snapshots
	list, err := snapshots.List()
	if err != nil || len(list) == 0 {
		t.Fatal(list, err)
	}
	opened := make(chan error, 1)
	go func() {
		_, s, err := snapshots.Open(list[0].ID)
		if err == nil {
			s.Close()
		}
		opened <- err
	}()
	select {
	case err := <-opened:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("no snapshot can be sent")
	}
	// One more waits for its turn as long as it likes to.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := n.Backup(ctx, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestReplaced(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	if replaced(nil, path) {
		t.Error("a log that has just been made was replaced")
	}
	if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(path)
	if err != nil || replaced(before, path) {
		t.Errorf("the same file was replaced: %v", err)
	}
	if err := os.WriteFile(path+".new", []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil || !replaced(before, path) {
		t.Errorf("nobody noticed: %v", err)
	}
}
