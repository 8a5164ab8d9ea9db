package fsm

import "murder/internal/mbox"

// Records beside the map. Clocks are lease clocks in milliseconds, times are Unix seconds of the
// node that proposed the change.

// Hold says more about a reserved name: who keeps it, and for what.
type Hold struct {
	Name     mbox.Name
	Transfer bool   // made by DEACTIVATE; never expires
	Session  string // the session that made or last renewed it
	Since    uint64 // lease clock
	// The rest is about transfers. Location and ACL are what the record had while active.
	Location mbox.Location
	ACL      mbox.ACL
	// SessionGone: the session that started the move is over.
	SessionGone bool
	// SourceDropped: the source has asked to delete the name while it synchronised, so its copy is
	// gone, and the destination's is probably the only one.
	SourceDropped bool
}

// Lease is a session that the machine has to remember: it holds names that are being created, or
// its last write was a DELETE that may be the first half of a rename.
type Lease struct {
	Session  string
	Deadline uint64 // lease clock
	Ended    bool
	// Deleted is the name of that DELETE, Direct says that no other write has followed it.
	Deleted mbox.Name
	Direct  bool
}

// Tombstone is what is known of a deleted name: its last record and who deleted it.
type Tombstone struct {
	mbox.Entry        // the last record; Index is that of its last change
	Deleted    uint64 // log index of the deletion
	Clock      uint64 // lease clock of the deletion
	At         int64
	Session    string
}

// CutRename is a name whose deletion was the last thing that a session did. Backends rename in three
// steps (DELETE, RESERVE, ACTIVATE): if the session broke off between them, the mailbox may still
// exist there under the old name. The tombstone has its last record.
type CutRename struct {
	Name    mbox.Name
	Index   uint64 // log index of the end of the session
	Clock   uint64
	Session string
}

// Conflict is an entry of the conflict register: a name that one server holds and another claimed.
// It stays until one of them gives up or an operator decides.
type Conflict struct {
	Name        mbox.Name
	Holder      mbox.Server
	Claimant    mbox.Server
	Claim       mbox.Location // what the claimant sent last, with ACL
	ACL         mbox.ACL
	First, Last uint64 // log indexes of the first and the last claim
	Count       uint64
	At          int64 // of the last claim
	Identity    string
	Peer        string
}

// Departure says that a server's copy of a mailbox, if it still has one, is a leftover: the mailbox is
// elsewhere. An empty Server stands for every server but the holder, which has given up a move.
type Departure struct {
	Name   mbox.Name
	Server mbox.Server
	Index  uint64 // log index
	Clock  uint64 // lease clock
	At     int64
}

// EventKind says what happened to a mailbox. The values are stored: never renumber them.
type EventKind uint8

const (
	EventReserved EventKind = 1 + iota
	EventActivated
	EventUpdated // an active record got another partition or ACL
	EventMoved   // the record went to another server by a transfer
	EventDeactivated
	EventDeleted
	EventExpired       // a reservation ran out
	EventConflict      // a claim was refused
	EventTakeover      // another server's record was taken by right
	EventForced        // another server's record was changed in permissive mode
	EventPhantom       // an ACTIVATE was answered but not applied
	EventHealed        // the first half of a rename was undone
	EventCutRename     // the session ended after a DELETE
	EventUnbound       // DELETE by a session whose server is not known
	EventSourceDropped // the source of a transfer deleted its copy
	EventUnconfirmed   // the reply to the last write may not have arrived
	EventResolved      // an operator cleared a register entry
	EventRemoved       // conditional removal
)

func (k EventKind) String() string {
	names := [...]string{"", "reserved", "activated", "updated", "moved", "deactivated", "deleted", "expired",
		"conflict", "takeover", "forced", "phantom", "healed", "cut-rename", "unbound-delete",
		"source-dropped", "unconfirmed", "resolved", "removed"}
	if int(k) < len(names) {
		return names[k]
	}
	return "unknown"
}

// Event is one line of a mailbox's history.
type Event struct {
	N        uint64 // running number
	Index    uint64 // log index
	At       int64
	Kind     EventKind
	Name     mbox.Name
	Location mbox.Location // the record's after the event; the refused claim's for a conflict
	Old      mbox.Location // the record's before the event
	Identity string
	Peer     string
	Session  string
}

// Bounds of the tables. The machine drops the oldest rows beyond them, or refuses what would exceed
// them where dropping could do harm.
const (
	maxEvents        = 1 << 15 // of all mailboxes
	maxEventsPerName = 32
	// Refused claims have a share of these: a backend that claims everything must not erase what has happened.
	// The conflict register counts them, and has the last of each name.
	maxRefused        = 1 << 12
	maxRefusedPerName = 8
	maxTombstones     = 100_000
	maxCutRenames     = 1024
	maxConflicts      = 250_000 // further ones are refused as usual but not registered
	maxDepartures     = 1 << 20
	maxNodes          = 1024
	maxAttributes     = 64 // of a node
	maxSettings       = 1024
	maxTokens         = 256
	maxTokenUses      = 1024
	maxResults        = 4096 // per incarnation
	maxIncarnations   = 1024
	// maxIncarnationsOfNode leaves a node that has just been started again time to be asked about what it sent
	// before.
	maxIncarnationsOfNode = 8
	maxNonce              = 64
	maxSettingValue       = 64 << 10
	maxSettingKey         = 256
	checkpointsToKeep     = 1024
)

// Times of the lease clock, in milliseconds.
const (
	second           = 1000
	leaseTime        = 120 * second
	leaseAfterEnd    = 30 * second
	leaseGranularity = second // a lease is not renewed for less
	phantomTime      = 60 * second
	tombstoneTime    = 7 * 24 * 3600 * second
	departureTime    = 90 * 24 * 3600 * second
	silentTime       = 3600 * second // an incarnation that says nothing for so long is dropped
	aliveGranularity = 60 * second
)
