package imap

import (
	"context"
	"testing"

	"murder/internal/mbox"
)

// slowMap is a map whose walk takes as long as a test wants.
type slowMap struct {
	*memory
	walking, onward chan struct{}
}

type slowView struct {
	mbox.View
	m *slowMap
}

func (m *slowMap) View() mbox.View { return slowView{m.memory.View(), m} }

func (v slowView) Ascend(from mbox.Name, yield func(mbox.Entry) bool) {
	v.m.walking <- struct{}{}
	<-v.m.onward
	v.View.Ascend(from, yield)
}

func (m *slowMap) Changes(ctx context.Context, after uint64) ([]mbox.Change, uint64, error) {
	return nil, 0, mbox.ErrLagged
}

// While a large map is walked anew, nobody waits for it: listings and placement go by what was known before.
func TestWalkOfTheMapStopsNobody(t *testing.T) {
	m := &slowMap{memory: newMemory(), walking: make(chan struct{}), onward: make(chan struct{})}
	m.set("user.bob", "b1!default", "bob\tl\tanyone\tl\t")
	f := newFollower(m, mbox.Namespace{})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); f.run(ctx) }()
	<-m.walking
	m.onward <- struct{}{}
	<-m.walking // the second, in which it stops
	if f.population()["b1"] != 1 || len(f.others("alice", nil)) != 1 || !f.holds("b1!default") {
		t.Error("what was known before has been forgotten")
	}
	cancel()
	m.onward <- struct{}{}
	<-ended
}
