package cluster

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"murder/cluster/admin"
)

func TestRoom(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	for _, c := range []struct {
		s                        space
		warn, start, yield, stop bool // too little for it
	}{
		{space{}, false, false, false, false}, // unknown
		{space{16 * mib, 16 * mib}, false, false, false, false},
		{space{mib, 16 * mib}, true, false, false, false},
		{space{mib / 2, 16 * mib}, true, true, false, false},
		{space{mib / 4, 16 * mib}, true, true, true, false},
		{space{0, 16 * mib}, true, true, true, true},
		{space{3 << 30, 10 << 40}, false, false, false, false}, // a share of a huge disk is enough
		{space{60 * mib, 10 << 40}, true, true, true, true},
	} {
		if got := [4]bool{c.s.less(roomToWarn), c.s.less(roomToStart), c.s.less(roomToYield), c.s.less(roomToStop)}; got != [4]bool{c.warn, c.start, c.yield, c.stop} {
			t.Errorf("%s: %v", c.s, got)
		}
	}
}

// A coordinator whose disk fills up lets another lead, and stops in good time.
func TestDiskFillsUp(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var full atomic.Pointer[string] // data directory of the node in question
	var left atomic.Uint64          // percent
	exits := make(chan int, 1)
	r.configure = func(cfg *Config) {
		cfg.hooks.spaceInterval = 10 * time.Millisecond
		cfg.hooks.space = func(dir string) space {
			if d := full.Load(); d != nil && *d == dir {
				return space{left.Load() << 20, 100 << 20}
			}
			return space{50 << 20, 100 << 20}
		}
		cfg.hooks.exit = func(code int, _ string) { exits <- code }
	}
	r.grow(3, 0)
	old := r.waitLeader()
	write(t, old, activate("user.a"))
	left.Store(9)
	full.Store(&old.cfg.DataDir)
	r.eventually("a warning", old.spaceLow.Load)
	left.Store(2)
	r.eventually("another leader", func() bool { l := r.leader(); return l != nil && l != old })
	left.Store(0)
	if code := <-exits; code != ExitStore {
		t.Errorf("exit %d", code)
	}
	r.kill(old.cfg.NodeID)
	write(t, r.waitLeader(), activate("user.b"))
	left.Store(4)
	_, err := Open(r.cfgs[old.cfg.NodeID])
	var e *FullError
	if !errors.As(err, &e) || !strings.Contains(err.Error(), "murderctl node free-ballast --data-dir "+old.cfg.DataDir) {
		t.Errorf("starting on a full disk: %v", err)
	}
	left.Store(50)
	r.open(r.cfgs[old.cfg.NodeID])
}

// A learner whose disk fills up says so and goes on, even when it is full: it serves from memory.
func TestDiskOfLearnerFillsUp(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var left atomic.Uint64 // percent
	left.Store(50)
	reg := prometheus.NewRegistry()
	r.configure = func(cfg *Config) {
		if cfg.Role == Frontend {
			cfg.Metrics = reg
			cfg.hooks.spaceInterval = 10 * time.Millisecond
			cfg.hooks.space = func(string) space { return space{left.Load() << 20, 100 << 20} }
		}
	}
	r.grow(1, 1)
	n, f := r.nodes["c1"], r.nodes["f1"]
	ready := func() bool { return f.Ready(t.Context(), admin.ReadyQuery{}).OK }
	told := func() string {
		for _, c := range f.Ready(t.Context(), admin.ReadyQuery{}).Checks {
			if c.Name == "room on the disk" {
				return c.Detail
			}
		}
		return ""
	}
	metric := func() float64 {
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range families {
			if m.GetName() == "murder_disk_nearly_full" {
				return m.GetMetric()[0].GetGauge().GetValue()
			}
		}
		return -1
	}
	r.eventually("ready", ready)
	left.Store(9)
	r.eventually("a warning", f.spaceLow.Load)
	warned := func() bool {
		return slices.ContainsFunc(n.Findings(testContext(t)), func(x admin.Finding) bool { return x.Kind == "disk" && strings.Contains(x.Detail, "f1") })
	}
	if !ready() || !strings.Contains(told(), "9 of 100 MiB free") || metric() != 1 || !warned() {
		t.Errorf("nearly full: ready %v, %q, metric %v, doctor %v", ready(), told(), metric(), warned())
	}
	left.Store(0)
	r.eventually("told that nothing is left", func() bool { return strings.Contains(told(), "0 of 100 MiB free") })
	write(t, n, activate("user.a"))
	if _, err := f.Barrier(testContext(t)); err != nil {
		t.Fatal(err)
	}
	mustHave(t, f, "user.a")
	if !ready() || metric() != 1 || !warned() {
		t.Errorf("full: ready %v, metric %v, doctor %v", ready(), metric(), warned())
	}
	left.Store(50)
	r.eventually("no warning", func() bool { return told() == "" && metric() == 0 && !warned() })
}

func TestBallast(t *testing.T) {
	t.Parallel()
	size := space{2 << 30, 100 << 30}
	c := Config{DataDir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)}
	c.hooks.space = func(string) space { return size }
	if err := c.makeRoom(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(c.DataDir, admin.BallastFile)); err != nil {
		t.Fatal(err)
	}
	if octets, err := admin.FreeBallast(c.DataDir); err != nil || octets != ballastSize {
		t.Errorf("freed %d, %v", octets, err)
	}
	if _, err := admin.FreeBallast(c.DataDir); err == nil {
		t.Error("freed twice")
	}
	size.free = 900 << 20 // enough to start, not enough to give some away
	if err := c.makeRoom(); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.FreeBallast(c.DataDir); err == nil {
		t.Error("took what others may need")
	}
}
