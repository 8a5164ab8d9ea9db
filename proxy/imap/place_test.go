package imap

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"murder/internal/mbox"
)

func TestPlacement(t *testing.T) {
	for _, test := range []struct {
		place Placement
		want  map[mbox.Server][2]int // how often first of 200: from, to
	}{
		{Placement{Policy: LeastMailboxes}, map[mbox.Server][2]int{"b1": {200, 200}}},
		{Placement{Policy: RoundRobin}, map[mbox.Server][2]int{"b1": {100, 100}}},
		{Placement{Policy: Random}, map[mbox.Server][2]int{"b1": {50, 150}}},
		{Placement{Policy: Weighted, Weights: map[mbox.Server]int{"b1": 9}}, map[mbox.Server][2]int{"b1": {150, 199}, "b2": {1, 50}}},
		{Placement{Policy: Weighted, Weights: map[mbox.Server]int{"b1": 0}}, map[mbox.Server][2]int{"b2": {200, 200}}},
		{Placement{Policy: FreeSpace}, map[mbox.Server][2]int{"b1": {200, 200}}},
		{Placement{Policy: FreePercent}, map[mbox.Server][2]int{"b2": {200, 200}}},
		{Placement{Policy: FreePercentRand}, map[mbox.Server][2]int{"b2": {150, 199}}},
		{Placement{Policy: FreePercentDelta}, map[mbox.Server][2]int{"b1": {0, 20}, "b2": {180, 200}}},
		{Placement{Policy: Random, FullAt: 80}, map[mbox.Server][2]int{"b2": {200, 200}}},
		{Placement{Policy: Random, FullAt: 5}, map[mbox.Server][2]int{"b1": {50, 150}}}, // all are full
		{Placement{Policy: FreePercent, Rules: []Rule{{Domain: "example.com", Servers: []mbox.Server{"b2"}}, {Match: regexp.MustCompile(`^user\.n`), Servers: []mbox.Server{"b1"}}}},
			map[mbox.Server][2]int{"b1": {200, 200}}},
		{Placement{Policy: Explicit, Rules: []Rule{{Servers: []mbox.Server{"b1"}}}}, map[mbox.Server][2]int{"b1": {200, 200}}},
		{Placement{Policy: Random, Accept: func(s mbox.Server) bool { return s != "b2" }}, map[mbox.Server][2]int{"b1": {200, 200}}},
		{Placement{Servers: []mbox.Server{"b2"}}, map[mbox.Server][2]int{"b2": {200, 200}}},
	} {
		r := newRig(t, func(c *Config) { c.Placement = test.place })
		r.srv.place.learn("b1", space{free: 1000, total: 10000})
		r.srv.place.learn("b2", space{free: 900, total: 1000})
		eventually(t, "the follower knows both", func() bool { return len(r.srv.follow.population()) == 2 })
		count := map[mbox.Server]int{}
		for range 200 {
			count[r.srv.place.order(r.srv, "user.new")[0]]++
		}
		for server, want := range test.want {
			if n := count[server]; n < want[0] || n > want[1] {
				t.Errorf("%+v: %s was first %d times, want %v", test.place, server, n, want)
			}
		}
	}
}

// 44: a backend that drains gets no new users, however they are placed; one that is down neither.
func TestDrainingGetsNobody(t *testing.T) {
	for _, policy := range slices.DeleteFunc(slices.Clone(Policies), func(p Policy) bool { return p == Explicit }) {
		draining := func(server mbox.Server) bool { return server != "b2" }
		r := newRig(t, func(c *Config) { c.Placement = Placement{Policy: policy, Accept: draining} })
		d := r.login("A", "cyrus")
		for i := range 20 {
			d.send(fmt.Sprintf("x CREATE user/n%d", i))
			if got := d.until("x"); !strings.HasPrefix(got[0], "x OK") {
				t.Fatalf("%s: %q", policy, got)
			}
		}
		if r.stubs["b2"].saw(": CREATE") {
			t.Errorf("%s: a draining backend got a user", policy)
		}
		r.stubs["b1"].stop()
		d.send("x CREATE user/other")
		d.expect("x NO [UNAVAILABLE] ...")
	}
	r := newRig(t, func(c *Config) { c.Placement = Placement{Policy: RoundRobin} })
	r.stubs["b1"].stop()
	d := r.login("A", "cyrus")
	for i := range 4 {
		d.send(fmt.Sprintf("x CREATE user/n%d", i))
		if got := d.until("x"); !strings.HasPrefix(got[0], "x OK") {
			t.Fatalf("%q", got)
		}
	}
}

// Where only the administrator decides, he is asked to.
func TestExplicitPlacement(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Placement.Policy = Explicit })
	d := r.login("A", "cyrus")
	d.send("x CREATE user/new")
	d.expect("x NO [CANNOT] Say on which server...")
	d.send("x CREATE user/new b2")
	d.expect("x OK ...")
	d.send("x CREATE user/new/folder")
	d.expect("x OK ...")
}

// Free space comes from the backends by itself.
func TestFreeSpace(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Placement.Policy = FreeSpace; c.ProbeInterval = 10 * time.Millisecond })
	r.stubs["b2"].mu.Lock()
	r.stubs["b2"].free = "5000;9000"
	r.stubs["b2"].mu.Unlock()
	eventually(t, "free space is known", func() bool { return r.srv.place.of("b2") == space{5000, 9000} })
}

// A new user gets one INBOX, wherever and however often he logs in, and an administrator none.
func TestAutocreate(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Autocreate = true; c.Placement.Servers = []mbox.Server{"b2"} })
	for i := range 3 {
		d := r.login(fmt.Sprint("d", i), "denied")
		d.send(`a LIST "" "*"`)
		if lines := d.until("a"); !slices.Contains(lines, `* LIST (\HasNoChildren) "/" INBOX`) && i > 0 {
			t.Errorf("%q", lines)
		}
		r.login(fmt.Sprint("c", i), "cyrus")
	}
	if e, ok := r.dir.View().Get("user.denied"); !ok || e.Location.Server() != "b2" {
		t.Errorf("%+v", e)
	}
	if _, ok := r.dir.View().Get("user.cyrus"); ok {
		t.Error("the administrator has an INBOX")
	}
	n := 0
	for _, seen := range r.stubs["b2"].commands() {
		if seen == ": CREATE user/denied" {
			n++
		}
	}
	if n != 1 {
		t.Errorf("created %d times", n)
	}
}
