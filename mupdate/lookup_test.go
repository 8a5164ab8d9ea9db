package mupdate

import (
	"testing"
	"time"

	"murder/internal/mbox"
)

// A long dump leaves what was pipelined behind it its time.
func TestDumpTakesNoTime(t *testing.T) {
	dir := newMemory()
	cfg := testConfig(t, nil)
	cfg.CommandTimeout = 500 * time.Millisecond
	cfg.Directory = &slow{hurried{dir}, cfg.CommandTimeout}
	s := startServer(t, cfg)
	d := loggedIn(t, s, "be-a")
	d.send("X1 LIST\r\nX2 ACTIVATE \"n\" \"a.example!p\" \"\"\r\n")
	for _, want := range []string{`X1 OK "list complete"`, `X2 OK "done"`} {
		if got, err := d.line(); err != nil || got != want {
			t.Fatalf("got %q, %v, want %q", got, err, want)
		}
	}
}

// slow is a directory whose copy is walked in no less than a time.
type slow struct {
	hurried
	takes time.Duration
}

func (s *slow) View() mbox.View { return &slowView{s.memory.View(), s.takes} }

type slowView struct {
	mbox.View
	takes time.Duration
}

func (v *slowView) Ascend(from mbox.Name, yield func(mbox.Entry) bool) {
	time.Sleep(v.takes)
	v.View.Ascend(from, yield)
}
