package imap

import (
	"context"
	"slices"
	"sync"

	"murder/internal/mbox"
)

// memory is a Directory in one process, with switches to take its quorum away.
type memory struct {
	mu        sync.Mutex
	view      *memoryView
	log       []mbox.Change
	indexes   []uint64
	moved     chan struct{}
	down      bool // no quorum
	hangs     bool // no quorum, and nobody who says so
	unsynced  bool
	barriers  int
	onBarrier func() // runs before a barrier returns
}

// memoryView is a View over a sorted slice.
type memoryView struct {
	index   uint64
	entries []mbox.Entry
}

func newMemory() *memory { return &memory{view: &memoryView{}, moved: make(chan struct{})} }

func (v *memoryView) Index() uint64 { return v.index }
func (v *memoryView) Len() int      { return len(v.entries) }

func (v *memoryView) find(n mbox.Name) (int, bool) {
	return slices.BinarySearchFunc(v.entries, n, func(e mbox.Entry, n mbox.Name) int { return mbox.OrderDB.Compare(e.Name, n) })
}

func (v *memoryView) Get(n mbox.Name) (mbox.Entry, bool) {
	if i, ok := v.find(n); ok {
		return v.entries[i], true
	}
	return mbox.Entry{}, false
}

func (v *memoryView) Ascend(from mbox.Name, yield func(mbox.Entry) bool) {
	i, _ := v.find(from)
	for ; i < len(v.entries) && yield(v.entries[i]); i++ {
	}
}

func (m *memory) Synced() bool { m.mu.Lock(); defer m.mu.Unlock(); return !m.unsynced }

func (m *memory) View() mbox.View { m.mu.Lock(); defer m.mu.Unlock(); return m.view }

func (m *memory) Barrier(ctx context.Context) (uint64, error) {
	m.mu.Lock()
	m.barriers++
	down, hangs, hook := m.down, m.hangs, m.onBarrier
	m.mu.Unlock()
	if hangs {
		<-ctx.Done()
		return 0, mbox.ErrUnavailable
	}
	if down {
		return 0, mbox.ErrUnavailable
	}
	if hook != nil {
		hook()
	}
	return m.View().Index(), nil
}

// count is how often somebody has waited for the map.
func (m *memory) count() int { m.mu.Lock(); defer m.mu.Unlock(); return m.barriers }

func (m *memory) Changes(ctx context.Context, after uint64) ([]mbox.Change, uint64, error) {
	for {
		m.mu.Lock()
		moved := m.moved
		var list []mbox.Change
		for i, c := range m.log {
			if m.indexes[i] > after {
				list = append(list, c)
			}
		}
		index := m.view.index
		m.mu.Unlock()
		if index > after {
			return list, index, nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		}
	}
}

func (m *memory) Write(ctx context.Context, writes []mbox.Write) ([]mbox.Verdict, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down {
		return nil, mbox.ErrUnavailable
	}
	var verdicts []mbox.Verdict
	for _, w := range writes {
		e, _ := m.view.Get(w.Name)
		next := mbox.Entry{Name: w.Name, Location: w.Location, ACL: w.ACL}
		outcome := mbox.Done
		switch w.Kind {
		case mbox.Reserve:
			next.State = mbox.Reserved
			if e.State == mbox.Active {
				outcome = mbox.Exists
			}
		case mbox.Activate:
			next.State = mbox.Active
		case mbox.Deactivate:
			next.State, next.Transfer = mbox.Reserved, true
		case mbox.Remove:
			if e.Index != w.IfIndex {
				outcome = mbox.Changed
			}
		case mbox.EndSession:
			outcome = mbox.NotProcessed
		}
		if outcome == mbox.Done {
			m.put(next)
		}
		verdicts = append(verdicts, mbox.Verdict{Outcome: outcome, Holder: e.Location, Index: m.view.index})
	}
	return verdicts, nil
}

// put changes one record; an Absent one is deleted.
func (m *memory) put(e mbox.Entry) {
	v := &memoryView{index: m.view.index + 1, entries: slices.Clone(m.view.entries)}
	e.Index = v.index
	var old mbox.Location
	i, ok := v.find(e.Name)
	if ok {
		old = v.entries[i].Location
	}
	switch {
	case e.State == mbox.Absent && ok:
		v.entries = slices.Delete(v.entries, i, i+1)
	case e.State == mbox.Absent:
	case ok:
		v.entries[i] = e
	default:
		v.entries = slices.Insert(v.entries, i, e)
	}
	m.view = v
	m.log = append(m.log, mbox.Change{Entry: e, Old: old})
	m.indexes = append(m.indexes, v.index)
	close(m.moved)
	m.moved = make(chan struct{})
}

// set puts an active record.
func (m *memory) set(name mbox.Name, at mbox.Location, acl mbox.ACL) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.put(mbox.Entry{Name: name, Location: at, ACL: acl, State: mbox.Active})
}
