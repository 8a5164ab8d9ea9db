package chaos

import (
	"context"
	"testing"
	"time"

	"murder/test/harness"
	"murder/test/ledger"
)

// The leader is stopped like a machine that swaps, wakes, and is killed: everybody saw one map.
func TestHistory(t *testing.T) {
	r := newReport(t)
	c := harness.Start(t, harness.Options{})
	k := begin(r, c, r.rand().Uint64())
	k.during("all is well", time.Second)
	l := leaderOf(t, c)
	must(t, c.Pause(l))
	k.under("leader paused", l, 2*time.Second)
	must(t, c.Resume(l))
	k.during(l+" goes on", time.Second)
	l = leaderOf(t, c)
	must(t, c.Kill(l))
	k.under("leader killed", l, 1500*time.Millisecond)
	must(t, c.Start(l))
	k.during(l+" is back", 500*time.Millisecond)
	k.end()
	c.AwaitEqual(t)
}

// The same again and again, with every node, and pauses too short and long enough for an election.
func TestLongHistory(t *testing.T) {
	long(t)
	r := newReport(t)
	c := harness.Start(t, harness.Options{Frontends: 2})
	k := begin(r, c, r.rand().Uint64())
	for _, d := range []time.Duration{200 * time.Millisecond, 450 * time.Millisecond, 700 * time.Millisecond, 5 * time.Second} {
		l := leaderOf(t, c)
		must(t, c.Pause(l))
		k.under("leader paused", l, d)
		must(t, c.Resume(l))
		k.during(l+" goes on", time.Second)
	}
	for _, id := range c.Nodes() {
		must(t, c.Kill(id))
		k.under("node killed", id, time.Second)
		must(t, c.Start(id))
	}
	for range 3 {
		l := leaderOf(t, c)
		must(t, c.Stop(l))
		k.under("leader stopped in order", l, 300*time.Millisecond)
		must(t, c.Start(l))
	}
	k.end()
	c.AwaitEqual(t)
}

// Every node is killed again and again under writes; nothing that was acknowledged is lost.
func TestKillLoop(t *testing.T) {
	long(t)
	r := newReport(t)
	c := harness.Start(t, harness.Options{Frontends: 2})
	l := ledger.Start(8, c.Addrs("mupdate"), admin, password)
	defer l.Stop()
	goOn := func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		must(t, l.Await(ctx, 50))
	}
	goOn()
	for range 3 {
		for _, id := range c.Nodes() {
			must(t, c.Kill(id))
			r.fault("node killed")
			goOn()
			must(t, c.Start(id))
		}
		victim := leaderOf(t, c)
		must(t, c.Kill(victim))
		r.fault("leader killed")
		must(t, c.Start(victim))
		goOn()
	}
	l.Stop()
	r.promised(l)
	_, _, gap := l.Summary()
	t.Logf("longest pause %s", gap.Round(time.Millisecond))
	for _, addr := range c.Addrs("mupdate") {
		r.check(l.Check(t.Context(), addr))
	}
	c.AwaitEqual(t)
}
