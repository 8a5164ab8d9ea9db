package main

import (
	"net"
	"net/netip"
	"sync"
)

// ownAddresses are where this process listens: what is there is no backend. The zero value is ready.
type ownAddresses struct {
	mu  sync.Mutex
	all map[netip.AddrPort]bool
}

func (o *ownAddresses) add(addr net.Addr) {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.all == nil {
		o.all = make(map[netip.AddrPort]bool)
	}
	at := tcp.AddrPort()
	o.all[netip.AddrPortFrom(at.Addr().Unmap().WithZone(""), at.Port())] = true
}

// listens reports whether a connection to at would come back here. Who listens on all addresses of the machine does
// so on each of them: of both families if its socket says [::], which is dual-stack and what package net makes of
// 0.0.0.0, too, where it can; of IPv4 if it says 0.0.0.0.
func (o *ownAddresses) listens(at netip.AddrPort) bool {
	o.mu.Lock()
	own := o.all[at]
	all := o.all[netip.AddrPortFrom(netip.IPv6Unspecified(), at.Port())] ||
		at.Addr().Is4() && o.all[netip.AddrPortFrom(netip.IPv4Unspecified(), at.Port())]
	o.mu.Unlock()
	return own || all && ofThisMachine(at.Addr())
}

func ofThisMachine(ip netip.Addr) bool {
	if ip.IsLoopback() || ip.IsUnspecified() {
		return true
	}
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil && prefix.Addr().Unmap() == ip {
			return true
		}
	}
	return false
}
