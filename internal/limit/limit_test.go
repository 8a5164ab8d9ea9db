package limit

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"
)

func TestConns(t *testing.T) {
	c := NewConns(4, 2)
	var admitted []netip.Addr
	for i, step := range []struct {
		addr string
		want error
	}{
		{"192.0.2.1", nil},
		{"::ffff:192.0.2.1", nil},
		{"192.0.2.1", ErrAddress},
		{"2001:db8::1", nil},
		{"2001:db8::2", nil},
		{"2001:db8:0:1::1", ErrTotal},
	} {
		addr := netip.MustParseAddr(step.addr)
		err := c.Acquire(addr)
		if !errors.Is(err, step.want) || (err == nil) != (step.want == nil) {
			t.Errorf("step %d: %v, want %v", i, err, step.want)
		}
		if err == nil {
			admitted = append(admitted, addr)
		}
	}
	c.Release(admitted[3])
	if err := c.Acquire(netip.MustParseAddr("2001:db8::9")); err != nil || c.Len() != 4 {
		t.Errorf("after a release: %v, %d", err, c.Len())
	}
	for _, addr := range admitted[:3] {
		c.Release(addr)
	}
	if c.Len() != 1 || len(c.counts) != 1 {
		t.Errorf("left over: %d %v", c.Len(), c.counts)
	}
}

func TestConnsFromLoopbackAreNotCounted(t *testing.T) {
	c := NewConns(0, 1)
	for _, addr := range []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1"), {}} {
		for range 3 {
			if err := c.Acquire(addr); err != nil {
				t.Errorf("%v: %v", addr, err)
			}
		}
	}
	var none *Conns
	if err := none.Acquire(netip.Addr{}); err != nil || none.Len() != 0 {
		t.Error(err)
	}
	none.Release(netip.Addr{})
}

func TestFailures(t *testing.T) {
	now := time.Unix(0, 0)
	f := NewFailures(3, time.Minute, 100)
	f.now = func() time.Time { return now }
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	for i := range 5 {
		if got, want := f.Blocked(a, ""), i >= 3; got != want {
			t.Errorf("after %d failures: blocked %v", i, got)
		}
		f.Add(a, "")
	}
	if f.Blocked(b, "") {
		t.Error("another address is blocked")
	}
	now = now.Add(59 * time.Second)
	if !f.Blocked(a, "") {
		t.Error("forgiven too early")
	}
	now = now.Add(time.Second)
	if f.Blocked(a, "") {
		t.Error("not forgiven after the interval")
	}
	loop := netip.MustParseAddr("127.0.0.1")
	for range 5 {
		f.Add(loop, "")
	}
	if f.Blocked(loop, "") {
		t.Error("loopback is blocked")
	}
	// Names are counted by themselves, and a host of a network with them by itself.
	c, d := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
	for range 3 {
		f.Add(c, "u")
	}
	for _, x := range []struct {
		addr netip.Addr
		name string
		want bool
	}{{c, "u", true}, {c, "v", false}, {c, "", false}, {d, "u", false}} {
		if got := f.Blocked(x.addr, x.name); got != x.want {
			t.Errorf("%s at %s: blocked %v", x.name, x.addr, got)
		}
	}
	// That host goes on trying, and is blocked; the others of its network, which use the name too, are not.
	for range 10 * networkHosts {
		now = now.Add(10 * time.Second)
		if !f.Blocked(c, "u") {
			f.Add(c, "u")
		}
	}
	if !f.Blocked(c, "u") || f.Blocked(d, "u") {
		t.Error("one host shuts out its network, or nobody")
	}
	// One that takes another address for each try shuts out its network, for that name, and no other network.
	for i := range 3 * networkHosts {
		f.Add(netip.MustParseAddr(fmt.Sprintf("2001:db8::1:%x", i)), "u")
	}
	if !f.Blocked(d, "u") || f.Blocked(d, "v") || f.Blocked(netip.MustParseAddr("2001:db8:0:1::1"), "u") {
		t.Error("a host that changes its address is not blocked, or others are")
	}
	if now = now.Add(time.Minute); f.Blocked(d, "u") {
		t.Error("not forgiven")
	}
	var none *Failures
	none.Add(a, "")
	if none.Blocked(a, "") {
		t.Error("nothing blocks")
	}
}

func TestFailuresAreBounded(t *testing.T) {
	now := time.Unix(0, 0)
	f := NewFailures(3, time.Minute, 16)
	f.now = func() time.Time { return now }
	guilty := netip.MustParseAddr("198.51.100.1")
	for range 3 {
		f.Add(guilty, "")
	}
	for i := range 1000 {
		f.Add(netip.MustParseAddr(fmt.Sprintf("192.0.%d.%d", i/250, i%250)), "")
	}
	if len(f.buckets) > 16 {
		t.Errorf("%d buckets", len(f.buckets))
	}
	if !f.Blocked(guilty, "") {
		t.Error("many harmless addresses pushed out a guilty one")
	}
}
