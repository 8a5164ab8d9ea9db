package mupdate

import (
	"context"
	"maps"
	"slices"
	"sync"

	"murder/internal/mbox"
)

// memory is a Directory in one process: the rules about who may hold a name, a log of changes, and
// switches to take its quorum away.
type memory struct {
	mu          sync.Mutex
	records     map[mbox.Name]mbox.Entry
	owners      map[mbox.Name]mbox.Server // of deleted names
	ended       map[string]bool           // sessions
	began       map[mbox.Name]string      // session that began a transfer
	contest     map[mbox.Name]bool        // the conflict register
	left        map[mbox.Name]mbox.Server // where a leftover may be
	unconfirmed []mbox.Name               // what ends of sessions named
	ends        []mbox.SessionFlags       // what they said of how it ended
	log         []mbox.Change
	index       uint64
	first       uint64        // changes up to it are no longer kept
	moved       chan struct{} // closed at every change

	writeErr, barrierErr error
	unsynced             bool
	forgetful            bool          // of deleted names
	batches              []int         // sizes of the Write calls
	gate                 chan struct{} // when set, Write waits for it
	barriers             int
}

func newMemory() *memory {
	return &memory{
		records: map[mbox.Name]mbox.Entry{}, owners: map[mbox.Name]mbox.Server{}, ended: map[string]bool{},
		began: map[mbox.Name]string{}, contest: map[mbox.Name]bool{}, left: map[mbox.Name]mbox.Server{}, moved: make(chan struct{}),
	}
}

func (m *memory) Synced() bool { m.mu.Lock(); defer m.mu.Unlock(); return !m.unsynced }

func (m *memory) Barrier(ctx context.Context) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.barriers++
	// Like a real log, which holds entries that are no changes.
	return m.index + 1000, m.barrierErr
}

func (m *memory) asked() int { m.mu.Lock(); defer m.mu.Unlock(); return m.barriers }

func (m *memory) Write(ctx context.Context, writes []mbox.Write) ([]mbox.Verdict, error) {
	m.mu.Lock()
	gate := m.gate
	m.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return nil, mbox.ErrUnknownOutcome
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.writeErr != nil {
		return nil, m.writeErr
	}
	m.batches = append(m.batches, len(writes))
	verdicts := make([]mbox.Verdict, len(writes))
	for i, w := range writes {
		m.index++
		verdicts[i] = m.decide(w)
		verdicts[i].Index = m.index
	}
	close(m.moved)
	m.moved = make(chan struct{})
	return verdicts, nil
}

func (m *memory) put(e mbox.Entry) {
	old := m.records[e.Name].Location
	e.Index = m.index
	if e.State == mbox.Absent {
		m.owners[e.Name] = old.Server()
		delete(m.records, e.Name)
	} else {
		m.records[e.Name] = e
	}
	m.log = append(m.log, mbox.Change{Entry: e, Old: old})
}

// decide is the reply matrix.
func (m *memory) decide(w mbox.Write) mbox.Verdict {
	if w.Kind == mbox.EndSession {
		m.ends = append(m.ends, w.By.Flags&(mbox.LoggedOut|mbox.RenameRefused))
		if w.By.Flags&mbox.RenameRefused != 0 {
			return mbox.Verdict{}
		}
		m.ended[w.By.ID] = true
		m.unconfirmed = append(m.unconfirmed, w.Name)
		for _, name := range slices.Sorted(maps.Keys(m.records)) {
			if e := m.records[name]; e.State == mbox.Reserved && !e.Transfer && m.began[name] == w.By.ID {
				m.put(mbox.Entry{Name: name}) // the lease, without its time
			}
		}
		return mbox.Verdict{}
	}
	e := m.records[w.Name]
	verdict := func(o mbox.Outcome) mbox.Verdict { return mbox.Verdict{Outcome: o, Holder: e.Location} }
	same := e.Location.Server() == w.Location.Server()
	samePlace := same && (e.Location.Partition() == w.Location.Partition() || w.Location.Partition() == "" || e.Location.Partition() == "")
	has := func(f mbox.SessionFlags) bool { return w.By.Flags&f != 0 }
	next := mbox.Entry{Name: w.Name, Location: w.Location, ACL: w.ACL}
	switch w.Kind {
	case mbox.Reserve:
		switch {
		case e.State == mbox.Active && !samePlace, e.State == mbox.Reserved && !same:
			return verdict(mbox.Exists)
		case e.State == mbox.Active:
			return verdict(mbox.Done)
		}
		next.State, next.Transfer = mbox.Reserved, e.Transfer
		m.began[w.Name] = w.By.ID
		if next.Location != e.Location {
			m.put(next)
		}
	case mbox.Activate:
		switch {
		case e.State != mbox.Absent && !same && e.Transfer && has(mbox.Sync) && !has(mbox.CompleteTransfer):
			return verdict(mbox.InTransfer)
		case e.State != mbox.Absent && !same && !e.Transfer && !has(mbox.Permissive|mbox.Takeover):
			m.contest[w.Name] = true
			return verdict(mbox.Conflict)
		case e.State == mbox.Absent && has(mbox.Sync) && has(mbox.Unified) && m.owners[w.Name] != "" && m.owners[w.Name] != w.Location.Server():
			return mbox.Verdict{Outcome: mbox.Outdated, Holder: mbox.At(m.owners[w.Name], "p")}
		}
		if next.State = mbox.Active; e.Transfer && !same {
			m.left[w.Name] = e.Location.Server()
		}
		if e.State != mbox.Active || e.Location != next.Location || e.ACL != next.ACL {
			m.put(next)
		}
	case mbox.Deactivate:
		switch {
		case e.State == mbox.Absent:
			return verdict(mbox.NotExist)
		case e.State == mbox.Reserved && e.Transfer && same:
			return verdict(mbox.Done)
		case e.State == mbox.Reserved:
			return verdict(mbox.NotActive)
		case !same:
			return verdict(mbox.Conflict)
		}
		next.State, next.Transfer, next.ACL = mbox.Reserved, true, ""
		m.began[w.Name] = w.By.ID
		m.put(next)
	case mbox.Delete:
		switch owner, dead := m.owners[w.Name]; {
		case e.State == mbox.Absent && has(mbox.DenyUnknownDelete) && !(dead && slices.Contains(w.By.Servers, owner)):
			return verdict(mbox.NotExist)
		case e.State == mbox.Absent:
			return verdict(mbox.Done)
		case len(w.By.Servers) == 0 && has(mbox.DenyUnboundDelete):
			return verdict(mbox.Unbound)
		case len(w.By.Servers) > 0 && !slices.Contains(w.By.Servers, e.Location.Server()) && !has(mbox.Permissive):
			return verdict(mbox.Conflict)
		}
		m.put(mbox.Entry{Name: w.Name})
	}
	return verdict(mbox.Done)
}

func (m *memory) Changes(ctx context.Context, after uint64) ([]mbox.Change, uint64, error) {
	for {
		m.mu.Lock()
		if after < m.first {
			m.mu.Unlock()
			return nil, 0, mbox.ErrLagged
		}
		if m.index > after {
			i, _ := slices.BinarySearchFunc(m.log, after+1, func(c mbox.Change, at uint64) int { return int(c.Index) - int(at) })
			changes, index := slices.Clone(m.log[i:]), m.index
			m.mu.Unlock()
			return changes, index, nil
		}
		moved := m.moved
		m.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		}
	}
}

// have puts a record there as a precondition.
func (m *memory) have(entries ...mbox.Entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range entries {
		m.index++
		m.put(e)
	}
	close(m.moved)
	m.moved = make(chan struct{})
}

func (m *memory) View() mbox.View {
	m.mu.Lock()
	defer m.mu.Unlock()
	v := &memoryView{index: m.index, records: maps.Clone(m.records), contest: maps.Clone(m.contest), left: maps.Clone(m.left), orphans: map[mbox.Name]bool{}, forgetful: m.forgetful}
	for name, session := range m.began {
		v.orphans[name] = m.ended[session]
	}
	for name := range m.owners {
		v.gone = append(v.gone, name)
	}
	for name := range v.records {
		v.names = append(v.names, name)
	}
	slices.SortFunc(v.names, mbox.OrderDB.Compare)
	slices.SortFunc(v.gone, mbox.OrderDB.Compare)
	return v
}

type memoryView struct {
	index            uint64
	records          map[mbox.Name]mbox.Entry
	names, gone      []mbox.Name
	forgetful        bool
	contest, orphans map[mbox.Name]bool
	left             map[mbox.Name]mbox.Server
}

func (v *memoryView) Index() uint64                            { return v.index }
func (v *memoryView) Len() int                                 { return len(v.names) }
func (v *memoryView) InConflict(n mbox.Name) bool              { return v.contest[n] }
func (v *memoryView) TransferOrphaned(n mbox.Name) bool        { return v.orphans[n] }
func (v *memoryView) Leftover(n mbox.Name, s mbox.Server) bool { return s != "" && v.left[n] == s }
func (v *memoryView) DeletedNames(yield func(mbox.Name) bool) bool {
	slices.Values(v.gone)(yield)
	return !v.forgetful
}
func (v *memoryView) Get(n mbox.Name) (e mbox.Entry, ok bool) { e, ok = v.records[n]; return e, ok }
func (v *memoryView) Ascend(from mbox.Name, yield func(mbox.Entry) bool) {
	for _, n := range v.names {
		if mbox.OrderDB.Compare(n, from) >= 0 && !yield(v.records[n]) {
			return
		}
	}
}
