package fsm

import (
	"slices"

	"murder/internal/mbox"
)

// The decisions on the map. Every function gets the current record (State Absent if there is none)
// and answers for one verb; a refusal changes nothing but the history and the conflict register.
//
// RESERVE, ACTIVATE and DEACTIVATE speak for the server in their location; whether a session may
// name that server is for the protocol to check. DELETE has no location (RFC 3656 section 4.4), so
// it speaks for the servers of its session. Two locations on one server are never in conflict.

func (m *Machine) write(w MailboxWrite) mbox.Verdict {
	if w.Kind == mbox.EndSession {
		m.endSession(w)
		return mbox.Verdict{}
	}
	cur := mbox.Entry{Name: w.Name}
	if it, ok := m.mail.get(w.Name); ok {
		cur = it.entry()
		w.Name = cur.Name
	}
	var v mbox.Verdict
	switch w.Kind {
	case mbox.Reserve:
		v = m.reserve(w, cur)
	case mbox.Activate:
		v = m.activate(w, cur)
	case mbox.Deactivate:
		v = m.deactivate(w, cur)
	case mbox.Delete:
		v = m.deleteName(w, cur)
	case mbox.Remove:
		v = m.removeIf(w, cur)
	}
	m.followSession(w, cur, v)
	return v
}

// reserve never takes the ACL and state of an active record, unlike Cyrus: the ACTIVATE that backends
// send next would restore them, and a crash between the two would hide the mailbox.
func (m *Machine) reserve(w MailboxWrite, cur mbox.Entry) mbox.Verdict {
	next := mbox.Entry{Name: w.Name, Location: w.Location, State: mbox.Reserved}
	server, partition := w.Location.Split()
	holder, held := cur.Location.Split()
	switch {
	case cur.State == mbox.Absent:
		m.put(cur, next)
		m.setHold(Hold{Name: w.Name, Session: w.By.ID, Since: m.clock})
		m.event(EventReserved, w, next.Location, "")
	case holder != server:
		if m.clusterVersion >= versionRefusals { // no entry in the register: the backend undoes what it made
			m.event(EventConflict, w, w.Location, cur.Location)
		}
		return mbox.Verdict{Outcome: mbox.Exists, Holder: cur.Location}
	case cur.State == mbox.Active:
		if partition != held && partition != "" && held != "" {
			return mbox.Verdict{Outcome: mbox.Exists, Holder: cur.Location}
		}
	case !cur.Transfer:
		if cur.Location != next.Location {
			m.put(cur, next)
		}
		hold, _ := m.holds.get(w.Name)
		hold.Session = w.By.ID
		m.setHold(hold)
	}
	return mbox.Verdict{}
}

func (m *Machine) activate(w MailboxWrite, cur mbox.Entry) mbox.Verdict {
	next := mbox.Entry{Name: w.Name, Location: w.Location, ACL: w.ACL, State: mbox.Active}
	holder := cur.Location.Server()
	same := holder == w.Location.Server()
	kind, leaves := EventActivated, false
	switch {
	case w.IfIndex != 0 && w.IfIndex != seen(cur) && m.clusterVersion >= versionActivateIf:
		return mbox.Verdict{Outcome: mbox.Changed, Holder: cur.Location}
	case cur.State == mbox.Absent:
		if m.phantom(w) {
			m.event(EventPhantom, w, w.Location, "")
			return mbox.Verdict{}
		}
		if t, ok := m.outdated(w); ok {
			m.event(EventConflict, w, w.Location, t.Location)
			return mbox.Verdict{Outcome: mbox.Outdated, Holder: t.Location}
		}
	case same && cur.State == mbox.Active:
		if cur.Location == next.Location && cur.ACL == next.ACL {
			return mbox.Verdict{}
		}
		kind = EventUpdated
	case same:
	case cur.Transfer:
		if w.By.Flags&mbox.Sync != 0 && w.By.Flags&(mbox.CompleteTransfer|mbox.Takeover|mbox.Permissive) == 0 {
			m.claim(w, cur)
			return mbox.Verdict{Outcome: mbox.InTransfer, Holder: cur.Location}
		}
		kind, leaves = EventMoved, true
	case w.By.Flags&mbox.Takeover != 0:
		// With Permissive it is a backup that comes back, which may be wrong about the holder.
		kind, leaves = EventTakeover, w.By.Flags&mbox.Permissive == 0
	case w.By.Flags&mbox.Permissive != 0:
		kind = EventForced
	default:
		m.claim(w, cur)
		return mbox.Verdict{Outcome: mbox.Conflict, Holder: cur.Location}
	}
	m.put(cur, next)
	switch {
	case leaves:
		m.depart(w, holder)
	case same && cur.Transfer: // what has arrived elsewhere is a part at most
		m.depart(w, "")
	}
	m.event(kind, w, next.Location, cur.Location)
	return mbox.Verdict{}
}

// seen is what IfIndex is compared with.
func seen(cur mbox.Entry) uint64 {
	if cur.State == mbox.Absent {
		return mbox.IfAbsent
	}
	return cur.Index
}

// phantom recognises what a backend sends for the old name when it renames a special-use folder: an
// ACTIVATE without partition and ACL, for a name that it has just deleted.
func (m *Machine) phantom(w MailboxWrite) bool {
	t, ok := m.tombstones.get(w.Name)
	server, partition := w.Location.Split()
	return ok && w.ACL == "" && partition == "" && t.Location.Server() == server && m.clock < t.Clock+phantomTime
}

// outdated recognises a unified server that was away and takes deleted mailboxes of others for its own. Its list
// still has them, and ctl_mboxlist -m at its start comes before its slave has had a new dump. A tombstone of what
// was only being created says nothing: there was no mailbox.
//
// Cyrus: ctl_mboxlist asks FIND about each name of the list that LIST did not have, whoever it belongs to, and
// activates those that are gone at its own server. After NO it goes on.
func (m *Machine) outdated(w MailboxWrite) (Tombstone, bool) {
	const unified = mbox.Sync | mbox.Unified
	if m.clusterVersion < versionOutdated || w.By.Flags&(unified|mbox.Permissive) != unified {
		return Tombstone{}, false
	}
	t, ok := m.tombstones.get(w.Name)
	return t, ok && t.Location.Server() != w.Location.Server() && (t.State == mbox.Active || t.Transfer)
}

func (m *Machine) deactivate(w MailboxWrite, cur mbox.Entry) mbox.Verdict {
	same := cur.Location.Server() == w.Location.Server()
	kind := EventDeactivated
	switch {
	case cur.State == mbox.Absent:
		return mbox.Verdict{Outcome: mbox.NotExist}
	case cur.State == mbox.Reserved:
		if !same || !cur.Transfer {
			return mbox.Verdict{Outcome: mbox.NotActive, Holder: cur.Location}
		}
		// Cyrus: a backend repeats a DEACTIVATE that failed once, on a new session.
		hold, _ := m.holds.get(w.Name)
		hold.Session, hold.SessionGone = w.By.ID, false
		m.setHold(hold)
		return mbox.Verdict{}
	case !same && w.By.Flags&mbox.Permissive == 0:
		m.claim(w, cur)
		return mbox.Verdict{Outcome: mbox.Conflict, Holder: cur.Location}
	case !same:
		kind = EventForced
	}
	m.put(cur, mbox.Entry{Name: w.Name, Location: w.Location, State: mbox.Reserved, Transfer: true})
	m.setHold(Hold{Name: w.Name, Transfer: true, Session: w.By.ID, Since: m.clock, Location: cur.Location, ACL: cur.ACL})
	m.event(kind, w, w.Location, cur.Location)
	return mbox.Verdict{}
}

func (m *Machine) deleteName(w MailboxWrite, cur mbox.Entry) mbox.Verdict {
	owner := cur.Location.Server()
	kind := EventDeleted
	switch {
	case cur.State == mbox.Absent:
		// RFC 3656 section 4.4 wants NO, but a NO makes backends fail in the middle of renames and
		// at their start.
		if w.By.Flags&mbox.DenyUnknownDelete != 0 && !m.deletedBy(w.Name, w.By.Servers) {
			return mbox.Verdict{Outcome: mbox.NotExist}
		}
		return mbox.Verdict{}
	case slices.Contains(w.By.Servers, owner):
	case len(w.By.Servers) == 0:
		if w.By.Flags&mbox.DenyUnboundDelete != 0 {
			m.event(EventUnbound, w, cur.Location, cur.Location)
			return mbox.Verdict{Outcome: mbox.Unbound, Holder: cur.Location}
		}
		kind = EventUnbound
	case w.By.Flags&mbox.Permissive != 0:
		kind = EventForced
	default:
		m.event(EventConflict, w, cur.Location, cur.Location)
		return mbox.Verdict{Outcome: mbox.Conflict, Holder: cur.Location}
	}
	if cur.Transfer && w.By.Flags&mbox.Sync != 0 {
		// The source has dropped its copy while it synchronised. Without the record, mail would
		// bounce, although the destination probably has the mailbox.
		hold, _ := m.holds.get(w.Name)
		hold.SourceDropped = true
		m.setHold(hold)
		m.event(EventSourceDropped, w, cur.Location, cur.Location)
		return mbox.Verdict{}
	}
	m.remove(cur, w)
	m.event(kind, w, "", cur.Location)
	return mbox.Verdict{}
}

func (m *Machine) deletedBy(n mbox.Name, servers []mbox.Server) bool {
	t, ok := m.tombstones.get(n)
	return ok && slices.Contains(servers, t.Location.Server())
}

func (m *Machine) removeIf(w MailboxWrite, cur mbox.Entry) mbox.Verdict {
	switch {
	case cur.State == mbox.Absent:
		return mbox.Verdict{Outcome: mbox.NotExist}
	case cur.Index != w.IfIndex:
		return mbox.Verdict{Outcome: mbox.Changed, Holder: cur.Location}
	}
	m.remove(cur, w)
	m.event(EventRemoved, w, "", cur.Location)
	return mbox.Verdict{}
}

// put makes next the record of a name.
func (m *Machine) put(cur, next mbox.Entry) {
	next.Index = m.index
	m.mail.set(next)
	m.changes = append(m.changes, mbox.Change{Entry: next, Old: cur.Location})
	if next.State == mbox.Active {
		m.dropHold(next.Name)
		m.dropTombstone(next.Name)
		m.dropCut(next.Name)
		m.dropDeparture(next.Name, next.Location.Server())
	}
	if cur.Location.Server() != next.Location.Server() {
		m.dropDeparture(next.Name, "")
	}
	m.settle(next.Name, next.Location.Server())
}

// remove makes a name absent and leaves a tombstone, so that the record can be restored. A name that
// was only being created does not displace the tombstone of a mailbox.
func (m *Machine) remove(cur mbox.Entry, w MailboxWrite) {
	m.mail.delete(cur.Name)
	m.changes = append(m.changes, mbox.Change{Entry: mbox.Entry{Name: cur.Name, Index: m.index}, Old: cur.Location})
	m.dropHold(cur.Name)
	m.dropDeparture(cur.Name, "")
	m.settle(cur.Name, "")
	if _, ok := m.tombstones.get(cur.Name); !ok || cur.State == mbox.Active || cur.Transfer {
		m.bury(Tombstone{Entry: cur, Deleted: m.index, Clock: m.clock, At: w.At, Session: w.By.ID})
	}
}
