package fsm

import "murder/internal/mbox"

// Command is something a log entry can ask of the machine. The set is closed: the types below.
type Command interface {
	kind() kind
}

// MailboxWrite changes the map; see mbox.Write. Its Result carries the verdict for the protocol.
//
// EndSession with a Name and without RenameRefused says that the reply to the session's last write, on that name, may not have
// reached the client: the mailbox gets an EventUnconfirmed in its history.
type MailboxWrite struct {
	mbox.Write
	At int64 // proposer's wall clock, Unix seconds; only for the history
}

// Empty changes nothing. It proves leadership (read index).
type Empty struct{}

// NewTerm is the first command of every leader: leases start again, so that the time without a
// leader shortens none of them.
type NewTerm struct {
	Term   uint64
	Leader string
}

// Tick lets leases end, in the order of their deadlines, and forgets what is too old. Propose it
// every few seconds while View.Leases is not zero, and now and then (with each Checkpoint) otherwise.
type Tick struct {
	At int64 // as in MailboxWrite
}

// Checkpoint states the digest that the leader had after applying entry Index. Every copy compares;
// see Machine.Compared.
type Checkpoint struct {
	Index  uint64
	Digest Digest
}

// RegisterNode adds or replaces a node's record. Refused (RefusedVersion) when the node cannot
// speak the cluster version. Node.Index, when not 0, makes it conditional from cluster version 2 on: there must
// be a record with this Index (RefusedChanged otherwise), so that what was changed meanwhile is not undone.
type RegisterNode struct{ Node Node }

// SetNodeState changes only the state of a registered node.
type SetNodeState struct {
	ID    string
	State NodeState
}

// SetNodeAttribute changes one attribute of a registered node and leaves the rest of its record as it
// is; an empty Value removes it. Needs cluster version 2.
type SetNodeAttribute struct {
	ID, Key, Value string
}

// RemoveNode forgets a node and its proposer incarnations.
type RemoveNode struct{ ID string }

// RegisterProposer gives a process of a node the pair that its envelopes carry. The same node and
// nonce get the same pair again, so it may be repeated safely; propose it in an Envelope with
// Proposer 0.
type RegisterProposer struct {
	NodeID string
	Nonce  string // drawn by the process at its start, at most 64 octets
}

// SetSetting stores a setting; an empty Value removes it.
type SetSetting struct {
	Key, Value string
	// IfIndex, when not 0, makes the change conditional: the setting's Index must be equal to it
	// (RefusedChanged otherwise). IfAbsent asks that there be no such setting.
	IfIndex uint64
}

// IfAbsent is the SetSetting.IfIndex that only a missing setting meets.
const IfAbsent = ^uint64(0)

// SetClusterVersion raises the cluster version. Refused when a registered node cannot follow
// (RefusedVersion, Result.Detail names it) and when it would lower the version (RefusedLower).
type SetClusterVersion struct{ Version uint32 }

// PutToken stores a join token. Now is the proposer's wall clock in Unix seconds; tokens that have
// expired by then are forgotten.
type PutToken struct {
	Token Token
	Now   int64
}

// UseToken takes one use of a token for a node. The same node may present it again without using it
// up, so that an interrupted join can be repeated. Now is the proposer's wall clock, Unix seconds.
type UseToken struct {
	ID         string
	SecretHash [32]byte
	Role       Role
	NodeID     string
	Now        int64
}

// RevokeToken forgets a token.
type RevokeToken struct{ ID string }

// Resolve is an operator's word that an entry of a register has been dealt with.
type Resolve struct {
	What     Register
	Name     mbox.Name
	Claimant mbox.Server // RegisterConflicts: "" for every claimant
	Identity string      // who, for the history
	At       int64
}

// Register names a list that an operator can clear by hand.
type Register uint8

const (
	RegisterConflicts  Register = 1 + iota // View.Conflicts
	RegisterCutRenames                     // View.CutRenames
)

// Role of a node. The values travel in the log.
type Role uint8

const (
	RoleCoordinator Role = 1 + iota
	RoleFrontend
	RoleAgent
)

func (r Role) String() string {
	switch r {
	case RoleCoordinator:
		return "coordinator"
	case RoleFrontend:
		return "frontend"
	case RoleAgent:
		return "agent"
	}
	return "unknown"
}

// NodeState is where a node is in its life. The values travel in the log.
type NodeState uint8

const (
	NodeJoining NodeState = 1 + iota
	NodeActive
	NodeDraining
)

func (s NodeState) String() string {
	switch s {
	case NodeJoining:
		return "joining"
	case NodeActive:
		return "active"
	case NodeDraining:
		return "draining"
	}
	return "unknown"
}

// Node is a record of the registry. Maps read from a View must not be changed.
type Node struct {
	ID            string
	Role          Role
	State         NodeState
	Address       string            // cluster address, host:port
	Services      map[string]string // advertised addresses: mupdate, http, imap ...
	Attributes    map[string]string // anything else that others should know
	DurableLog    bool              // keeps a log on disk; without it a node must never become a voter
	MinCluster    uint32            // cluster versions that its binary can speak
	MaxCluster    uint32
	BinaryVersion string
	Index         uint64 // log index of the last change; set by the machine
}

// Token is a join token without its secret.
type Token struct {
	ID          string
	SecretHash  [32]byte
	Role        Role
	UsesLeft    uint32
	ExpiresUnix int64
	UsedBy      []string // node ids
}

// Setting is one cluster-wide setting.
type Setting struct {
	Key, Value string
	Index      uint64 // log index of the last change
}

// Names of settings that the machine or more than one package reads.
const (
	SettingClusterID     = "cluster-id"
	SettingEpoch         = "epoch"
	SettingVoters        = "voters"
	SettingDeletedPrefix = "deleted-prefix" // top of the tree of deleted mailboxes, default DELETED
)

// Refusal says why a command other than a mailbox write did nothing. The values travel in the
// dedupe table: never renumber them.
type Refusal uint8

const (
	NotRefused       Refusal = iota
	RefusedVersion           // a node cannot speak the cluster version
	RefusedLower             // the cluster version is never lowered
	RefusedChanged           // a condition on the stored record was not met
	RefusedUnknown           // no such node, token or register entry
	RefusedSecret            // the token's secret is wrong
	RefusedExpired           // the token has expired
	RefusedUsed              // the token has no use left
	RefusedRole              // the token is for another role
	RefusedFull              // a table is at its limit
	RefusedNotYet            // the command needs a higher cluster version
	RefusedDuplicate         // a token with this id exists
)

func (r Refusal) String() string {
	names := [...]string{"", "cluster version not supported by node", "cluster version cannot be lowered",
		"changed meanwhile", "unknown", "wrong secret", "expired", "used up", "other role", "table full",
		"needs a higher cluster version", "exists already"}
	if int(r) < len(names) {
		return names[r]
	}
	return "refused"
}

// Result is what became of one command.
type Result struct {
	mbox.Verdict         // of a MailboxWrite; Index is set for every command
	Refusal      Refusal // of the others
	Detail       string  // what stood in the way, for a message
	// Proposer and Incarnation are the answer to RegisterProposer.
	Proposer, Incarnation uint64
	// Repeat marks an answer from the dedupe table: the command had been applied before.
	Repeat bool
}

// Applied is what one log entry did.
type Applied struct {
	Results []Result      // one for each command, in order
	Changes []mbox.Change // in the order they happened; a name may come more than once
	Idle    bool          // there was nothing but Empty commands
}
