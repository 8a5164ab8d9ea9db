package mupdate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"murder/internal/mbox"
)

// A dump that lost half of its records would make frontends delete the other half, before and after a
// restart of the node.
func TestShrunkenDumpIsWithheld(t *testing.T) {
	dir := newMemory()
	file := filepath.Join(t.TempDir(), "shown")
	start := func() *testServer {
		cfg := testConfig(t, dir)
		cfg.GuardFile = file
		return startServer(t, cfg)
	}
	s := start()
	for i := range 300 {
		dir.have(mbox.Entry{Name: mbox.Name(fmt.Sprint("n", i)), Location: "a!p", State: mbox.Active})
	}
	dump := func() error {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		err := dialClient(t, s, "ro").Update(ctx, nil, Events{Synced: func() error { return io.EOF }})
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	}
	if err := dump(); err != nil {
		t.Fatal(err)
	}
	dir.mu.Lock()
	for i := range 200 {
		delete(dir.records, mbox.Name(fmt.Sprint("n", i)))
	}
	dir.mu.Unlock()
	var refused *ResponseError
	if err := dump(); !errors.As(err, &refused) || refused.Status != "NO" {
		t.Fatalf("got %v", err)
	}
	s = start()
	if err := dump(); !errors.As(err, &refused) || refused.Status != "NO" {
		t.Fatalf("after a restart: got %v", err)
	}
	s.AllowShrink()
	s = start()
	if err := dump(); err != nil {
		t.Fatal(err)
	}
	s.guard.set(300)
	dir.mu.Lock()
	for i := range 60 {
		dir.owners[mbox.Name(fmt.Sprint("n", i))] = "a" // known as deleted, while nobody listened
	}
	dir.mu.Unlock()
	if err := dump(); err != nil {
		t.Fatal(err)
	}
}

// However many show the map at once, the file holds in the end what it is to hold.
func TestGuardFile(t *testing.T) {
	var g shrinkGuard
	g.open(filepath.Join(t.TempDir(), "shown"), slog.New(slog.DiscardHandler))
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			for k := range 50 {
				g.set(1000 * (1 + (7*i+k)%20))
			}
		})
	}
	all.Wait()
	text, err := os.ReadFile(g.file)
	if got := strings.TrimSpace(string(text)); err != nil || got != strconv.Itoa(g.kept) || g.saving {
		t.Errorf("the file holds %q %v, not %d", got, err, g.kept)
	}
	if d := g.last - g.kept; max(d, -d) > g.kept/8 {
		t.Errorf("kept %d of %d", g.kept, g.last)
	}
}
