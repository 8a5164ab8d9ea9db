package chaos

import (
	"slices"
	"testing"
	"time"

	"murder/test/harness"
)

// Packets are lost, one way and both ways, and late, between real processes in networks of their own.
func TestPartitions(t *testing.T) {
	long(t)
	if !alone(t) {
		return
	}
	r := newReport(t)
	rnd := r.rand()
	sh(t, "ip link set lo up")
	c := harness.Start(t, harness.Options{})
	w := separate(t, c, rnd)
	k := begin(r, c, rnd.Uint64())
	others := func(l string) []string {
		return slices.DeleteFunc(c.Coordinators(), func(id string) bool { return id == l })
	}
	const d = 2 * time.Second
	for _, f := range []struct {
		what string
		cut  func(l string)
	}{
		{"leader cut off from all", func(l string) { w.cutBoth(l, append(others(l), "f1")...) }},
		{"leader reaches only the learner", func(l string) { w.cutBoth(l, others(l)...) }},
		{"leader is not heard", func(l string) { w.cut(l, others(l)...) }},
		{"leader hears nobody", func(l string) { w.cut(others(l)[0], l); w.cut(others(l)[1], l) }},
		{"leader and one follower apart", func(l string) { w.cutBoth(l, others(l)[0]) }},
		{"followers apart", func(l string) { w.cutBoth(others(l)[0], others(l)[1]) }},
		{"learner cut off", func(string) { w.cutBoth("f1", c.Coordinators()...) }},
		{"all apart", func(l string) { w.cutBoth(l, others(l)...); w.cutBoth(others(l)[0], others(l)[1]) }},
		{"leader paused while cut off", func(l string) { w.cutBoth(l, others(l)...); must(t, c.Pause(l)) }},
		{"everything late", func(string) { w.everywhere(rule{delay: 20 * time.Millisecond, jitter: 20 * time.Millisecond}) }},
		{"much lost", func(string) { w.everywhere(rule{loss: .05}) }},
	} {
		l := leaderOf(t, c)
		f.cut(l)
		k.under(f.what, l, d)
		w.heal()
		must(t, c.Resume(l))
		k.during("healed", d/2)
	}
	k.during("the end", d)
	k.end()
	c.AwaitEqual(t)
	// Nobody has taken a network that was gone for a process that has ended.
	for _, id := range c.Coordinators() {
		m, err := c.Metrics(t.Context(), id)
		must(t, err)
		if n := m["murder_stand_ins_total"]; n != 0 {
			r.violation("%s stood in %v times although no process has ended", id, n)
		}
	}
}

// A build whose reads ask nobody is found out: the histories that all the other tests check can fail.
func TestBrokenBuildIsFoundOut(t *testing.T) {
	long(t)
	if !alone(t, "broken") {
		return
	}
	r := newReport(t)
	rnd := r.rand()
	sh(t, "ip link set lo up")
	c := harness.Start(t, harness.Options{})
	w := separate(t, c, rnd)
	k := begin(r, c, rnd.Uint64())
	k.during("all is well", time.Second)
	w.cutBoth("f1", c.Coordinators()...)
	k.under("learner cut off", "f1", 2*time.Second)
	w.heal()
	k.during("healed", time.Second)
	if err := k.judge(); err == nil {
		t.Error("reads from a copy that nobody confirmed were not found out")
	} else {
		r.foundOut = true
		t.Logf("found out, as it should be: %.200s", err)
	}
}
