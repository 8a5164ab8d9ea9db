// Package admin is the operator's interface to a node: JSON over HTTP on a unix socket or a TCP port.
// This package has its types, a client and a handler; it knows nothing of how a cluster works.
//
// Every error is {"error": ..., "hint": ...}: what went wrong, and what to try next.
package admin

import "time"

// InitRequest makes a new cluster of one node.
type InitRequest struct {
	ClusterID string `json:"cluster_id,omitempty"` // drawn if empty
}

// InitAnswer says what was made.
type InitAnswer struct {
	ClusterID string `json:"cluster_id"`
}

// TokenRequest asks for a join token.
type TokenRequest struct {
	Role     string        `json:"role"`               // coordinator, frontend or agent
	Lifetime time.Duration `json:"lifetime,omitempty"` // nanoseconds; default one hour
	Uses     int           `json:"uses,omitempty"`     // default 1
}

// TokenAnswer holds the token: one line, a secret.
type TokenAnswer struct {
	ID      string    `json:"id"`
	Token   string    `json:"token"`
	Role    string    `json:"role"`
	Uses    int       `json:"uses"`
	Expires time.Time `json:"expires"`
}

// TokenInfo describes a token without its secret.
type TokenInfo struct {
	ID       string    `json:"id"`
	Role     string    `json:"role"`
	UsesLeft int       `json:"uses_left"`
	UsedBy   []string  `json:"used_by,omitempty"`
	Expires  time.Time `json:"expires"`
}

// JoinRequest makes this node a member.
type JoinRequest struct {
	Token string `json:"token"`
}

// TransferRequest moves the leader: to a node, or to whoever is furthest if To is empty.
type TransferRequest struct {
	To string `json:"to,omitempty"`
}

// FinalizeAnswer says how far the cluster version was raised.
type FinalizeAnswer struct {
	From      uint32   `json:"from"`
	Version   uint32   `json:"cluster_version"`
	BlockedBy []string `json:"blocked_by,omitempty"` // nodes that keep it from going further
}

// AddressRequest tells the cluster where a member is.
type AddressRequest struct {
	Address string `json:"address"`
}

// Status is the cluster as one node sees it.
type Status struct {
	Node      string `json:"node"` // that answers
	ClusterID string `json:"cluster_id,omitempty"`
	Version   uint32 `json:"cluster_version,omitempty"`
	// VersionPossible is what all registered nodes can speak, VersionBlockedBy who keeps it below what
	// some can, and VersionRaisedAt when it will be raised if nobody does so before.
	VersionPossible  uint32    `json:"cluster_version_possible,omitempty"`
	VersionBlockedBy []string  `json:"cluster_version_blocked_by,omitempty"`
	VersionRaisedAt  time.Time `json:"cluster_version_raised_at,omitzero"`

	Leader string `json:"leader,omitempty"`
	Voters int    `json:"voters"`
	// VotersUp counts the voters that answered, Quorum is how many are needed.
	VotersUp int          `json:"voters_up"`
	Quorum   int          `json:"quorum"`
	Nodes    []NodeStatus `json:"nodes"`
	// Problem is a sentence for the operator, empty when all is well.
	Problem string `json:"problem,omitempty"`
}

// NodeStatus is one member.
type NodeStatus struct {
	ID       string            `json:"id"`
	Role     string            `json:"role"`
	Address  string            `json:"address"`
	Services map[string]string `json:"services,omitempty"`
	Suffrage string            `json:"suffrage"`         // voter, learner, none
	State    string            `json:"state"`            // of the registry: joining, active, draining
	Gossip   string            `json:"gossip,omitempty"` // alive, gone: what gossip believes, a hint
	// Error says why the node did not answer; what follows is then unknown.
	Error        string `json:"error,omitempty"`
	Raft         string `json:"raft,omitempty"` // leader, follower, candidate, shutdown
	Leader       string `json:"leader,omitempty"`
	Term         uint64 `json:"term,omitempty"`
	LastIndex    uint64 `json:"last_index,omitempty"`
	CommitIndex  uint64 `json:"commit_index,omitempty"`
	AppliedIndex uint64 `json:"applied_index,omitempty"` // by the copy of the map
	Lag          uint64 `json:"lag"`                     // entries behind the furthest copy
	Digest       string `json:"digest,omitempty"`        // of the copy at AppliedIndex
	Diverged     bool   `json:"diverged,omitempty"`      // a majority of the voters has another copy
	Disputed     bool   `json:"disputed,omitempty"`      // the leader has another copy, and no majority says who is right
	Mailboxes    int    `json:"mailboxes"`
	Synced       bool   `json:"synced"`
	Draining     bool   `json:"draining,omitempty"`
	Serving      bool   `json:"serving,omitempty"` // takes clients, or has some that are not done yet
	Version      string `json:"version,omitempty"` // of the program
	MinCluster   uint32 `json:"min_cluster,omitempty"`
	MaxCluster   uint32 `json:"max_cluster,omitempty"`
	// Refused is why the cluster does not want the node.
	Refused     string    `json:"refused,omitempty"`
	CertExpires time.Time `json:"certificate_expires,omitzero"`
	StoreAgeMS  int64     `json:"store_age_ms,omitempty"` // of the oldest call to the log store under way
	// Findings are what the process itself has to say to an operator.
	Findings []Finding `json:"findings,omitempty"`
}

// DigestReport compares the copies of all nodes at one index.
type DigestReport struct {
	Index uint64       `json:"index"`
	Equal bool         `json:"equal"` // every node answered, and all alike
	Nodes []NodeDigest `json:"nodes"`
}

// NodeDigest is one copy's digest at the report's index.
type NodeDigest struct {
	Node   string `json:"node"`
	Digest string `json:"digest,omitempty"`
	Error  string `json:"error,omitempty"`
}

// Mailbox is one record of the map.
type Mailbox struct {
	Name     string `json:"name"`
	Server   string `json:"server"`
	Location string `json:"location"`
	ACL      string `json:"acl,omitempty"`
	State    string `json:"state"` // active, reserved
	Transfer bool   `json:"transfer,omitempty"`
	Index    uint64 `json:"index"`
}

// Reservation is a reserved name and why it is.
type Reservation struct {
	Name          string `json:"name"`
	Transfer      bool   `json:"transfer"`
	Session       string `json:"session,omitempty"`
	AgeSeconds    int64  `json:"age_seconds"` // of leadership: time without a leader does not count
	Location      string `json:"location,omitempty"`
	SessionGone   bool   `json:"session_gone,omitempty"`
	SourceDropped bool   `json:"source_dropped,omitempty"`
}

// Conflict is a name that one server holds and another claimed.
type Conflict struct {
	Name     string    `json:"name"`
	Holder   string    `json:"holder"`
	Claimant string    `json:"claimant"`
	Claim    string    `json:"claim"`
	Count    uint64    `json:"count"`
	Last     time.Time `json:"last"`
	Identity string    `json:"identity,omitempty"`
	Peer     string    `json:"peer,omitempty"`
}

// Event is one line of a mailbox's history.
type Event struct {
	Index    uint64    `json:"index"`
	At       time.Time `json:"at"`
	Kind     string    `json:"kind"`
	Name     string    `json:"name"`
	Location string    `json:"location,omitempty"`
	Old      string    `json:"old,omitempty"`
	Identity string    `json:"identity,omitempty"`
	Peer     string    `json:"peer,omitempty"`
	Session  string    `json:"session,omitempty"`
}

// Health is the answer of the health endpoints.
type Health struct {
	OK     bool    `json:"ok"`
	Checks []Check `json:"checks"`
}

// Check is one condition of a health answer.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"`
}

// MailboxQuery selects records. All conditions must hold.
type MailboxQuery struct {
	Prefix     string // of the name
	Pattern    string // as in LIST: "*" any text, "%" any text without "."
	Server     string
	State      string // active, reserved
	After      string // names that follow this one
	Limit      int    // default 1000, at most 10000
	Consistent bool   // everything committed before is in the answer
}

// MailboxPage is a part of a list.
type MailboxPage struct {
	Index     uint64    `json:"index"` // of the copy that was listed
	Mailboxes []Mailbox `json:"mailboxes"`
	Next      string    `json:"next,omitempty"` // MailboxQuery.After of the next page, empty at the end
}

// RestoreReport says what a backup would change in the map, or has changed.
type RestoreReport struct {
	BackupIndex uint64 `json:"backup_index"`
	Index       uint64 `json:"index"` // of the map that it was compared with
	Adds        int    `json:"adds"`
	Changes     int    `json:"changes"`
	Deletes     int    `json:"deletes"`
	Skipped     int    `json:"skipped"` // left alone: reserved, or changed meanwhile
	Applied     bool   `json:"applied"`
	// LeftAlone names the first of what was skipped.
	LeftAlone []string `json:"left_alone,omitempty"`
}
