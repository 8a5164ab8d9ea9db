package cluster

import (
	"strings"
	"sync"
	"testing"

	"murder/cluster/admin"
)

// A learner says how far its copy is behind and whether anybody tells it of changes; it serves all the same, unless
// it is asked for less lag than it has.
func TestLearnerTellsHowOldItsCopyIs(t *testing.T) {
	t.Parallel()
	var slow sync.Mutex // held while the learner applies nothing
	r := newRig(t)
	r.configure = func(c *Config) {
		if c.Role == Frontend {
			c.hooks.alter = func(entry []byte) []byte {
				slow.Lock()
				defer slow.Unlock()
				return entry
			}
		}
	}
	r.grow(1, 1)
	l, f := r.nodes["c1"], r.nodes["f1"]
	told := func() string {
		for _, c := range f.Ready(t.Context(), admin.ReadyQuery{}).Checks {
			if c.Name == "copy current" {
				return c.Detail
			}
		}
		return "no such check"
	}
	ready := func(maxLag uint64) bool { return f.Ready(t.Context(), admin.ReadyQuery{MaxLag: maxLag}).OK }
	r.eventually("all is well", func() bool { return ready(10) && told() == "" })

	slow.Lock()
	for range 20 {
		write(t, l, activate("user.a"))
	}
	r.eventually("it knows that it is behind", func() bool { entries, _, ok := f.lag(); return ok && entries >= 20 })
	if !ready(0) || ready(10) {
		t.Errorf("ready %v, within ten entries %v", ready(0), ready(10))
	}
	slow.Unlock()
	r.eventually("it has caught up", func() bool { entries, _, ok := f.lag(); return ok && entries == 0 && ready(10) })

	r.isolate("f1")
	r.eventually("it hears nothing", func() bool { return strings.Contains(told(), "the copy may be old") })
	if !ready(0) {
		t.Error("a copy that may be old is of no use")
	}
	mustHave(t, f, "user.a")
	r.heal()
	r.eventually("it hears of the leader again", func() bool { return told() == "" })
}
