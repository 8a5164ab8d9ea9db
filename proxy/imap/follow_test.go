package imap

import (
	"context"
	"testing"
	"time"

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

// heldMap tells of no change while it is held.
type heldMap struct {
	*memory
	held <-chan struct{}
}

func (m heldMap) Changes(ctx context.Context, after uint64) ([]mbox.Change, uint64, error) {
	select {
	case <-m.held:
		return m.memory.Changes(ctx, after)
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	}
}

// While the tables of who is let in where are behind the map, LIST waits for them: without shared mailboxes the answer
// would be wrong, and a walk of a large map for everybody who asks would keep the tables from ever being built. What
// is the user's own waits for nothing.
func TestListWaitsForGrants(t *testing.T) {
	t.Parallel()
	var held chan struct{}
	behind := func(cfg *Config) {
		held = make(chan struct{})
		cfg.Directory = heldMap{cfg.Directory.(*memory), held}
	}
	inVirtualTime(t, rigOptions{config: []func(*Config){behind}}, func(t *testing.T, r *rig) {
		d := r.login("A", "alice")
		d.send(`x LIST "" "Shared Folders/*"`)
		d.until("x")
		r.dir.set("new", "b2!default", "anyone\tlr\t")
		takes(t, atOnce, atOnce, "an own folder", func() {
			d.send(`o LIST INBOX/ "*"`)
			d.until("o")
		})
		takes(t, grantsLimit, grantsLimit+time.Second, "a list that does not come", func() {
			d.send(`y LIST "" "Shared Folders/*"`)
			d.expect("y NO [UNAVAILABLE]...")
		})
		time.AfterFunc(5*time.Second, func() { close(held) })
		takes(t, 5*time.Second, 6*time.Second, "one that comes late", func() {
			d.send(`z LIST "" "Shared Folders/n*"`)
			d.expect(`* LIST (\HasNoChildren) "/" "Shared Folders/new"`)
			d.expect("z OK ...")
		})
	})
}
