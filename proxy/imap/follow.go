package imap

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"murder/internal/mbox"
)

// follower is the one watcher of the map in a server. It keeps three things that a View cannot
// answer cheaply: how many mailboxes each location holds (for placement), who is let into
// mailboxes not their own (for LIST), and which sessions have which mailbox selected.
type follower struct {
	dir Directory

	mu       sync.Mutex
	index    uint64        // what the tables reflect; 0 before the first complete pass
	moved    chan struct{} // closed and replaced at every step
	watchers map[mbox.Name]map[*session]mbox.Server
	*tables
}

// tables are what a follower keeps of the map.
type tables struct {
	ns      mbox.Namespace
	counts  map[mbox.Location]int
	grants  map[string]*grant      // by identifier
	granted map[mbox.Name][]string // the reverse, to take grants back
}

// grant is the mailboxes of others with "l" for one identifier.
type grant struct {
	names  map[mbox.Name]struct{}
	sorted []mbox.Name // the same in the order of the map, never changed in place; nil if it is not known
}

func newFollower(dir Directory, ns mbox.Namespace) *follower {
	return &follower{dir: dir, moved: make(chan struct{}), watchers: make(map[mbox.Name]map[*session]mbox.Server),
		tables: newTables(ns)}
}

func newTables(ns mbox.Namespace) *tables {
	return &tables{
		ns:      ns,
		counts:  make(map[mbox.Location]int),
		grants:  make(map[string]*grant),
		granted: make(map[mbox.Name][]string),
	}
}

// run follows until ctx ends.
func (f *follower) run(ctx context.Context) {
	for ctx.Err() == nil {
		at := f.rebuild()
		for {
			changes, next, err := f.dir.Changes(ctx, at)
			if err != nil {
				if !errors.Is(err, mbox.ErrLagged) {
					// Not synchronised yet, or stopping.
					select {
					case <-time.After(200 * time.Millisecond):
					case <-ctx.Done():
					}
				}
				break
			}
			f.apply(changes, next)
			at = next
		}
	}
}

// rebuild takes everything from a fresh copy of the map. Until it is complete, the old tables serve.
func (f *follower) rebuild() uint64 {
	view := f.dir.View()
	t := newTables(f.ns)
	view.Ascend("", func(e mbox.Entry) bool {
		t.count(e.Location, 1)
		t.grant(e)
		return true
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tables = t
	now := f.dir.View() // a session may have selected by a newer one meanwhile
	for name := range f.watchers {
		e, _ := now.Get(name)
		f.notify(e, name)
	}
	f.step(view.Index())
	return view.Index()
}

func (f *follower) apply(changes []mbox.Change, index uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range changes {
		f.count(c.Old, -1)
		if c.State != mbox.Absent {
			f.count(c.Location, 1)
		}
		// A mailbox that is being moved has no ACL meanwhile, and keeps its readers.
		if !c.Transfer {
			f.revoke(c.Name)
			f.grant(c.Entry)
		}
		f.notify(c.Entry, c.Name)
	}
	f.step(index)
}

func (f *follower) step(index uint64) {
	f.index = index
	close(f.moved)
	f.moved = make(chan struct{})
}

func (t *tables) grant(e mbox.Entry) {
	owner, owned := t.ns.Owner(e.Name)
	e.ACL.Entries(func(id, rights string) bool {
		if strings.HasPrefix(id, "-") || owned && id == string(owner) || !strings.Contains(rights, "l") {
			return true
		}
		g := t.grants[id]
		if g == nil {
			g = &grant{names: make(map[mbox.Name]struct{})}
			t.grants[id] = g
		}
		g.names[e.Name], g.sorted = struct{}{}, nil
		t.granted[e.Name] = append(t.granted[e.Name], id)
		return true
	})
}

func (t *tables) count(l mbox.Location, by int) {
	if l == "" {
		return
	}
	if t.counts[l] += by; t.counts[l] <= 0 {
		delete(t.counts, l)
	}
}

func (t *tables) revoke(name mbox.Name) {
	for _, id := range t.granted[name] {
		g := t.grants[id]
		delete(g.names, name)
		if g.sorted = nil; len(g.names) == 0 {
			delete(t.grants, id)
		}
	}
	delete(t.granted, name)
}

// notify tells the sessions that have a mailbox selected on a server where it is no more.
func (f *follower) notify(e mbox.Entry, name mbox.Name) {
	for s, server := range f.watchers[name] {
		if e.State == mbox.Active && e.Location.Server() != server {
			s.mailboxMoved()
		}
	}
}

// watch registers what a session has selected, in place of what it had.
func (f *follower) watch(s *session, name mbox.Name, server mbox.Server) {
	f.unwatch(s)
	s.selName = name
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.watchers[name] == nil {
		f.watchers[name] = make(map[*session]mbox.Server)
	}
	f.watchers[name][s] = server
	if e, ok := f.dir.View().Get(name); ok { // it may have been moved while it was being selected
		f.notify(e, name)
	}
}

func (f *follower) unwatch(s *session) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if set := f.watchers[s.selName]; set != nil {
		delete(set, s)
		if len(set) == 0 {
			delete(f.watchers, s.selName)
		}
	}
}

// reach waits until the tables reflect index, which a committed change is sure to bring about.
func (f *follower) reach(ctx context.Context, index uint64) bool {
	for {
		f.mu.Lock()
		at, moved := f.index, f.moved
		f.mu.Unlock()
		if at >= index {
			return true
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return false
		}
	}
}

// next returns a channel that is closed at the next step.
func (f *follower) next() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.moved
}

// others returns the mailboxes, not of the user's own tree, that some entry of their ACL lets the
// user look up, in the order of the map. A negative entry may still deny it.
func (f *follower) others(user mbox.UserID, groups []string) []mbox.Name {
	list := merge(f.grantedTo("anyone"), f.grantedTo(string(user)))
	for _, g := range groups {
		list = merge(list, f.grantedTo("group:"+g))
	}
	return list
}

// grantedTo returns those of one identifier. They are sorted at most once for each change, and without the lock.
func (f *follower) grantedTo(id string) []mbox.Name {
	f.mu.Lock()
	g, at := f.grants[id], f.index
	if g == nil || g.sorted != nil {
		defer f.mu.Unlock()
		if g == nil {
			return nil
		}
		return g.sorted
	}
	list := slices.AppendSeq(make([]mbox.Name, 0, len(g.names)), maps.Keys(g.names))
	f.mu.Unlock()
	slices.SortFunc(list, mbox.OrderDB.Compare)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.index == at {
		g.sorted = list
	}
	return list
}

// merge returns what is in one of two sorted lists; it changes neither.
func merge(a, b []mbox.Name) []mbox.Name {
	if len(a) == 0 {
		return b
	}
	if len(b) == 0 {
		return a
	}
	list := make([]mbox.Name, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		switch c := mbox.OrderDB.Compare(a[0], b[0]); {
		case c < 0:
			list, a = append(list, a[0]), a[1:]
		case c > 0:
			list, b = append(list, b[0]), b[1:]
		default:
			list, a, b = append(list, a[0]), a[1:], b[1:]
		}
	}
	return append(append(list, a...), b...)
}

// population returns the servers in the map with the number of their mailboxes.
func (f *follower) population() map[mbox.Server]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := make(map[mbox.Server]int)
	for l, n := range f.counts {
		if s := l.Server(); s != "" {
			m[s] += n
		}
	}
	return m
}

// holds reports whether any mailbox is at a location, such as a server's partition.
func (f *follower) holds(l mbox.Location) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.counts[l] > 0
}
