package mbox

import "strings"

// MaxACLLen is the longest ACL in octets: one MUPDATE literal of the largest size Cyrus accepts.
const MaxACLLen = 128 << 10

// ACL is an access control list as Cyrus writes it: "identifier TAB rights TAB", repeated. The map
// stores and compares the octets; only visibility asks what they mean. Source: RFC 4314 for the
// meaning of the letters.
type ACL string

// Rights is a set of RFC 4314 rights and Cyrus's user-defined digits.
type Rights uint32

const rightLetters = "lrswipkxtean0123456789"

// Commonly tested rights.
const (
	Lookup     Rights = 1 << iota // l
	Read                          // r
	Seen                          // s
	WriteFlags                    // w
	Insert                        // i
	Post                          // p
	CreateMbox                    // k
	DeleteMbox                    // x
	DeleteMsg                     // t
	Expunge                       // e
	Administer                    // a
	Annotate                      // n
	AllRights  = 1<<len(rightLetters) - 1
)

// "c" and "d" are older words for two pairs of rights (RFC 4314 section 2.1.1). Cyrus: it writes them beside
// either right of the pair, and reads them where it finds neither.
const (
	oldC = CreateMbox | DeleteMbox
	oldD = DeleteMsg | Expunge
)

// ParseRights reads a string of right letters; unknown letters are ignored.
func ParseRights(s string) Rights {
	var r Rights
	for i := 0; i < len(s); i++ {
		if j := strings.IndexByte(rightLetters, s[i]); j >= 0 {
			r |= 1 << j
		}
	}
	if r&oldC == 0 && strings.Contains(s, "c") {
		r |= oldC
	}
	if r&oldD == 0 && strings.Contains(s, "d") {
		r |= oldD
	}
	return r
}

// Has reports whether all of want are present.
func (r Rights) Has(want Rights) bool { return r&want == want }

// String writes the letters in Cyrus's order.
func (r Rights) String() string {
	var b strings.Builder
	for j := range len(rightLetters) {
		if r&(1<<j) != 0 {
			b.WriteByte(rightLetters[j])
		}
		if 1<<j != Expunge {
			continue
		}
		if r&oldC != 0 {
			b.WriteByte('c')
		}
		if r&oldD != 0 {
			b.WriteByte('d')
		}
	}
	return b.String()
}

// Entries calls yield with each identifier and its rights, in stored order. A list cut short in the
// middle of a pair ends the walk, as in Cyrus.
func (a ACL) Entries(yield func(identifier, rights string) bool) {
	rest := string(a)
	for rest != "" {
		id, after, ok := strings.Cut(rest, "\t")
		if !ok {
			return
		}
		rights, next, ok := strings.Cut(after, "\t")
		if !ok {
			return
		}
		if !yield(id, rights) {
			return
		}
		rest = next
	}
}

// RightsOf returns the effective rights of a user who is a member of groups: the union of the
// entries that match, less the union of the negative entries ("-identifier") that match
// (RFC 4314 section 2). "anyone" matches everybody, "group:NAME" the members.
func (a ACL) RightsOf(user UserID, groups []string) Rights {
	var grant, deny Rights
	a.Entries(func(id, rights string) bool {
		if neg, ok := strings.CutPrefix(id, "-"); ok {
			if matches(neg, user, groups) {
				deny |= ParseRights(rights)
			}
		} else if matches(id, user, groups) {
			grant |= ParseRights(rights)
		}
		return true
	})
	return grant &^ deny
}

func matches(identifier string, user UserID, groups []string) bool {
	if identifier == "anyone" || identifier == string(user) {
		return true
	}
	group, ok := strings.CutPrefix(identifier, "group:")
	if !ok {
		return false
	}
	for _, g := range groups {
		if g == group {
			return true
		}
	}
	return false
}
