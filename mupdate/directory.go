package mupdate

import (
	"context"

	"murder/internal/mbox"
)

// Directory is the map of mailboxes as this package needs it. A cluster node satisfies it. All
// methods are called concurrently.
type Directory interface {
	// Write decides writes in order, all or none: one verdict for each, or an error. An error that
	// is not mbox.ErrUnavailable means that the outcome is unknown. What was decided is in View
	// when it returns.
	Write(context.Context, []mbox.Write) ([]mbox.Verdict, error)
	// Barrier returns once everything committed before the call is in View.
	Barrier(context.Context) (uint64, error)
	// View returns the newest local copy; it is cheap and does not wait.
	View() mbox.View
	// Changes waits for changes after the index and returns them in order with the index up to
	// which they are complete. mbox.ErrLagged means that they are no longer kept.
	Changes(ctx context.Context, after uint64) ([]mbox.Change, uint64, error)
	// Synced reports whether View has ever been complete.
	Synced() bool
}

// The interfaces below are optional: what View returns may have them, and then answers are safer.

// ConflictView knows names that two backends claim and on which no operator has decided yet.
type ConflictView interface {
	InConflict(mbox.Name) bool
}

// TransferView knows whether the source of a transfer has gone away in the middle of it.
type TransferView interface {
	TransferOrphaned(mbox.Name) bool
}

// LeftoverView knows whether a server's own copy of a mailbox, which the map puts elsewhere, is only what
// is left of it there: it was moved away, or an operator has decided against that copy.
type LeftoverView interface {
	Leftover(mbox.Name, mbox.Server) bool
}

// DeletedView walks names that were deleted not long ago, in any order. all tells that none of the
// last days is missing.
type DeletedView interface {
	DeletedNames(yield func(mbox.Name) bool) (all bool)
}

// LocatedView walks the records whose location begins with prefix, in OrderDB, faster than Ascend.
type LocatedView interface {
	AscendAt(prefix string, yield func(mbox.Entry) bool)
}
