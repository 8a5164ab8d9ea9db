package limit

import (
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Failures is a token bucket of failed logins for each address, or for each name at an address: burst failures at once, then one more
// every interval. A nil *Failures never blocks. It is safe for concurrent use and remembers a bounded
// number of addresses; when there are more, those that have failed least are forgotten first.
//
// Without a name an IPv6 client is counted by its /64. With one it is counted by itself, as there may be many
// honest hosts in that network, which use one name; and the network as a whole may fail as often as networkHosts
// of them: one host alone does not get that far, for it is blocked before, and one that changes its address does.
//
// Loopback and unknown addresses are never blocked: they stand for many clients.
type Failures struct {
	burst    float64
	interval time.Duration
	capacity int
	now      func() time.Time

	mu      sync.Mutex
	buckets map[origin]bucket
}

// networkHosts is how many hosts of an IPv6 network may fail at a time with one name.
const networkHosts = 16

// origin is where failures come from: an address, a name at it, or a name in a network.
type origin struct {
	addr  netip.Addr
	name  string
	hosts int // that may fail there at a time
}

// A bucket holds the failures not yet forgiven, as of a moment.
type bucket struct {
	failures float64
	at       time.Time
}

// NewFailures returns a limit for at most capacity addresses at a time.
func NewFailures(burst int, interval time.Duration, capacity int) *Failures {
	return &Failures{
		burst: float64(max(burst, 1)), interval: max(interval, time.Millisecond), capacity: max(capacity, 1),
		now: time.Now, buckets: make(map[origin]bucket),
	}
}

// Blocked reports whether an address must wait before it may try again, with a name if one is given.
func (f *Failures) Blocked(addr netip.Addr, name string) bool {
	list := f.origins(addr, name)
	if len(list) == 0 {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	return slices.ContainsFunc(list, func(o origin) bool { return f.left(o, now) > f.limit(o)-1 })
}

// Add notes a failed login.
func (f *Failures) Add(addr netip.Addr, name string) {
	list := f.origins(addr, name)
	if len(list) == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	for _, o := range list {
		if _, known := f.buckets[o]; !known && len(f.buckets) >= f.capacity {
			f.evict(now)
		}
		f.buckets[o] = bucket{failures: min(f.left(o, now)+1, f.limit(o)), at: now}
	}
}

// origins returns all that a failure counts for; nothing if it does not count.
func (f *Failures) origins(addr netip.Addr, name string) []origin {
	host, network := addr.Unmap().WithZone(""), Network(addr)
	switch {
	case f == nil || !host.IsValid() || host.IsLoopback():
		return nil
	case name == "":
		return []origin{{network, "", 1}}
	case host.Is4():
		return []origin{{host, name, 1}}
	}
	return []origin{{host, name, 1}, {network, name, networkHosts}}
}

func (f *Failures) limit(o origin) float64 { return f.burst * float64(o.hosts) }

// left returns the failures of an origin that are not forgiven yet.
func (f *Failures) left(o origin, now time.Time) float64 {
	b := f.buckets[o]
	return max(0, b.failures-float64(now.Sub(b.at))/float64(f.interval)*float64(o.hosts))
}

// evict makes room: all that are forgiven, and if there are none the least guilty of a few. Map order
// picks the few, so an attacker with many addresses cannot choose whom to push out.
func (f *Failures) evict(now time.Time) {
	const sample = 16
	var victim origin
	least, seen := 2.0, 0
	for o := range f.buckets {
		guilt := f.left(o, now) / f.limit(o)
		if guilt == 0 {
			delete(f.buckets, o)
		} else if guilt < least {
			victim, least = o, guilt
		}
		if seen++; seen == sample {
			break
		}
	}
	if len(f.buckets) >= f.capacity {
		delete(f.buckets, victim)
	}
}
