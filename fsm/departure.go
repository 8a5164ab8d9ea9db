package fsm

import "murder/internal/mbox"

// Which copies of a mailbox are leftovers. A backend whose list has a name that the map puts elsewhere
// destroys its copy (Cyrus: ctl_mboxlist -m), so it is told where the name is only if its copy is known
// to be worthless; in every other case two mailboxes may have met under one name.

func departureKey(n mbox.Name, s mbox.Server) string { return string(n) + "\x00" + string(s) }

// depart notes that what server still has of a mailbox is a leftover, "" for every server but the holder.
func (m *Machine) depart(w MailboxWrite, server mbox.Server) {
	m.setDeparture(Departure{Name: w.Name, Server: server, Index: m.index, Clock: m.clock, At: w.At})
}

func (m *Machine) setDeparture(d Departure) {
	m.dropDeparture(d.Name, d.Server)
	if m.departures.len() >= maxDepartures {
		oldest, _ := m.departureAge.Min()
		m.forgetDeparture(oldest.t)
	}
	key := departureKey(d.Name, d.Server)
	m.departures.set(key, d)
	m.departureAge.Set(indexKey{n: d.Index, t: key})
}

func (m *Machine) dropDeparture(n mbox.Name, server mbox.Server) {
	if m.departures.len() > 0 {
		m.forgetDeparture(departureKey(n, server))
	}
}

func (m *Machine) forgetDeparture(key string) {
	if d, ok := m.departures.delete(key); ok {
		m.departureAge.Delete(indexKey{n: d.Index, t: key})
	}
}

func (m *Machine) departed(n mbox.Name, server mbox.Server) bool {
	_, left := m.departures.get(departureKey(n, server))
	if !left {
		_, left = m.departures.get(departureKey(n, ""))
	}
	return left
}

// Leftover reports whether what server has of a mailbox, if anything, is known not to be the mailbox: it
// was moved away from there, or an operator has decided against that copy, or it came from a move that
// its source has given up.
func (v *View) Leftover(n mbox.Name, server mbox.Server) bool {
	_, left := v.departures.Get(departureKey(n, server))
	if !left {
		_, left = v.departures.Get(departureKey(n, ""))
	}
	return left
}

// Departures walks them by name and server.
func (v *View) Departures(yield func(Departure) bool) { eachRow(v.departures, yield) }
