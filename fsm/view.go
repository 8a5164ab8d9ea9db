package fsm

import (
	"strings"

	"murder/internal/mbox"

	"github.com/tidwall/btree"
)

// View is an immutable copy of everything at one log index. It is safe for concurrent use.
type View struct {
	index          uint64
	clock          uint64
	clusterVersion uint32
	digest         Digest

	mailboxes  *btree.BTreeG[item]
	holds      *btree.Map[mbox.Name, *Hold]
	leases     *btree.Map[string, *Lease]
	tombstones *btree.Map[mbox.Name, *Tombstone]
	cuts       *btree.Map[mbox.Name, *CutRename]
	conflicts  *btree.Map[string, *Conflict]
	departures *btree.Map[string, *Departure]
	events     *btree.Map[uint64, *Event]
	eventNames *index
	nodes      *btree.Map[string, *Node]
	settings   *btree.Map[string, *Setting]
	tokens     *btree.Map[string, *Token]
}

var _ mbox.View = (*View)(nil)

// Index is the log index that the view reflects.
func (v *View) Index() uint64 { return v.index }

// Digest is the digest at Index.
func (v *View) Digest() Digest { return v.digest }

// Clock is the lease clock, in milliseconds of leadership.
func (v *View) Clock() uint64 { return v.clock }

// ClusterVersion is what commands may be used: see the gates in Enabled.
func (v *View) ClusterVersion() uint32 { return v.clusterVersion }

// Enabled reports whether the cluster version admits a command.
func (v *View) Enabled(c Command) bool { return commands[c.kind()].since <= v.clusterVersion }

// Len is the number of mailbox records.
func (v *View) Len() int { return v.mailboxes.Len() }

// Get returns the record of a mailbox.
func (v *View) Get(n mbox.Name) (mbox.Entry, bool) {
	it, ok := v.mailboxes.Get(item{name: n})
	if !ok {
		return mbox.Entry{}, false
	}
	return it.entry(), true
}

// Ascend walks mailboxes in mbox.OrderDB.
func (v *View) Ascend(from mbox.Name, yield func(mbox.Entry) bool) {
	v.mailboxes.Ascend(item{name: from}, func(it item) bool { return yield(it.entry()) })
}

// AscendAt walks the mailboxes whose location begins with prefix, in mbox.OrderDB. The others cost
// little: many mailboxes share one location, and only what is yielded is unpacked.
func (v *View) AscendAt(prefix string, yield func(mbox.Entry) bool) {
	var last *shared
	fits := false
	v.mailboxes.Scan(func(it item) bool {
		if it.shared != last {
			last, fits = it.shared, strings.HasPrefix(string(it.location), prefix)
		}
		return !fits || yield(it.entry())
	})
}

// Hold returns the reservation behind a reserved name.
func (v *View) Hold(n mbox.Name) (Hold, bool) { return getRow(v.holds, n) }

// Holds walks all reservations by name, in octet order.
func (v *View) Holds(yield func(Hold) bool) { eachRow(v.holds, yield) }

// Transfer returns the transfer under way for a name, if there is one.
func (v *View) Transfer(n mbox.Name) (Hold, bool) {
	h, ok := getRow(v.holds, n)
	return h, ok && h.Transfer
}

// TransferOrphaned reports whether a name is in transfer and its source will not bring it to an end:
// the session that began it is over, or the source has dropped its copy.
func (v *View) TransferOrphaned(n mbox.Name) bool {
	h, ok := v.Transfer(n)
	return ok && (h.SessionGone || h.SourceDropped)
}

// Leases is the number of sessions that Tick may have to end.
func (v *View) Leases() int { return v.leases.Len() }

// Lease returns what is remembered of a session.
func (v *View) Lease(session string) (Lease, bool) { return getRow(v.leases, session) }

// AllLeases walks the remembered sessions by id. After the death of a node its sessions are to be
// ended with EndSession writes.
func (v *View) AllLeases(yield func(Lease) bool) { eachRow(v.leases, yield) }

// Tombstone returns the last record of a name that was deleted not too long ago. It is kept while
// the name is reserved again, and forgotten when it is active again.
func (v *View) Tombstone(n mbox.Name) (Tombstone, bool) { return getRow(v.tombstones, n) }

// Tombstones walks all tombstones by name, in octet order.
func (v *View) Tombstones(yield func(Tombstone) bool) { eachRow(v.tombstones, yield) }

// DeletedNames walks the names that have a tombstone, in octet order, also those that are reserved
// again. It reports whether they are all that were deleted in the last days: false when the table is
// at its limit.
func (v *View) DeletedNames(yield func(mbox.Name) bool) (all bool) {
	v.tombstones.Scan(func(n mbox.Name, _ *Tombstone) bool { return yield(n) })
	return v.tombstones.Len() < maxTombstones
}

// CutRenames walks the renames that may have been cut in half, by name.
func (v *View) CutRenames(yield func(CutRename) bool) { eachRow(v.cuts, yield) }

// Conflict returns the claims of other servers on a name, by claimant; nil if there is no conflict.
func (v *View) Conflict(n mbox.Name) []Conflict {
	return claims(v.conflicts, n)
}

func claims(conflicts *btree.Map[string, *Conflict], n mbox.Name) []Conflict {
	var found []Conflict
	conflicts.Ascend(conflictKey(n, ""), func(_ string, c *Conflict) bool {
		if c.Name != n {
			return false
		}
		found = append(found, *c)
		return true
	})
	return found
}

// InConflict reports whether two servers may hold a mailbox of this name: another than the record's
// has claimed it and nobody has decided yet. When the register is full, any name may be contested.
func (v *View) InConflict(n mbox.Name) bool { return v.ConflictsFull() || len(v.Conflict(n)) > 0 }

// Conflicts walks the conflict register by name and claimant.
func (v *View) Conflicts(yield func(Conflict) bool) { eachRow(v.conflicts, yield) }

// ConflictsFull says that the register is at its limit: a name that is not in it may be contested
// all the same.
func (v *View) ConflictsFull() bool { return v.conflicts.Len() >= maxConflicts }

// History walks what is remembered of a name, oldest first.
func (v *View) History(n mbox.Name, yield func(Event) bool) {
	v.eventNames.Ascend(indexKey{s: string(n)}, func(k indexKey) bool {
		if k.s != string(n) {
			return false
		}
		e, _ := v.events.Get(k.n)
		return yield(*e)
	})
}

// Events walks the history of all mailboxes from running number from on.
func (v *View) Events(from uint64, yield func(Event) bool) {
	v.events.Ascend(from, func(_ uint64, e *Event) bool { return yield(*e) })
}

// Node returns a registered node.
// Its maps are the view's: whoever changes them makes this copy differ from all others.
func (v *View) Node(id string) (Node, bool) { return getRow(v.nodes, id) }

// Nodes walks the registry by id.
func (v *View) Nodes(yield func(Node) bool) { eachRow(v.nodes, yield) }

// Setting returns the value of a setting, "" if it is not set.
func (v *View) Setting(key string) string {
	s, _ := getRow(v.settings, key)
	return s.Value
}

// Settings walks the settings by key.
func (v *View) Settings(yield func(Setting) bool) { eachRow(v.settings, yield) }

// Token returns a join token.
func (v *View) Token(id string) (Token, bool) { return getRow(v.tokens, id) }

// Tokens walks the join tokens by id.
func (v *View) Tokens(yield func(Token) bool) { eachRow(v.tokens, yield) }
