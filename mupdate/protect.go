package mupdate

import (
	"slices"

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
	left, known := view.(LeftoverView)
	switch {
	case conflict:
	case e.State == mbox.Reserved:
		conflict = sync
	case known && c.leftover(left, e.Name): // however many there are: whole users move
	default:
		conflict = sync && (c.brake.count(c, view, holder) || known && c.session.Flags&mbox.Permissive == 0)
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
func (c *conn) leftover(v LeftoverView, name mbox.Name) bool {
	if c.syncing != "" {
		return v.Leftover(name, c.syncing)
	}
	return slices.ContainsFunc(c.session.Servers, func(s mbox.Server) bool { return v.Leftover(name, s) })
}

// conflictBrake stops a backend whose servername has changed from being told, name by name, that all
// its mailboxes live on its former self. In strict mode it is told nothing of the kind; then this only raises
// the alarm.
type conflictBrake struct {
	holder  mbox.Server
	names   int
	on      bool
	alarmed bool
}

// count reports whether the brake is on for one more name held by holder.
func (b *conflictBrake) count(c *conn, view mbox.View, holder mbox.Server) bool {
	limit := c.srv.cfg.ConflictBrake
	if limit < 0 {
		return false
	}
	if b.holder != holder {
		b.holder, b.names, b.on = holder, 0, false
	}
	b.names++
	if b.names != limit+1 {
		return b.on
	}
	own := c.syncing
	if own == "" && len(c.bound) > 0 {
		own = c.bound[0]
	}
	b.on = !outlived(view, holder, own)
	if b.on && !b.alarmed {
		b.alarmed = true
		c.srv.metrics.alarms.Inc()
		c.log.Error("a backend asks for many names held by a server that has changed nothing since the backend had its first mailbox: was it renamed? answers are withheld",
			"user", c.session.Identity, "backend", own, "holder", holder, "names", b.names)
	}
	return b.on
}

// outlived reports whether the map shows that a server was there after another was: it has a record that is
// newer than the other's oldest. Of a server and its former self that is never so. The map is the same on
// every node and after a restart, while a node by itself hears little of backends: they come for one
// command at a time, to any node.
func outlived(view mbox.View, server, other mbox.Server) bool {
	const none = ^uint64(0)
	oldest, newest := none, uint64(0)
	located(view, string(other)+"!")(func(e mbox.Entry) bool { oldest = min(oldest, e.Index); return true })
	if oldest == none {
		return false
	}
	located(view, string(server)+"!")(func(e mbox.Entry) bool { newest = max(newest, e.Index); return newest <= oldest })
	return newest > oldest
}
