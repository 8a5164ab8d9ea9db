package main

import (
	"fmt"
	"sync/atomic"
	"time"

	"murder/cluster/admin"
)

const (
	turnInterval = time.Second
	turnLimit    = 5 * time.Second
)

// turns notes when the main loop went round last.
type turns struct{ last atomic.Pointer[time.Time] }

func (t *turns) turn(now time.Time) { t.last.Store(&now) }

// rest says that the loop has ended as it should: what stops afterwards takes its time.
func (t *turns) rest() { t.last.Store(nil) }

// stuck says that the loop does not go round any more, "" if it does, or is not to.
func (t *turns) stuck(now time.Time) string {
	last := t.last.Load()
	if last == nil || now.Sub(*last) <= turnLimit {
		return ""
	}
	return fmt.Sprintf("last turn %s ago", now.Sub(*last).Round(time.Millisecond))
}

// live is what /livez and the service manager's watchdog ask for.
func (d *daemon) live() admin.Health {
	h := d.node.Live()
	if stuck := d.turns.stuck(time.Now()); stuck != "" {
		h.Add("daemon", false, stuck)
	}
	return h
}
