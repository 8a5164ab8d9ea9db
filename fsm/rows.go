package fsm

import "murder/internal/mbox"

// Rows of the tables as they are hashed and stored. Fields are only ever added at the end.

func appendItem(dst []byte, it item) []byte {
	dst = appendString(dst, it.name)
	dst = appendUint(dst, it.index)
	return appendShape(dst, it.shape)
}

const (
	shapePacked   = 1 << iota // the ACL has the owner's name replaced
	shapeTransfer             // reserved by DEACTIVATE
)

func appendShape(dst []byte, s shape) []byte {
	flags := byte(0)
	if s.packed {
		flags |= shapePacked
	}
	if s.transfer {
		flags |= shapeTransfer
	}
	dst = append(dst, byte(s.state), flags)
	dst = appendString(dst, s.location)
	return appendString(dst, s.acl)
}

func readShape(r *reader) shape {
	state, flags := mbox.State(r.byte()), r.byte()
	return shape{state: state, packed: flags&shapePacked != 0, transfer: flags&shapeTransfer != 0,
		location: mbox.Location(r.string()), acl: r.string()}
}

func appendEntry(dst []byte, e mbox.Entry) []byte {
	dst = appendString(dst, e.Name)
	dst = appendUint(dst, e.Index)
	return appendShape(dst, shape{location: e.Location, acl: string(e.ACL), state: e.State, transfer: e.Transfer})
}

func readEntry(r *reader) mbox.Entry {
	e := mbox.Entry{Name: mbox.Name(r.string()), Index: r.uint()}
	s := readShape(r)
	e.Location, e.ACL, e.State, e.Transfer = s.location, mbox.ACL(s.acl), s.state, s.transfer
	return e
}

func appendHold(dst []byte, h Hold) []byte {
	dst = appendString(dst, h.Name)
	dst = appendBool(dst, h.Transfer)
	dst = appendString(dst, h.Session)
	dst = appendUint(dst, h.Since)
	dst = appendString(dst, h.Location)
	dst = appendString(dst, h.ACL)
	dst = appendBool(dst, h.SessionGone)
	return appendBool(dst, h.SourceDropped)
}

func readHold(r *reader) Hold {
	return Hold{Name: mbox.Name(r.string()), Transfer: r.bool(), Session: r.string(), Since: r.uint(),
		Location: mbox.Location(r.string()), ACL: mbox.ACL(r.string()), SessionGone: r.bool(), SourceDropped: r.bool()}
}

func appendLease(dst []byte, l Lease) []byte {
	dst = appendString(dst, l.Session)
	dst = appendUint(dst, l.Deadline)
	dst = appendBool(dst, l.Ended)
	dst = appendString(dst, l.Deleted)
	return appendBool(dst, l.Direct)
}

func readLease(r *reader) Lease {
	return Lease{Session: r.string(), Deadline: r.uint(), Ended: r.bool(), Deleted: mbox.Name(r.string()), Direct: r.bool()}
}

func appendTombstone(dst []byte, t Tombstone) []byte {
	dst = appendEntry(dst, t.Entry)
	dst = appendUint(dst, t.Deleted)
	dst = appendUint(dst, t.Clock)
	dst = appendInt(dst, t.At)
	return appendString(dst, t.Session)
}

func readTombstone(r *reader) Tombstone {
	return Tombstone{Entry: readEntry(r), Deleted: r.uint(), Clock: r.uint(), At: r.int(), Session: r.string()}
}

func appendCut(dst []byte, c CutRename) []byte {
	dst = appendString(dst, c.Name)
	dst = appendUint(dst, c.Index)
	dst = appendUint(dst, c.Clock)
	return appendString(dst, c.Session)
}

func readCut(r *reader) CutRename {
	return CutRename{Name: mbox.Name(r.string()), Index: r.uint(), Clock: r.uint(), Session: r.string()}
}

func appendConflict(dst []byte, c Conflict) []byte {
	dst = appendString(dst, c.Name)
	dst = appendString(dst, c.Holder)
	dst = appendString(dst, c.Claimant)
	dst = appendString(dst, c.Claim)
	dst = appendString(dst, c.ACL)
	dst = appendUint(dst, c.First)
	dst = appendUint(dst, c.Last)
	dst = appendUint(dst, c.Count)
	dst = appendInt(dst, c.At)
	dst = appendString(dst, c.Identity)
	return appendString(dst, c.Peer)
}

func readConflict(r *reader) Conflict {
	return Conflict{Name: mbox.Name(r.string()), Holder: mbox.Server(r.string()), Claimant: mbox.Server(r.string()),
		Claim: mbox.Location(r.string()), ACL: mbox.ACL(r.string()), First: r.uint(), Last: r.uint(), Count: r.uint(),
		At: r.int(), Identity: r.string(), Peer: r.string()}
}

func appendDeparture(dst []byte, d Departure) []byte {
	dst = appendString(dst, d.Name)
	dst = appendString(dst, d.Server)
	dst = appendUint(dst, d.Index)
	dst = appendUint(dst, d.Clock)
	return appendInt(dst, d.At)
}

func readDeparture(r *reader) Departure {
	return Departure{Name: mbox.Name(r.string()), Server: mbox.Server(r.string()), Index: r.uint(), Clock: r.uint(), At: r.int()}
}

func appendEvent(dst []byte, e Event) []byte {
	dst = appendUint(dst, e.N)
	dst = appendUint(dst, e.Index)
	dst = appendInt(dst, e.At)
	dst = append(dst, byte(e.Kind))
	dst = appendString(dst, e.Name)
	dst = appendString(dst, e.Location)
	dst = appendString(dst, e.Old)
	dst = appendString(dst, e.Identity)
	dst = appendString(dst, e.Peer)
	return appendString(dst, e.Session)
}

// readEvent shares strings with the event before, which was often of the same session.
func readEvent(r *reader, near *Event) Event {
	*near = Event{N: r.uint(), Index: r.uint(), At: r.int(), Kind: EventKind(r.byte()), Name: mbox.Name(r.string()),
		Location: mbox.Location(r.stringLike(string(near.Location))), Old: mbox.Location(r.stringLike(string(near.Old))),
		Identity: r.stringLike(near.Identity), Peer: r.stringLike(near.Peer), Session: r.stringLike(near.Session)}
	return *near
}

func appendSetting(dst []byte, s Setting) []byte {
	dst = appendString(dst, s.Key)
	dst = appendString(dst, s.Value)
	return appendUint(dst, s.Index)
}

func readSetting(r *reader) Setting {
	return Setting{Key: r.string(), Value: r.string(), Index: r.uint()}
}
