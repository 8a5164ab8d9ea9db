package fsm

import "fmt"

// CorruptError says that a log entry or snapshot is not what was written. The copy cannot go on.
type CorruptError struct {
	Index uint64 // log index, 0 if it is not known
	What  string
}

func (e *CorruptError) Error() string {
	if e.Index == 0 {
		return "corrupt data: " + e.What
	}
	return fmt.Sprintf("corrupt log entry %d: %s", e.Index, e.What)
}

// UnknownCommandError says that a log entry asks for something this binary does not know and must
// not skip: a newer one is needed.
type UnknownCommandError struct {
	Index   uint64
	Type    uint64
	Version uint64
}

func (e *UnknownCommandError) Error() string {
	return fmt.Sprintf("log entry %d: command type %d version %d is not known: a newer version is needed", e.Index, e.Type, e.Version)
}

// SnapshotVersionError says that a snapshot needs a newer reader.
type SnapshotVersionError struct {
	Needs uint64 // snapshot format version
}

func (e *SnapshotVersionError) Error() string {
	return fmt.Sprintf("snapshot needs format version %d, this binary reads up to %d: a newer version is needed", e.Needs, SnapshotVersion)
}
