package limit

import (
	"net/netip"
	"sync"
	"time"
)

// Failures is a token bucket of failed logins for each address, or for each name at an address: burst failures at once, then one more
// every interval. A nil *Failures never blocks. It is safe for concurrent use and remembers a bounded
// number of addresses; when there are more, those that have failed least are forgotten first.
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

// origin is where failures come from. With a name the address stands for one host, not for its network: there
// may be many honest ones in it.
type origin struct {
	addr netip.Addr
	name string
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
	key, ok := f.key(addr, name)
	if !ok {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.left(f.buckets[key], f.now()) > f.burst-1
}

// Add notes a failed login.
func (f *Failures) Add(addr netip.Addr, name string) {
	key, ok := f.key(addr, name)
	if !ok {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	if _, known := f.buckets[key]; !known && len(f.buckets) >= f.capacity {
		f.evict(now)
	}
	f.buckets[key] = bucket{failures: min(f.left(f.buckets[key], now)+1, f.burst), at: now}
}

func (f *Failures) key(addr netip.Addr, name string) (origin, bool) {
	if f == nil {
		return origin{}, false
	}
	key := origin{addr.Unmap().WithZone(""), name}
	if name == "" {
		key.addr = Network(addr)
	}
	return key, key.addr.IsValid() && !key.addr.IsLoopback()
}

func (f *Failures) left(b bucket, now time.Time) float64 {
	return max(0, b.failures-float64(now.Sub(b.at))/float64(f.interval))
}

// evict makes room: all that are forgiven, and if there are none the least guilty of a few. Map order
// picks the few, so an attacker with many addresses cannot choose whom to push out.
func (f *Failures) evict(now time.Time) {
	const sample = 16
	var victim origin
	least, seen := f.burst+1, 0
	for key, b := range f.buckets {
		left := f.left(b, now)
		if left == 0 {
			delete(f.buckets, key)
		} else if left < least {
			victim, least = key, left
		}
		if seen++; seen == sample {
			break
		}
	}
	if len(f.buckets) >= f.capacity {
		delete(f.buckets, victim)
	}
}
