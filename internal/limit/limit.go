// Package limit keeps a few clients from using up what is there for all: connections at a time, in
// all and per address, and failed logins per address.
//
// IPv6 clients are counted by their /64, which is what one customer gets. Connections from loopback
// are not counted per address: they come from a load balancer or a web mail program on this host.
package limit

import (
	"errors"
	"net/netip"
	"sync"
)

// Reasons why a connection is refused.
var (
	ErrTotal   = errors.New("too many connections")
	ErrAddress = errors.New("too many connections from one address")
)

// Conns counts connections. A nil *Conns admits everybody. It is safe for concurrent use; its memory
// is bounded by the number of connections.
type Conns struct {
	total, perAddress int // 0 for no limit

	mu     sync.Mutex
	all    int
	counts map[netip.Addr]int
}

// NewConns returns a counter that admits total connections in all and perAddress from one address, 0
// for no limit.
func NewConns(total, perAddress int) *Conns {
	return &Conns{total: total, perAddress: perAddress, counts: make(map[netip.Addr]int)}
}

// Acquire admits a connection or returns ErrTotal or ErrAddress. Release must be called, once, when an
// admitted connection ends.
func (c *Conns) Acquire(addr netip.Addr) error {
	if c == nil {
		return nil
	}
	key, counted := c.key(addr)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.total > 0 && c.all >= c.total {
		return ErrTotal
	}
	if counted {
		if c.counts[key] >= c.perAddress {
			return ErrAddress
		}
		c.counts[key]++
	}
	c.all++
	return nil
}

// Release makes room again.
func (c *Conns) Release(addr netip.Addr) {
	if c == nil {
		return
	}
	key, counted := c.key(addr)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all--
	if counted {
		if c.counts[key]--; c.counts[key] == 0 {
			delete(c.counts, key)
		}
	}
}

// key is what an address is counted by, if it is.
func (c *Conns) key(addr netip.Addr) (key netip.Addr, counted bool) {
	key = Network(addr)
	return key, c.perAddress > 0 && key.IsValid() && !key.IsLoopback()
}

// Len returns the number of admitted connections.
func (c *Conns) Len() int {
	if c == nil {
		return 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all
}

// Network returns what an address is counted by: IPv4 itself, IPv6 its /64.
func Network(addr netip.Addr) netip.Addr {
	addr = addr.Unmap().WithZone("")
	if addr.Is6() && !addr.IsLoopback() {
		if prefix, err := addr.Prefix(64); err == nil {
			return prefix.Addr()
		}
	}
	return addr
}
