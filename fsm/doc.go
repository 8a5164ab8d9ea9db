// Package fsm is the state machine that the coordinators and frontends agree on: the mailbox map
// with its reservations, the node registry, settings and join tokens, and the table that makes every
// write happen once.
//
// A Machine is a pure function of its log: no clock, no randomness, no input or output, no goroutine
// and no map order takes part in a decision. Two machines that applied the same entries have equal
// digests and write equal snapshots, octet by octet. Time is a lease clock carried by the log
// entries (milliseconds of leadership); wall-clock times appear in commands only where a record
// names them, and are then the proposer's.
//
// The decisions on RESERVE, ACTIVATE, DEACTIVATE and DELETE (RFC 3656 section 4, and what Cyrus
// backends make of it) are taken here, in mailbox.go. Formats are described where they are written:
// command bodies in body.go, envelopes and batches in envelope.go, snapshots in snapshot.go.
package fsm
