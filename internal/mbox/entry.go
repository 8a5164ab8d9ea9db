package mbox

import "strings"

// State is the state of a name in the map.
type State uint8

const (
	// Absent names have no record.
	Absent State = iota
	// Reserved names are held for a mailbox that is being created (Transfer false) or moved
	// (Transfer true): nobody may use them, mail for them waits.
	Reserved
	// Active names have a mailbox at their location.
	Active
)

func (s State) String() string {
	switch s {
	case Reserved:
		return "reserved"
	case Active:
		return "active"
	}
	return "absent"
}

// Entry is one record of the map. The zero value is an absent name.
type Entry struct {
	Name     Name
	Location Location
	ACL      ACL // empty while reserved
	State    State
	// Transfer marks a reservation made by DEACTIVATE: the mailbox exists and is being moved.
	Transfer bool
	// Index is the log index of the last change of this record.
	Index uint64
}

// Change is one event of the map: the record after the change, State Absent for a deletion.
// Old is the location before the change, empty if the name was absent.
type Change struct {
	Entry
	Old Location
}

// View is an immutable copy of the whole map at one log index, in OrderDB. It costs nothing to take
// and must not be kept for long: what has been overwritten since cannot be freed.
type View interface {
	// Index is the log index that the copy reflects.
	Index() uint64
	// Len is the number of records.
	Len() int
	// Get returns the record of a name; ok is false for an absent name.
	Get(Name) (Entry, bool)
	// Ascend walks records in OrderDB from the first name not less than from ("" for all) until
	// yield returns false.
	Ascend(from Name, yield func(Entry) bool)
}

// Subtree walks the records of root and of everything below it, in OrderDB.
func Subtree(v View, root Name, yield func(Entry) bool) {
	v.Ascend(root, func(e Entry) bool {
		rest, ok := strings.CutPrefix(string(e.Name), string(root))
		if !ok || (rest != "" && rest[0] != '.') {
			return false
		}
		return yield(e)
	})
}
