package fsm

import "murder/internal/mbox"

// What is remembered about names beyond their records: history, tombstones, cut renames, conflicts.
// Departures have a file of their own.

// event adds a line to the history of w.Name, and drops the oldest lines beyond the bounds.
func (m *Machine) event(kind EventKind, w MailboxWrite, location, old mbox.Location) {
	m.nextEvent++
	e := Event{N: m.nextEvent, Index: m.index, At: w.At, Kind: kind, Name: w.Name, Location: location, Old: old,
		Identity: w.By.Identity, Peer: w.By.Peer, Session: w.By.ID}
	lines, refused := m.linesOf(w.Name)
	if kind == EventConflict && m.clusterVersion >= versionFairHistory {
		if len(refused) >= maxRefusedPerName {
			m.dropEvent(refused[0])
			lines, _ = m.linesOf(w.Name)
		}
		for m.refusals.Len() >= maxRefused {
			oldest, _ := m.refusals.Min()
			m.dropEvent(oldest.n)
		}
	}
	if len(lines) >= maxEventsPerName {
		m.dropEvent(lines[0])
	}
	if m.events.len() >= maxEvents {
		first, _, _ := m.events.rows.Min()
		m.dropEvent(first)
	}
	m.indexEvent(e)
}

// linesOf are the numbers of a name's lines, and those of refused claims among them, oldest first.
func (m *Machine) linesOf(n mbox.Name) (all, refused []uint64) {
	m.eventNames.Ascend(indexKey{s: string(n)}, func(k indexKey) bool {
		if k.s != string(n) {
			return false
		}
		all = append(all, k.n)
		if e, _ := m.events.get(k.n); e.Kind == EventConflict {
			refused = append(refused, k.n)
		}
		return true
	})
	return all, refused
}

func (m *Machine) indexEvent(e Event) {
	m.events.set(e.N, e)
	m.eventNames.Set(indexKey{s: string(e.Name), n: e.N})
	if e.Kind == EventConflict {
		m.refusals.Set(indexKey{n: e.N})
	}
}

func (m *Machine) dropEvent(n uint64) {
	if e, ok := m.events.delete(n); ok {
		m.eventNames.Delete(indexKey{s: string(e.Name), n: n})
		m.refusals.Delete(indexKey{n: n})
	}
}

func (m *Machine) bury(t Tombstone) {
	m.dropTombstone(t.Name)
	if m.tombstones.len() >= maxTombstones {
		oldest, _ := m.tombAge.Min()
		m.dropTombstone(mbox.Name(oldest.t))
	}
	m.tombstones.set(t.Name, t)
	m.tombAge.Set(indexKey{n: t.Deleted, t: string(t.Name)})
}

func (m *Machine) dropTombstone(n mbox.Name) {
	if t, ok := m.tombstones.delete(n); ok {
		m.tombAge.Delete(indexKey{n: t.Deleted, t: string(n)})
	}
}

func (m *Machine) setCut(c CutRename) {
	m.dropCut(c.Name)
	if m.cuts.len() >= maxCutRenames {
		oldest, _ := m.cutAge.Min()
		m.dropCut(mbox.Name(oldest.t))
	}
	m.cuts.set(c.Name, c)
	m.cutAge.Set(indexKey{n: c.Index, t: string(c.Name)})
}

func (m *Machine) dropCut(n mbox.Name) bool {
	c, ok := m.cuts.delete(n)
	if ok {
		m.cutAge.Delete(indexKey{n: c.Index, t: string(n)})
	}
	return ok
}

// dropAged forgets old tombstones, cut renames and departures. All have their oldest first, because
// neither the log index nor the lease clock ever goes back.
func (m *Machine) dropAged() {
	for {
		oldest, ok := m.tombAge.Min()
		t, _ := m.tombstones.get(mbox.Name(oldest.t))
		if !ok || m.clock < t.Clock+tombstoneTime {
			break
		}
		m.dropTombstone(t.Name)
	}
	for {
		oldest, ok := m.cutAge.Min()
		c, _ := m.cuts.get(mbox.Name(oldest.t))
		if !ok || m.clock < c.Clock+tombstoneTime {
			break
		}
		m.dropCut(c.Name)
	}
	for {
		oldest, ok := m.departureAge.Min()
		d, _ := m.departures.get(oldest.t)
		if !ok || m.clock < d.Clock+departureTime {
			break
		}
		m.forgetDeparture(oldest.t)
	}
}

func conflictKey(n mbox.Name, claimant mbox.Server) string {
	return string(n) + "\x00" + string(claimant)
}

// lastChange is the newest line of a name's history that is no refused claim.
func (m *Machine) lastChange(n mbox.Name) (last Event) {
	lines, _ := m.linesOf(n)
	for _, number := range lines {
		if e, _ := m.events.get(number); e.Kind != EventConflict {
			last = e
		}
	}
	return last
}

// claim enters a refused claim on cur into the conflict register and the history. What is known to be a
// leftover makes no conflict.
func (m *Machine) claim(w MailboxWrite, cur mbox.Entry) {
	claimant := w.Location.Server()
	if m.clusterVersion >= versionRefusals && m.departed(w.Name, claimant) {
		m.event(EventConflict, w, w.Location, cur.Location)
		return
	}
	key := conflictKey(w.Name, claimant)
	c, known := m.conflicts.get(key)
	if !known {
		c = Conflict{Name: w.Name, Claimant: claimant, First: m.index}
	}
	c.Holder, c.Claim, c.ACL, c.Last, c.At = cur.Location.Server(), w.Location, w.ACL, m.index, w.At
	c.Identity, c.Peer = w.By.Identity, w.By.Peer
	c.Count++
	if known || m.conflicts.len() < maxConflicts {
		m.conflicts.set(key, c)
	}
	m.event(EventConflict, w, w.Location, cur.Location)
}

// settle ends the conflicts about a name that is now held by another server than before, or by none.
func (m *Machine) settle(n mbox.Name, holder mbox.Server) {
	if m.conflicts.len() == 0 {
		return
	}
	for _, c := range claims(&m.conflicts.rows, n) {
		if c.Holder != holder {
			m.conflicts.delete(conflictKey(n, c.Claimant))
		}
	}
}

func (m *Machine) resolve(c Resolve) Result {
	done := false
	w := MailboxWrite{Write: mbox.Write{Name: c.Name, By: mbox.Session{Identity: c.Identity}}, At: c.At}
	switch c.What {
	case RegisterCutRenames:
		done = m.dropCut(c.Name)
	case RegisterConflicts:
		for _, x := range claims(&m.conflicts.rows, c.Name) {
			if c.Claimant == "" || c.Claimant == x.Claimant {
				m.conflicts.delete(conflictKey(c.Name, x.Claimant))
				m.depart(w, x.Claimant)
				done = true
			}
		}
	}
	if !done {
		return Result{Refusal: RefusedUnknown, Detail: string(c.Name)}
	}
	location := mbox.Location("")
	if it, ok := m.mail.get(c.Name); ok {
		location = it.location
	}
	m.event(EventResolved, w, location, location)
	return Result{}
}
