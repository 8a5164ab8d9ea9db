// Package cluster makes several copies of the mailbox map one service: Raft between the coordinators,
// learners on frontends and beside backends, one mutually authenticated port between nodes, writes
// forwarded to the leader exactly once, linearizable reads, membership and its keys.
//
// A Node is all of that for one process. It satisfies the small interfaces that the protocol packages
// declare: Write, Barrier, View, Changes, Synced, Leader.
//
// What happens to a write: the proposer of the node numbers it (propose.go), a link carries it to the
// leader (link.go, wire.go) or hands it over at once when this node leads, the batcher puts many of
// them into one log entry (batch.go), the replica applies the entry (replica.go), the leader tells the
// node that it is committed (tell.go), and the answer goes back and waits until that node's own copy has
// come as far. A write that was under way when the leader was lost is sent again under the same number,
// and the state machine remembers what it decided.
//
// For a linearizable read the leader asks the other voters whether it still leads, or lets the read ride
// an entry of the log (confirm.go). Raft's own VerifyLeader is not used: it counts the answers of learners
// towards a majority of voters.
//
// A leader that stops hands over first (drain.go); for one whose process has ended another voter stands in
// at once (standin.go); for one that only falls silent raft's timeouts have to pass.
//
// Locks, in the order in which they may be taken: Node.mu, linkSet.mu, link.mu, batcher.mu, teller.mu,
// replica.mu. No lock is held while waiting for the network, the disk or raft.
//
// Start order: cluster port bound, identity and keys read, replica, stores, raft, leadership watch,
// links, announcement. Stopping goes the other way, after leadership has been handed over.
package cluster
