package cluster

import "testing"

// A lock that is not given back is noticed, and so is that it was in the end.
func TestPulse(t *testing.T) {
	t.Parallel()
	n := startRig(t, 1, 0).nodes["c1"]
	r := &rig{t: t}
	if h := n.Live(); !h.OK {
		t.Fatalf("%+v", h)
	}
	n.replica.mu.Lock()
	r.eventually("not alive", func() bool { return !n.Live().OK })
	n.replica.mu.Unlock()
	r.eventually("alive again", func() bool { return n.Live().OK })
}
