package main

import (
	"testing"
	"time"
)

func TestTurns(t *testing.T) {
	now := time.Now()
	var loop turns
	if s := loop.stuck(now); s != "" {
		t.Errorf("before it began: %s", s)
	}
	loop.turn(now)
	if s := loop.stuck(now.Add(turnLimit)); s != "" {
		t.Error(s)
	}
	if loop.stuck(now.Add(turnLimit+time.Second)) == "" {
		t.Error("a loop that stands still is not noticed")
	}
	loop.turn(now.Add(turnLimit))
	if s := loop.stuck(now.Add(turnLimit + time.Second)); s != "" {
		t.Error(s)
	}
	loop.rest()
	if s := loop.stuck(now.Add(time.Hour)); s != "" {
		t.Errorf("while stopping: %s", s)
	}
}
