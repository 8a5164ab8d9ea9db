package cluster

import (
	"strings"
	"testing"
)

// Nodes that speak different versions of the frames speak the lower one to each other, and all works.
func TestWireSkew(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	speaks := map[string]int{"c1": wireVersion, "c2": wireVersion + 1, "c3": wireVersion + 2, "f1": wireVersion + 1}
	r.configure = func(c *Config) { c.hooks.wire = speaks[c.NodeID] }
	r.grow(3, 1)
	ctx := testContext(t)
	for from, n := range r.nodes {
		for to, peer := range r.nodes {
			if from == to {
				continue
			}
			l, err := n.links.get(ctx, to, peer.Address())
			if err != nil {
				t.Fatal(err)
			}
			if want := min(speaks[from], speaks[to]); l.wire != want {
				t.Errorf("%s to %s: version %d, want %d", from, to, l.wire, want)
			}
		}
		write(t, n, activate("user."+from))
		if _, err := n.Barrier(ctx); err != nil {
			t.Error(err)
		}
	}
	if err := r.waitLeader().Transfer(ctx, ""); err != nil {
		t.Error(err)
	}
	r.equalDigests()
}

// A request that a node does not know is refused in words, and the link goes on; what nobody waits for is passed
// over.
func TestUnknownFrame(t *testing.T) {
	t.Parallel()
	r := startRig(t, 1, 1)
	ctx := testContext(t)
	l, err := r.nodes["f1"].links.get(ctx, "c1", r.nodes["c1"].Address())
	if err != nil {
		t.Fatal(err)
	}
	if err := l.send(200, 0, nil); err != nil {
		t.Fatal(err)
	}
	_, err = l.roundTrip(ctx, 201, func(dst []byte) []byte { return append(dst, "what is to come"...) })
	if classOf(err) != classUnsupported || !strings.Contains(err.Error(), "does not know requests of kind 201: upgrade it") {
		t.Errorf("got %v", err)
	}
	if err := l.call(ctx, "status", struct{}{}, nil); err != nil || !l.alive() {
		t.Errorf("the link was cut: %v", err)
	}
}

// A node that is too old to be spoken to is refused with what to do.
func TestWireTooOld(t *testing.T) {
	t.Parallel()
	r := startRig(t, 1, 1)
	r.kill("f1")
	r.configure = func(c *Config) { c.hooks.wire = minWire - 2 }
	r.open(r.cfgs["f1"])
	r.nodes["c1"].links.drop("f1") // the old link may not have been found broken yet
	_, err := r.nodes["c1"].links.get(testContext(t), "f1", r.nodes["f1"].Address())
	if classOf(err) != classUnsupported || !strings.Contains(err.Error(), "upgrade it by one release at a time") {
		t.Errorf("got %v", err)
	}
}

// A request that came later than what the other end speaks is not sent to it.
func TestFrameSince(t *testing.T) {
	frameSince[250] = wireVersion + 1 // alone: others do not run meanwhile
	t.Cleanup(func() { delete(frameSince, 250) })
	r := startRig(t, 1, 1)
	l, err := r.nodes["f1"].links.get(testContext(t), "c1", r.nodes["c1"].Address())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.roundTrip(testContext(t), 250, nil); classOf(err) != classUnsupported || !strings.Contains(err.Error(), "this needs 2") {
		t.Errorf("got %v", err)
	}
}
