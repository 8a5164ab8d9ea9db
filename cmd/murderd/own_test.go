package main

import (
	"net"
	"net/netip"
	"testing"
)

func TestOwnAddresses(t *testing.T) {
	var none, own ownAddresses
	own.add(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 7), Port: 143})
	own.add(&net.TCPAddr{IP: net.IPv6unspecified, Port: 2003})
	own.add(&net.TCPAddr{IP: net.IPv4zero, Port: 110})
	own.add(&net.UnixAddr{Name: "/run/lmtp.sock", Net: "unix"})
	for at, want := range map[string]bool{
		"127.0.0.7:143": true, "127.0.0.8:143": false, "127.0.0.7:144": false, "127.0.0.1:2003": true, "[::1]:2003": true, "192.0.2.1:2003": false,
		"127.0.0.1:110": true, "0.0.0.0:110": true, "192.0.2.1:110": false, "[::1]:110": false, "[::]:110": false,
	} {
		if addr := netip.MustParseAddrPort(at); own.listens(addr) != want || none.listens(addr) {
			t.Errorf("%s: %v, want %v", at, own.listens(addr), want)
		}
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil && !own.listens(netip.AddrPortFrom(prefix.Addr().Unmap(), 2003)) {
			t.Errorf("%s is ours", prefix)
		}
	}
}
