package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
)

const (
	storeAlarm = 3 * time.Second
	storeLimit = 10 * time.Second
	logCache   = 1024 // entries

	retainSnapshots   = 3
	maxSnapshotReads  = 2 // at the same time: a hundred frontends may all ask at once
	databaseOpenLimit = 5 * time.Second
)

// logAndStable is what raft-boltdb and raft's in-memory store both are.
type logAndStable interface {
	raft.LogStore
	raft.StableStore
}

// stores are what raft keeps its state in.
type stores struct {
	log       raft.LogStore
	stable    raft.StableStore
	snapshots raft.SnapshotStore
	files     *raft.FileSnapshotStore // the same, for readers that do not pass its gate
	close     func() error
	guard     *storeGuard // nil for learners
}

// openStores opens the durable log of a coordinator, or the memory log of a learner: a learner never
// votes, so it may forget its log; it goes on from its last snapshot. applied is how far its copy is.
func openStores(c *Config, durable bool, applied func() uint64) (*stores, error) {
	dir := filepath.Join(c.DataDir, raftDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the raft directory: %w", err)
	}
	files, snapshot, err := openSnapshots(c, dir, durable)
	if err != nil {
		return nil, err
	}
	s := &stores{files: files, snapshots: &snapshotGate{files, make(chan struct{}, maxSnapshotReads)}}
	if !durable {
		mem := newRecentLog(applied)
		s.log, s.stable, s.close = mem, mem, func() error { return nil }
		return s, nil
	}
	if err := c.makeRoom(); err != nil {
		return nil, err
	}
	path := c.logFile()
	if err := c.checkDatabase(path); err != nil {
		return nil, err
	}
	before, _ := os.Stat(path)
	bolt, err := raftboltdb.New(raftboltdb.Options{
		Path: path,
		BoltOptions: &bbolt.Options{
			Timeout:        databaseOpenLimit,
			NoFreelistSync: true, // the file never shrinks; writing its free list would slow every commit
			FreelistType:   bbolt.FreelistMapType,
		},
	})
	if errors.Is(err, bbolt.ErrTimeout) {
		return nil, fmt.Errorf("opening the log: another process uses %s: stop it first", path)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the log %s: %w", path, err)
	}
	if replaced(before, path) {
		bolt.Close()
		return nil, fmt.Errorf("opening the log: %s was replaced while this waited for it, as murderctl node log compact does: start again", path)
	}
	if err := c.checkLog(bolt, snapshot); err != nil {
		bolt.Close()
		return nil, err
	}
	var inner logAndStable = bolt
	if c.hooks.wrap != nil {
		inner = c.hooks.wrap(bolt)
	}
	s.guard = newStoreGuard(inner, c.Logger, c.hooks.exit)
	s.guard.start()
	cache, err := raft.NewLogCache(logCache, s.guard)
	if err != nil {
		bolt.Close()
		return nil, err
	}
	s.log, s.stable = cache, s.guard
	ctx, stopMetrics := context.WithCancel(context.Background())
	go bolt.RunMetrics(ctx, 0)
	s.close = func() error {
		stopMetrics()
		s.guard.stop()
		return bolt.Close()
	}
	return s, nil
}

// replaced reports whether a path is of another file than before: who has waited for the lock of the old one must
// not go on with it, for it has no name any more.
func replaced(before os.FileInfo, path string) bool {
	after, err := os.Stat(path)
	return before != nil && (err != nil || !os.SameFile(before, after))
}

// openSnapshots returns the store of snapshots and the index of the newest good one.
func openSnapshots(c *Config, dir string, durable bool) (*raft.FileSnapshotStore, uint64, error) {
	for {
		files, err := raft.NewFileSnapshotStoreWithLogger(dir, retainSnapshots, newHCLog(c.Logger, "snapshot"))
		if err != nil {
			return nil, 0, fmt.Errorf("opening the snapshots: %w", err)
		}
		index, err := c.checkSnapshots(files)
		var damaged *DamagedError
		if durable || !errors.As(err, &damaged) {
			return files, index, err
		}
		c.Logger.Warn("all snapshots are damaged: this learner begins anew", "err", damaged.What)
		if err := c.dropSnapshots(); err != nil {
			return nil, 0, fmt.Errorf("removing damaged snapshots: %w", err)
		}
	}
}

// storeGuard ends the process when the log store fails or hangs. The library would go on: with a full
// disk a leader keeps winning elections that it cannot use, and with a hanging disk it keeps sending
// heartbeats, so that nobody else may lead.
type storeGuard struct {
	inner logAndStable
	log   *slog.Logger
	exit  func(code int, reason string)
	// observe hears how long each call took.
	observe func(what string, dur time.Duration)
	alarm   time.Duration // age of a call that is worth a line in the log
	limit   time.Duration // age of a call that ends the process

	mu      sync.Mutex
	calls   map[uint64]call
	next    uint64
	alarmed bool
	slowest time.Duration // of the calls that have ended since start

	done chan struct{}
	wg   sync.WaitGroup
}

type call struct {
	what  string
	begun time.Time
}

func newStoreGuard(inner logAndStable, log *slog.Logger, exit func(int, string)) *storeGuard {
	g := &storeGuard{inner: inner, log: log, exit: exit, alarm: storeAlarm, limit: storeLimit,
		observe: func(string, time.Duration) {}, calls: make(map[uint64]call), done: make(chan struct{})}
	return g
}

func (g *storeGuard) start() { g.wg.Go(g.watch) }

func (g *storeGuard) stop() {
	close(g.done)
	g.wg.Wait()
}

// oldest is the age of the longest call under way.
func (g *storeGuard) oldest(now time.Time) (what string, age time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.calls {
		if d := now.Sub(c.begun); d > age {
			what, age = c.what, d
		}
	}
	return what, age
}

func (g *storeGuard) watch() {
	tick := time.NewTicker(g.alarm / 12)
	defer tick.Stop()
	for {
		select {
		case <-g.done:
			return
		case now := <-tick.C:
			what, age := g.oldest(now)
			switch {
			case age > g.limit:
				g.fail(what, fmt.Errorf("no answer from the disk for %s", age.Round(time.Second)))
				return
			case age > g.alarm && !g.alarmed:
				g.alarmed = true
				g.log.Error("log store hangs", "cmd", what, "dur", age)
			case age <= g.alarm:
				g.alarmed = false
			}
		}
	}
}

// fail does not wait for anything that might wait for the disk.
func (g *storeGuard) fail(what string, err error) {
	reason := fmt.Sprintf("log store: %s failed: %v; this coordinator stops so that another can lead", what, err)
	g.log.Error("log store failed: this coordinator stops so that another can lead", "cmd", what, "err", err)
	g.exit(ExitStore, reason)
}

// do runs a call that must not fail.
func (g *storeGuard) do(what string, f func() error) error {
	err := g.timed(what, f)
	if err != nil {
		g.fail(what, err)
	}
	return err
}

// timed runs a call that must not hang.
func (g *storeGuard) timed(what string, f func() error) error {
	g.mu.Lock()
	g.next++
	id, begun := g.next, time.Now()
	g.calls[id] = call{what, begun}
	g.mu.Unlock()
	err := f()
	g.mu.Lock()
	delete(g.calls, id)
	dur := time.Since(begun)
	g.slowest = max(g.slowest, dur)
	g.mu.Unlock()
	g.observe(what, dur)
	return err
}

func (g *storeGuard) FirstIndex() (i uint64, err error) {
	err = g.do("reading the first index", func() error { i, err = g.inner.FirstIndex(); return err })
	return i, err
}

func (g *storeGuard) LastIndex() (i uint64, err error) {
	err = g.do("reading the last index", func() error { i, err = g.inner.LastIndex(); return err })
	return i, err
}

// GetLog may fail without harm: the entry may have been compacted away. It must not hang either: a leader that
// reads what a follower lacks would go on sending heartbeats.
func (g *storeGuard) GetLog(index uint64, log *raft.Log) error {
	return g.timed("reading an entry", func() error { return g.inner.GetLog(index, log) })
}

func (g *storeGuard) StoreLog(log *raft.Log) error { return g.StoreLogs([]*raft.Log{log}) }

func (g *storeGuard) StoreLogs(logs []*raft.Log) error {
	return g.do("writing entries", func() error { return g.inner.StoreLogs(logs) })
}

// deleteStep is how many entries one transaction removes: a big one would block all writes meanwhile.
const deleteStep = 4096

// DeleteRange removes old entries in steps. A tail that conflicts with the leader's goes in one
// transaction: a crash half-way would leave a hole in the log.
func (g *storeGuard) DeleteRange(first, last uint64) error {
	oldest, err := g.FirstIndex()
	if err != nil {
		return err
	}
	for first <= last {
		end := last
		if first <= oldest {
			end = min(last, first+deleteStep-1)
			oldest = end + 1
		}
		if err := g.do("deleting entries", func() error { return g.inner.DeleteRange(first, end) }); err != nil {
			return err
		}
		first = end + 1
	}
	return nil
}

func (g *storeGuard) Set(key, value []byte) error {
	return g.do("writing "+string(key), func() error { return g.inner.Set(key, value) })
}

func (g *storeGuard) SetUint64(key []byte, value uint64) error {
	return g.do("writing "+string(key), func() error { return g.inner.SetUint64(key, value) })
}

// Get and GetUint64 report a missing key as an error, which is no failure.
func (g *storeGuard) Get(key []byte) (value []byte, err error) {
	err = g.timed("reading "+string(key), func() error { value, err = g.inner.Get(key); return err })
	return value, err
}

func (g *storeGuard) GetUint64(key []byte) (value uint64, err error) {
	err = g.timed("reading "+string(key), func() error { value, err = g.inner.GetUint64(key); return err })
	return value, err
}

// snapshotGate bounds how many snapshots are read at the same time, to be sent. Backups have slots of their own
// (Node.backups): their readers may be slow.
type snapshotGate struct {
	raft.SnapshotStore
	slots chan struct{}
}

func (g *snapshotGate) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	g.slots <- struct{}{}
	meta, r, err := g.SnapshotStore.Open(id)
	if err != nil {
		<-g.slots
		return nil, nil, err
	}
	return meta, &gatedReader{ReadCloser: r, slots: g.slots}, nil
}

type gatedReader struct {
	io.ReadCloser
	slots chan struct{}
	once  sync.Once
}

func (r *gatedReader) Close() error {
	r.once.Do(func() { <-r.slots })
	return r.ReadCloser.Close()
}
