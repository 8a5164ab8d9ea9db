package mupdate

import (
	"slices"
	"sync"
	"time"

	"murder/internal/mbox"
)

// protect withholds the truth where ctl_mboxlist -m would destroy a mailbox over it. It returns the
// reason, or "" for an answer as usual.
//
// Cyrus: a backend compares LIST with its own list, both in order, and asks FIND for every name of its
// own that does not come next. If FIND names another server, or its own with another partition, it
// wipes its mailbox; if FIND names its own place it ends with an error, and the backend does not
// start. After NO it sends ACTIVATE and goes on whatever the answer.
func (c *conn) protect(view mbox.View, e *mbox.Entry) string {
	sync := c.session.Flags&mbox.Sync != 0
	holder := e.Location.Server()
	switch {
	case !sync && len(c.bound) == 0 || len(c.session.Servers) == 0:
		return ""
	case c.syncing != "" && holder == c.syncing:
		if c.role != Backend { // somebody who has looked at the server's list
			return ""
		}
		return c.own(e)
	case c.syncing == "" && c.speaksFor(holder), c.unified:
		return "" // Cyrus: a unified server asks for the names of all servers, and wipes none
	}
	text := c.elsewhere(view, e, sync)
	if text != "" && sync {
		c.withheld = e.Name
	}
	return text
}

// own answers a server that asks for a name of its own. The name has come since the LIST, as with a
// RENAME meanwhile, whose location has no partition; or the server's list has another order than
// the LIST had.
func (c *conn) own(e *mbox.Entry) string {
	if e.Index <= c.listed && !c.misordered {
		c.misordered = true
		c.log.Warn("a backend's list has another order than the LIST it got, so it takes longer to compare: set the order of its identity or address",
			"user", c.session.Identity, "backend", c.syncing, "order", c.order.String(), "mailbox", e.Name)
	}
	return string(e.Name) + " is held by " + string(c.syncing) + " itself"
}

// elsewhere answers a server that asks for a name of another one. Only a copy that is known to be a
// leftover may be wiped; where two mailboxes have met under one name an operator decides.
//
// To a sync session a reserved name is never shown. Until the move is complete the copy of the
// destination may be the only one, whoever is still connected, and a name that is being created
// elsewhere has no mailbox yet.
func (c *conn) elsewhere(view mbox.View, e *mbox.Entry, sync bool) string {
	holder := e.Location.Server()
	if e.Transfer {
		if v, ok := view.(TransferView); sync || ok && v.TransferOrphaned(e.Name) {
			return inTransfer
		}
		return ""
	}
	conflict := false
	if v, ok := view.(ConflictView); ok {
		conflict = v.InConflict(e.Name)
	}
	switch {
	case conflict:
	case e.State == mbox.Reserved:
		conflict = sync
	default:
		conflict = c.brake.count(holder, c.srv) || sync && !c.leftover(view, e.Name)
	}
	if !conflict {
		return ""
	}
	if c.conflicts++; sync && c.conflicts <= conflictsLogged {
		c.log.Warn("a backend has a mailbox that is held by another: it is told so and wipes nothing; murderctl mailbox resolve decides",
			"user", c.session.Identity, "backend", c.syncing, "mailbox", e.Name, "holder", e.Location)
	}
	return conflictText(e.Name, e.Location)
}

const conflictsLogged = 20 // of one session; all are in the conflict register

// leftover reports whether the asking server's copy of a name may go.
func (c *conn) leftover(view mbox.View, name mbox.Name) bool {
	v, ok := view.(LeftoverView)
	if !ok || c.session.Flags&mbox.Permissive != 0 {
		return true // as with Cyrus's own master
	}
	if c.syncing != "" {
		return v.Leftover(name, c.syncing)
	}
	return slices.ContainsFunc(c.session.Servers, func(s mbox.Server) bool { return v.Leftover(name, s) })
}

// conflictBrake stops a backend whose servername has changed from being told, name by name, that all
// its mailboxes live on its former self.
type conflictBrake struct {
	holder  mbox.Server
	names   int
	alarmed bool
}

// count reports whether the brake is on for one more name held by holder.
func (b *conflictBrake) count(holder mbox.Server, s *Server) bool {
	if s.cfg.ConflictBrake < 0 || s.seen.lately(holder) {
		return false
	}
	if b.holder != holder {
		b.holder, b.names = holder, 0
	}
	b.names++
	if b.names <= s.cfg.ConflictBrake {
		return false
	}
	if !b.alarmed {
		b.alarmed = true
		s.metrics.alarms.Inc()
		s.log.Error("a backend asks for many names held by a server that has not been seen: was it renamed? answers are withheld",
			"backend", holder, "names", b.names)
	}
	return true
}

// sightings remembers which servers have spoken to this node not long ago. Backends come for one
// command at a time, so an open connection is no measure.
type sightings struct {
	mu   sync.Mutex
	last map[mbox.Server]time.Time
}

const (
	sightingLasts = time.Hour
	maxSightings  = 4096
)

func (s *sightings) note(server mbox.Server) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == nil {
		s.last = make(map[mbox.Server]time.Time)
	}
	if _, ok := s.last[server]; ok || len(s.last) < maxSightings {
		s.last[server] = time.Now()
	}
}

func (s *sightings) lately(server mbox.Server) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.last[server]
	return ok && time.Since(at) < sightingLasts
}
