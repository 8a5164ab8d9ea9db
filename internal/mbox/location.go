package mbox

import (
	"fmt"
	"strings"
)

// MaxLocationLen is the longest location in octets. Cyrus clients read it into 1024 octets.
const MaxLocationLen = 1023

// Server is the name of a backend: what it registers as its servername, compared octet by octet.
// It may hold a port ("localhost:2143").
type Server string

// Location says where a mailbox lives: "server!partition". Cyrus 3.6 and later send "server!" with
// an empty partition after a rename, and the RFC's own examples lack the "!"; all are kept verbatim.
type Location string

// At joins a server and a partition.
func At(server Server, partition string) Location {
	return Location(string(server) + "!" + partition)
}

// Split cuts a location at its first "!".
func (l Location) Split() (Server, string) {
	server, partition, _ := strings.Cut(string(l), "!")
	return Server(server), partition
}

// Server returns the part before the first "!".
func (l Location) Server() Server { s, _ := l.Split(); return s }

// Partition returns the part after the first "!", which may be empty.
func (l Location) Partition() string { _, p := l.Split(); return p }

// Validate reports why l cannot be a location, or nil.
func (l Location) Validate() error {
	switch {
	case l == "":
		return fmt.Errorf("location is empty")
	case len(l) > MaxLocationLen:
		return fmt.Errorf("location has %d octets, at most %d are allowed", len(l), MaxLocationLen)
	case strings.Count(string(l), "!") > 1:
		return fmt.Errorf("location %q has more than one \"!\"", l)
	}
	for i := 0; i < len(l); i++ {
		if c := l[i]; c < 0x20 || c == 0x7f {
			return fmt.Errorf("location holds control octet 0x%02x at %d", c, i)
		}
	}
	return nil
}
