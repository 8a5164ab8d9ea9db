package cluster

import (
	"sync/atomic"
	"time"
)

// What a node decides by itself it decides by the monotonic clock, which no administrator and no time server
// moves: time.Since, and moments kept as time.Time. The wall clock is only shown to people, written into
// histories, and compared with what certificates and tokens say.

// moment is a time that goroutines share. The zero moment is long ago.
type moment struct{ at atomic.Pointer[time.Time] }

func (m *moment) get() time.Time {
	if t := m.at.Load(); t != nil {
		return *t
	}
	return time.Time{}
}

func (m *moment) set(t time.Time) { m.at.Store(&t) }

// pass sets the moment to now if the one before is at least so long ago; of several who try, one succeeds.
func (m *moment) pass(d time.Duration) bool {
	old, now := m.at.Load(), time.Now()
	return (old == nil || now.Sub(*old) >= d) && m.at.CompareAndSwap(old, &now)
}

// now is the wall clock.
func (n *Node) now() time.Time {
	if n.cfg.hooks.clockNow != nil {
		return n.cfg.hooks.clockNow()
	}
	return wallClock()
}
