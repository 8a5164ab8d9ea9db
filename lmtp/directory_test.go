package lmtp

import (
	"context"
	"slices"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"murder/internal/mbox"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// directory is a map that tests write into. What is in pending becomes visible at a barrier.
type directory struct {
	mu       sync.Mutex
	index    uint64
	entries  map[mbox.Name]mbox.Entry
	pending  []mbox.Entry
	err      error // of barriers
	unsynced bool
	panics   bool
	barriers int
	block    chan struct{} // barriers wait for it
}

func newDirectory(entries ...mbox.Entry) *directory {
	d := &directory{entries: make(map[mbox.Name]mbox.Entry)}
	d.set(entries...)
	return d
}

func active(name mbox.Name, server mbox.Server) mbox.Entry {
	return mbox.Entry{Name: name, Location: mbox.At(server, "default"), State: mbox.Active}
}

func reserved(name mbox.Name, server mbox.Server) mbox.Entry {
	return mbox.Entry{Name: name, Location: mbox.At(server, "default"), State: mbox.Reserved}
}

func shared(name mbox.Name, server mbox.Server, acl mbox.ACL) mbox.Entry {
	e := active(name, server)
	e.ACL = acl
	return e
}

func absentEntry(name mbox.Name) mbox.Entry { return mbox.Entry{Name: name} }

func (d *directory) set(entries ...mbox.Entry) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.setLocked(entries...)
}

func (d *directory) setLocked(entries ...mbox.Entry) {
	for _, e := range entries {
		d.index++
		if e.State == mbox.Absent {
			delete(d.entries, e.Name)
		} else {
			d.entries[e.Name] = e
		}
	}
}

func (d *directory) later(entries ...mbox.Entry) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pending = append(d.pending, entries...)
}

func (d *directory) fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
}

// hold makes barriers wait for block.
func (d *directory) hold(block chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.block = block
}

func (d *directory) panic(on bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.panics = on
}

func (d *directory) asked() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.barriers
}

func (d *directory) Synced() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.panics {
		panic("as asked")
	}
	return !d.unsynced
}

func (d *directory) Barrier(ctx context.Context) (uint64, error) {
	d.mu.Lock()
	d.barriers++
	block := d.block
	d.mu.Unlock()
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		return 0, d.err
	}
	d.setLocked(d.pending...)
	d.pending = nil
	return d.index, nil
}

func (d *directory) View() mbox.View { return (*view)(d) }

// view looks at the directory as it is.
type view directory

func (v *view) Index() uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.index
}

func (v *view) Len() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.entries)
}

func (v *view) Get(name mbox.Name) (mbox.Entry, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	e, ok := v.entries[name]
	return e, ok
}

func (v *view) Ascend(from mbox.Name, yield func(mbox.Entry) bool) {
	v.mu.Lock()
	var all []mbox.Entry
	for _, e := range v.entries {
		if mbox.OrderDB.Compare(e.Name, from) >= 0 {
			all = append(all, e)
		}
	}
	v.mu.Unlock()
	slices.SortFunc(all, func(a, b mbox.Entry) int { return mbox.OrderDB.Compare(a.Name, b.Name) })
	for _, e := range all {
		if !yield(e) {
			return
		}
	}
}
