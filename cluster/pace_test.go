package cluster

import (
	"testing"
	"time"
)

func TestPace(t *testing.T) {
	t.Parallel()
	var p pace
	begun := time.Now()
	at := func(after time.Duration, last uint64) float64 {
		rate, ok := p.entries(begun.Add(after), last)
		if !ok {
			return -1
		}
		return rate
	}
	if got := at(0, 1000); got != -1 {
		t.Errorf("known at once: %v", got)
	}
	if got := at(100*time.Second, 2000); got != 10 {
		t.Errorf("%v entries a second, want 10", got)
	}
	for s := range 7 { // nothing since
		at(time.Duration(100+200*(s+1))*time.Second, 2000)
	}
	if got := at(1600*time.Second, 2000); got != 0 {
		t.Errorf("%v entries a second after a time without any", got)
	}
	if len(p.points) > 10 {
		t.Errorf("%d points are kept", len(p.points))
	}
}
