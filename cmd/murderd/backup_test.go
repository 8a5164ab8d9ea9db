package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"murder/internal/config"
)

func TestBackups(t *testing.T) {
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "murder-notes.txt"), nil, 0o600)
	var fail error
	source := func(_ context.Context, w io.Writer) error {
		io.WriteString(w, "copy")
		return fail
	}
	cfg := config.Backup{Dir: dir, Every: config.Duration{Duration: time.Hour}, Keep: 2}
	b := newBackups(cfg, source, slog.New(slog.DiscardHandler), nil)
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for i := range 3 {
		b.save(t.Context(), cfg, now.Add(time.Duration(i)*time.Hour))
	}
	files := backupFiles(dir)
	if len(files) != 2 || !strings.HasSuffix(files[1], "murder-20260102T050405Z.snapshot") {
		t.Fatal(files)
	}
	if data, _ := os.ReadFile(files[0]); string(data) != "copy" {
		t.Errorf("%q", data)
	}
	last := now.Add(2 * time.Hour)
	if text := b.trouble(last.Add(time.Hour)); text != "" {
		t.Error(text)
	}
	if text := b.trouble(last.Add(3 * time.Hour)); !strings.Contains(text, "3h0m0s old") {
		t.Error(text)
	}
	fail = errors.New("no leader")
	b.save(t.Context(), cfg, last.Add(time.Hour))
	if text := b.trouble(last.Add(time.Hour)); !strings.Contains(text, "no leader") {
		t.Error(text)
	}
	if left, _ := os.ReadDir(dir); len(left) != 3 {
		t.Errorf("a part was left: %v", left)
	}
	// A new process goes on with the schedule of the one before.
	if again := newBackups(cfg, source, b.log, nil); !again.last.Equal(last) {
		t.Error(again.last)
	}
	if off := newBackups(config.Backup{}, source, b.log, nil); off.trouble(last) != "" {
		t.Error("trouble without backups")
	}
}
