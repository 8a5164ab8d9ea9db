package mbox

import "errors"

// Kind says what a Write asks for. The values travel in the log: never renumber them.
type Kind uint8

const (
	Reserve    Kind = 1 + iota // RFC 3656 section 4.9
	Activate                   // RFC 3656 section 4.1
	Deactivate                 // Cyrus: DEACTIVATE, named in RFC 3656 section 4.3
	Delete                     // RFC 3656 section 4.4
	// EndSession tells that the session in By is over: its create reservations are shortened.
	EndSession
	// Remove is an operator's or a frontend's conditional removal: it deletes Name only while its
	// record still has the index IfIndex.
	Remove
)

func (k Kind) String() string {
	switch k {
	case Reserve:
		return "RESERVE"
	case Activate:
		return "ACTIVATE"
	case Deactivate:
		return "DEACTIVATE"
	case Delete:
		return "DELETE"
	case EndSession:
		return "END-SESSION"
	case Remove:
		return "REMOVE"
	}
	return "UNKNOWN"
}

// Write is one change asked of the map.
type Write struct {
	Kind     Kind
	Name     Name
	Location Location // Reserve, Activate, Deactivate
	ACL      ACL      // Activate
	IfIndex  uint64   // Remove; Activate, if not 0, from cluster version 2 on
	By       Session
}

// IfAbsent is the IfIndex of an Activate that only an absent name meets.
const IfAbsent = ^uint64(0)

// Session is the origin of a write, as far as a decision depends on it or an audit record names it.
type Session struct {
	// ID is unique in the cluster for all time: the serving node makes it of its own id, a value
	// drawn at process start and a counter.
	ID string
	// Identity is the authentication identity, Peer the client's address.
	Identity string
	Peer     string
	// Servers are the server names the session may speak for: from the identity's binding, else
	// the peer's, else the server part it has used before in this session. Empty if none is known.
	Servers []Server
	Flags   SessionFlags
}

// SessionFlags modify decisions. The values travel in the log: never renumber them.
type SessionFlags uint16

const (
	// Permissive accepts what Cyrus's own master would: the last writer wins.
	Permissive SessionFlags = 1 << iota
	// Takeover may ACTIVATE over another server's record (planned failover of a backend).
	Takeover
	// Sync marks a session that has sent LIST with a prefix: ctl_mboxlist -m.
	Sync
	// DenyUnknownDelete answers NO to DELETE of an absent name (RFC 3656 section 4.4).
	DenyUnknownDelete
	// DenyUnboundDelete refuses DELETE from a session whose server is not known.
	DenyUnboundDelete
	// CompleteTransfer lets a Sync session ACTIVATE over another server's transfer reservation.
	CompleteTransfer
	// LoggedOut, with EndSession, says that the client left of its own accord, and that no write was refused
	// since its last DELETE: that was no rename.
	LoggedOut
	// RenameRefused, with EndSession, says that the session's RESERVE right after its DELETE of this name was
	// refused before it could be decided. The session is not over (to cluster version 1 it is).
	RenameRefused
	// Unified is a server whose list has the mailboxes of other servers too (Cyrus: mupdate_config: unified).
	Unified
)

// Outcome is the decision on a Write. The values travel in the dedupe table: never renumber them.
type Outcome uint8

const (
	Done         Outcome = iota
	Exists               // the name is held: "mailbox already exists"
	NotExist             // "mailbox doesn't exist"
	NotActive            // "mailbox not currently active"
	Conflict             // held by another server, named in Verdict.Holder
	InTransfer           // a transfer reservation that a sync session may not complete
	Unbound              // DELETE by a session whose server is unknown, and policy denies it
	Changed              // Remove, Activate with IfIndex: the record is not the one the caller saw
	NotProcessed         // too old to be remembered: the outcome cannot be told any more
	Outdated             // another server, named in Verdict.Holder, has deleted what a unified one claims by an old list
)

func (o Outcome) String() string {
	names := [...]string{"done", "exists", "not-exist", "not-active", "conflict", "in-transfer", "unbound", "changed", "not-processed", "outdated"}
	if int(o) < len(names) {
		return names[o]
	}
	return "unknown"
}

// Verdict is what became of a Write. A refusal is a verdict, not an error: it is decided in the
// log, alike on every node.
type Verdict struct {
	Outcome Outcome
	// Holder is the location of the record that stood in the way, for messages.
	Holder Location
	// Index is the log index at which the write was decided.
	Index uint64
}

// Errors of the calls that reach the cluster. They say what is known about the outcome.
var (
	// ErrUnavailable: nothing has happened; no leader could be reached in time. Try again later.
	ErrUnavailable = errors.New("no quorum: the change was not made")
	// ErrUnknownOutcome: the write may or may not be in the log. Answer with a temporary failure
	// or close the connection; never guess.
	ErrUnknownOutcome = errors.New("outcome unknown: the leader was lost while the change was under way")
	// ErrLagged: the requested changes are no longer kept; start again from a fresh View.
	ErrLagged = errors.New("change feed has moved on: start again from a new copy")
	// ErrNotSynced: this node has never held a complete copy of the map.
	ErrNotSynced = errors.New("not synchronised yet: this node has no complete copy of the map")
)
