package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"murder/internal/atomicfile"
	"murder/internal/config"
)

const (
	backupPrefix = "murder-"
	backupSuffix = ".snapshot"
	backupStamp  = "20060102T150405Z" // sorts by age
	backupLimit  = 10 * time.Minute
	// backupRetry is how soon a backup that failed is tried again; backupLook how often it is looked
	// whether one is due.
	backupRetry = 5 * time.Minute
	backupLook  = 10 * time.Second
)

// backups saves copies of the map into a directory from time to time, and removes the oldest.
type backups struct {
	log    *slog.Logger
	source func(context.Context, io.Writer) error
	failed prometheus.Counter

	mu    sync.Mutex
	cfg   config.Backup
	last  time.Time // of the newest file
	tried time.Time
	err   error // of the last attempt
	begun time.Time
}

func newBackups(cfg config.Backup, source func(context.Context, io.Writer) error, log *slog.Logger, reg prometheus.Registerer) *backups {
	b := &backups{log: log, source: source, begun: time.Now(), failed: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "murder_backup_failures_total", Help: "Scheduled backups that could not be made."})}
	b.configure(cfg)
	age := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "murder_backup_age_seconds", Help: "Age of the newest scheduled backup; -1 without one."}, func() float64 {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.last.IsZero() {
			return -1
		}
		return time.Since(b.last).Seconds()
	})
	if reg != nil {
		reg.MustRegister(b.failed, age)
	}
	return b
}

// configure takes over a schedule, also while running.
func (b *backups) configure(cfg config.Backup) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if cfg.Dir != b.cfg.Dir {
		b.last, b.tried, b.err = time.Time{}, time.Time{}, nil
		if files := backupFiles(cfg.Dir); len(files) > 0 {
			b.last = backupTime(files[len(files)-1])
		}
	}
	b.cfg = cfg
}

// run looks from time to time whether a backup is due, until ctx ends.
func (b *backups) run(ctx context.Context) {
	tick := time.NewTicker(backupLook)
	defer tick.Stop()
	for {
		b.mu.Lock()
		cfg, now := b.cfg, time.Now()
		due := cfg.Dir != "" && now.Sub(b.last) >= cfg.Every.Duration && (b.err == nil || now.Sub(b.tried) >= backupRetry)
		b.mu.Unlock()
		if due {
			b.save(ctx, cfg, now)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (b *backups) save(ctx context.Context, cfg config.Backup, now time.Time) {
	ctx, cancel := context.WithTimeout(ctx, backupLimit)
	defer cancel()
	path := filepath.Join(cfg.Dir, backupPrefix+now.UTC().Format(backupStamp)+backupSuffix)
	size, err := atomicfile.Write(path, 0o600, func(w io.Writer) error { return b.source(ctx, w) })
	b.mu.Lock()
	b.tried, b.err = now, err
	if err == nil {
		b.last = now
	}
	b.mu.Unlock()
	if err != nil {
		b.failed.Inc()
		b.log.Error("backup failed", "dir", cfg.Dir, "err", err)
		return
	}
	b.log.Info("backup saved", "file", path, "octets", size)
	for _, old := range surplus(backupFiles(cfg.Dir), cfg.Keep) {
		if err := os.Remove(old); err != nil {
			b.log.Warn("old backup not removed", "file", old, "err", err)
		}
	}
}

// backupFiles returns the paths of the backups in a directory, the oldest first. Other files are none
// of ours.
func backupFiles(dir string) []string {
	entries, _ := os.ReadDir(dir)
	var files []string
	for _, e := range entries {
		if path := filepath.Join(dir, e.Name()); !backupTime(path).IsZero() {
			files = append(files, path)
		}
	}
	slices.Sort(files)
	return files
}

func backupTime(path string) time.Time {
	stamp, ok := strings.CutPrefix(filepath.Base(path), backupPrefix)
	stamp, whole := strings.CutSuffix(stamp, backupSuffix)
	t, err := time.Parse(backupStamp, stamp)
	if !ok || !whole || err != nil {
		return time.Time{}
	}
	return t
}

func surplus(files []string, keep int) []string { return files[:max(0, len(files)-keep)] }

// trouble says what an operator should know, "" when all is well.
func (b *backups) trouble(now time.Time) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	since := b.last
	if since.IsZero() {
		since = b.begun
	}
	switch age := now.Sub(since); {
	case b.cfg.Dir == "":
		return ""
	case b.err != nil:
		return fmt.Sprintf("the last scheduled backup failed: %v", b.err)
	case age > 2*b.cfg.Every.Duration+time.Minute:
		return fmt.Sprintf("the newest scheduled backup is %v old", age.Round(time.Minute))
	}
	return ""
}
