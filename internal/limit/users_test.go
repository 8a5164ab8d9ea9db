package limit

import "testing"

func TestUsers(t *testing.T) {
	var none *Users
	for _, u := range []*Users{none, NewUsers(0)} {
		if !u.Acquire("a") || !u.Acquire("a") {
			t.Error("refused without a limit")
		}
		u.Release("a")
	}
	u := NewUsers(1)
	if !u.Acquire("a") || u.Acquire("a") || !u.Acquire("b") {
		t.Error("one for each, and no more")
	}
	u.Release("a")
	if !u.Acquire("a") || len(u.counts) != 2 {
		t.Error("a place that was given back is free")
	}
	u.Release("a")
	u.Release("b")
	if len(u.counts) != 0 {
		t.Error("users are remembered for ever")
	}
}
