package fsm

import (
	"strings"

	"murder/internal/mbox"
)

// Reservations and the sessions behind them. A name that is being created is leased to its session:
// any write of the session renews all its names, the end of the session shortens them, and Tick lets
// them go. A name in transfer never runs out.

// Places of the two kinds of holds in the index by session.
const (
	holdCreate = iota
	holdTransfer
)

func holdKey(h Hold) indexKey {
	k := indexKey{s: h.Session, n: holdCreate, t: string(h.Name)}
	if h.Transfer {
		k.n = holdTransfer
	}
	return k
}

func (m *Machine) setHold(h Hold) {
	old, known := m.holds.get(h.Name)
	if known && old == h {
		return
	}
	m.holds.set(h.Name, h)
	m.sessionHolds.Set(holdKey(h))
	if known && holdKey(old) != holdKey(h) {
		m.sessionHolds.Delete(holdKey(old))
		m.tidyLease(old.Session)
	}
}

func (m *Machine) dropHold(n mbox.Name) {
	if h, ok := m.holds.delete(n); ok {
		m.sessionHolds.Delete(holdKey(h))
		m.tidyLease(h.Session)
	}
}

// heldBy returns the names that a session holds, in octet order.
func (m *Machine) heldBy(session string, kind uint64) []mbox.Name {
	var names []mbox.Name
	m.sessionHolds.Ascend(indexKey{s: session, n: kind}, func(k indexKey) bool {
		if k.s != session || k.n != kind {
			return false
		}
		names = append(names, mbox.Name(k.t))
		return true
	})
	return names
}

func (m *Machine) creates(session string) bool {
	found := false
	m.sessionHolds.Ascend(indexKey{s: session, n: holdCreate}, func(k indexKey) bool {
		found = k.s == session && k.n == holdCreate
		return false
	})
	return found
}

func (m *Machine) setLease(l Lease) {
	old, known := m.leases.get(l.Session)
	if known && old == l {
		return
	}
	m.leases.set(l.Session, l)
	if known && old.Deadline != l.Deadline {
		m.deadlines.Delete(indexKey{n: old.Deadline, t: l.Session})
	}
	m.deadlines.Set(indexKey{n: l.Deadline, t: l.Session})
}

func (m *Machine) dropLease(session string) {
	if l, ok := m.leases.delete(session); ok {
		m.deadlines.Delete(indexKey{n: l.Deadline, t: session})
	}
}

// tidyLease forgets a session that holds nothing any more.
func (m *Machine) tidyLease(session string) {
	if l, ok := m.leases.get(session); ok && l.Deleted == "" && !m.creates(session) {
		m.dropLease(session)
	}
}

// followSession renews the lease of the session after a write, and watches for renames. A backend
// renames by DELETE, RESERVE and ACTIVATE. If the RESERVE right after the DELETE is refused, the
// backend keeps the old mailbox, so the old record comes back.
func (m *Machine) followSession(w MailboxWrite, cur mbox.Entry, v mbox.Verdict) {
	l, known := m.leases.get(w.By.ID)
	deleted, direct := mbox.Name(""), false
	switch {
	case w.Kind == mbox.Delete:
		if cur.State == mbox.Active && v.Outcome == mbox.Done && w.By.Flags&mbox.Sync == 0 && w.By.ID != "" {
			deleted, direct = w.Name, true
		}
	case w.Kind == mbox.Reserve && v.Outcome == mbox.Done:
		deleted = l.Deleted
	case w.Kind == mbox.Reserve && l.Direct:
		m.heal(w, l.Deleted)
	case w.Kind == mbox.Activate && v.Outcome != mbox.Done && m.clusterVersion >= versionSessionEnd:
		deleted = l.Deleted // the backend takes back what it did
	}
	if !known && deleted == "" && !m.creates(w.By.ID) {
		return
	}
	l.Session, l.Deleted, l.Direct = w.By.ID, deleted, direct
	if deadline := m.clock + leaseTime; !l.Ended && deadline >= l.Deadline+leaseGranularity {
		l.Deadline = deadline
	}
	m.setLease(l)
	m.tidyLease(l.Session)
}

// heal restores a name that the session deleted just before.
func (m *Machine) heal(w MailboxWrite, n mbox.Name) {
	t, ok := m.tombstones.get(n)
	_, exists := m.mail.get(n)
	if !ok || exists || t.Session != w.By.ID || t.State != mbox.Active {
		return
	}
	if w.Kind == mbox.Reserve && t.Location.Server() != w.Location.Server() {
		return
	}
	m.put(mbox.Entry{Name: n}, t.Entry)
	w.Name = n
	m.event(EventHealed, w, t.Location, "")
}

func (m *Machine) endSession(w MailboxWrite) {
	session := w.By.ID
	precise := m.clusterVersion >= versionSessionEnd
	if precise && w.By.Flags&mbox.RenameRefused != 0 {
		m.heal(w, w.Name)
		if l, known := m.leases.get(session); known && l.Direct && l.Deleted == w.Name {
			l.Deleted, l.Direct = "", false
			m.setLease(l)
			m.tidyLease(session)
		}
		return
	}
	if w.Name != "" {
		m.unconfirmed(w, precise)
	}
	for _, n := range m.heldBy(session, holdTransfer) {
		h, _ := m.holds.get(n)
		h.SessionGone = true
		m.setHold(h)
	}
	l, known := m.leases.get(session)
	if !known {
		return
	}
	if !precise || !l.Direct || w.By.Flags&mbox.LoggedOut == 0 {
		m.cut(l, w)
	}
	l.Deleted, l.Direct, l.Ended = "", false, true
	l.Deadline = min(l.Deadline, m.clock+leaseAfterEnd)
	m.setLease(l)
	m.tidyLease(session)
}

// unconfirmed notes that the client may not have heard what became of its last write. The word may come
// late, when others have changed the record since, or twice.
func (m *Machine) unconfirmed(w MailboxWrite, precise bool) {
	last := m.lastChange(w.Name)
	if precise && (last.Session != w.By.ID || last.Kind == EventUnconfirmed) {
		return
	}
	location := mbox.Location("")
	if it, ok := m.mail.get(w.Name); ok {
		location = it.location
	}
	m.event(EventUnconfirmed, w, location, location)
}

// cut notes that a session is over whose DELETE may have been the first part of a rename. The tree
// of deleted mailboxes is left out: there, deleting is all that backends do.
func (m *Machine) cut(l Lease, w MailboxWrite) {
	if l.Deleted == "" {
		return
	}
	t, ok := m.tombstones.get(l.Deleted)
	if _, exists := m.mail.get(l.Deleted); !ok || exists || t.Session != l.Session || m.inDeletedTree(l.Deleted) {
		return
	}
	m.setCut(CutRename{Name: l.Deleted, Index: m.index, Clock: m.clock, Session: l.Session})
	w.Name = l.Deleted
	m.event(EventCutRename, w, "", t.Location)
}

func (m *Machine) inDeletedTree(n mbox.Name) bool {
	prefix := "DELETED"
	if s, ok := m.settings.get(SettingDeletedPrefix); ok {
		prefix = s.Value
	}
	_, local := n.Split()
	return strings.HasPrefix(string(local), prefix+".")
}

// restartLeases gives every session a whole lease: for some time there was nobody to renew it with.
func (m *Machine) restartLeases() {
	var all []Lease
	m.leases.rows.Scan(func(_ string, l *Lease) bool {
		all = append(all, *l)
		return true
	})
	for _, l := range all {
		l.Deadline = max(l.Deadline, m.clock+leaseTime)
		m.setLease(l)
	}
}

// tick ends what has run out, in the order of the deadlines.
func (m *Machine) tick(at int64) {
	for {
		first, ok := m.deadlines.Min()
		if !ok || first.n > m.clock {
			break
		}
		m.expire(first.t, at)
	}
	m.dropAged()
	m.dropSilent()
}

func (m *Machine) expire(session string, at int64) {
	w := MailboxWrite{At: at}
	w.By.ID = session
	l, _ := m.leases.get(session)
	for _, n := range m.heldBy(session, holdCreate) {
		it, _ := m.mail.get(n)
		cur := it.entry()
		m.remove(cur, w)
		w.Name = n
		m.event(EventExpired, w, "", cur.Location)
	}
	m.cut(l, w)
	m.dropLease(session)
}
