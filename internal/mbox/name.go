package mbox

import (
	"fmt"
	"strings"
)

// MaxNameLen is the longest internal mailbox name in octets.
//
// Cyrus: MAX_MAILBOX_BUFFER is 1024 with its terminating NUL.
const MaxNameLen = 1023

// Name is a mailbox name in Cyrus's internal form: hierarchy separator ".", users below "user.",
// a literal dot inside a component written "^", an optional "domain!" in front, modified UTF-7,
// compared octet by octet (RFC 3656 section 3.5).
type Name string

// Extern is a mailbox name as an IMAP client of one particular user writes it.
type Extern string

// UserID is a canonical login name, with "@domain" when the user is outside the default domain.
type UserID string

// Split cuts a name into its domain ("" for none) and the rest. Only the first "!" separates.
func (n Name) Split() (domain string, local Name) {
	if i := strings.IndexByte(string(n), '!'); i >= 0 {
		return string(n[:i]), n[i+1:]
	}
	return "", n
}

// Parent returns the name one level up within the same domain, and false for a top-level name.
func (n Name) Parent() (Name, bool) {
	domain, local := n.Split()
	i := strings.LastIndexByte(string(local), '.')
	if i < 0 {
		return "", false
	}
	if domain != "" {
		return Name(domain) + "!" + local[:i], true
	}
	return local[:i], true
}

// User returns the internal user part of a name below "user." (dots as "^", without the domain),
// and false for a shared name.
func (n Name) User() (string, bool) {
	_, local := n.Split()
	rest, ok := strings.CutPrefix(string(local), "user.")
	if !ok || rest == "" {
		return "", false
	}
	user, _, _ := strings.Cut(rest, ".")
	return user, true
}

// IsInbox reports whether n is the root mailbox of a user.
func (n Name) IsInbox() bool {
	_, local := n.Split()
	rest, ok := strings.CutPrefix(string(local), "user.")
	return ok && rest != "" && !strings.Contains(rest, ".")
}

// Validate reports why n cannot be a mailbox name, or nil. It asks only what the map itself needs:
// a length, and none of the octets that the protocol or the sort key reserve. Name rules beyond
// that are the backends' business.
func (n Name) Validate() error {
	switch {
	case n == "":
		return fmt.Errorf("mailbox name is empty")
	case len(n) > MaxNameLen:
		return fmt.Errorf("mailbox name has %d octets, at most %d are allowed", len(n), MaxNameLen)
	}
	for i := 0; i < len(n); i++ {
		if c := n[i]; c < 0x20 || c == 0x7f {
			return fmt.Errorf("mailbox name holds control octet 0x%02x at %d", c, i)
		}
	}
	return nil
}
