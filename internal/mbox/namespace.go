package mbox

import (
	"errors"
	"fmt"
	"strings"
)

// Namespace says how the names of the map look to IMAP clients. All servers of a Murder must agree
// on it, because names travel to the backends as the client wrote them.
type Namespace struct {
	// Alt puts a user's own folders beside INBOX instead of below it. Cyrus: altnamespace.
	Alt bool
	// Dot makes "." the hierarchy separator instead of "/". Cyrus: unixhierarchysep off.
	Dot bool
	// Prefixes of the alternative namespace, without separator; "" means Cyrus's "Other Users",
	// "Shared Folders" and "Alt Folders". Cyrus: userprefix, sharedprefix, altprefix.
	UserPrefix, SharedPrefix, AltPrefix string
	// Virtual keeps the domains of user names apart. Cyrus: virtdomains: userid.
	Virtual bool
	// DefaultDomain is the domain whose names carry none.
	DefaultDomain string
	// CrossDomains shows mailboxes of other domains to users.
	CrossDomains bool
	// Deleted is the top of the tree of deleted mailboxes; "" means "DELETED".
	Deleted string
}

// What is wrong with a name that a client gave.
var (
	ErrBadName = errors.New("invalid mailbox name")
	// ErrNotMailbox means a level of the hierarchy that can never be a mailbox, such as the
	// prefix of other users' mailboxes.
	ErrNotMailbox = errors.New("not a mailbox")
)

// Separator returns the hierarchy separator that clients see.
func (ns Namespace) Separator() byte {
	if ns.Dot {
		return '.'
	}
	return '/'
}

// Canonical returns the user id for a login name: lower case, without the default domain.
//
// Cyrus: username_tolower, which is on unless configured otherwise.
func (ns Namespace) Canonical(login string) (UserID, error) {
	name := strings.ToLower(login)
	for i := 0; i < len(name); i++ {
		if c := name[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`/!*%"\`, c) >= 0 {
			return "", fmt.Errorf("user name holds octet 0x%02x at %d", c, i)
		}
	}
	if ns.Virtual {
		local, domain := cutDomain(name)
		if domain == ns.DefaultDomain || domain == "" {
			name = local
		}
	}
	if name == "" || len(name) > 255 {
		return "", fmt.Errorf("user name has %d octets", len(name))
	}
	return UserID(name), nil
}

// Inbox returns the internal name of a user's INBOX.
func (ns Namespace) Inbox(user UserID) Name {
	local, domain := string(user), ""
	if ns.Virtual {
		local, domain = cutDomain(local)
	}
	return ns.qualify(domain, "user."+strings.ReplaceAll(local, ".", "^"))
}

// Owner returns the user whose tree n lies in, and false for a shared name.
func (ns Namespace) Owner(n Name) (UserID, bool) {
	part, ok := n.User()
	if !ok {
		return "", false
	}
	user := strings.ReplaceAll(part, "^", ".")
	if domain, _ := n.Split(); domain != "" {
		user += "@" + domain
	}
	return UserID(user), true
}

// IsDeleted reports whether n is the leftover of a delayed deletion.
func (ns Namespace) IsDeleted(n Name) bool {
	_, local := n.Split()
	top, _, _ := strings.Cut(string(local), ".")
	return top == ns.deleted()
}

func (ns Namespace) deleted() string      { return orElse(ns.Deleted, "DELETED") }
func (ns Namespace) userPrefix() string   { return orElse(ns.UserPrefix, "Other Users") }
func (ns Namespace) sharedPrefix() string { return orElse(ns.SharedPrefix, "Shared Folders") }
func (ns Namespace) altPrefix() string    { return orElse(ns.AltPrefix, "Alt Folders") }

func (ns Namespace) qualify(domain, local string) Name {
	if domain == "" || domain == ns.DefaultDomain {
		return Name(local)
	}
	return Name(domain + "!" + local)
}

// Viewer translates names for one user. It is a value; make one for each login.
type Viewer struct {
	ns     *Namespace
	user   UserID
	inbox  Name
	domain string
	admin  bool
	utf8   bool
}

// View returns the viewer for a user. Administrators see every name from the top, whatever the
// namespace of users. With utf8 the client's form of names is UTF-8 (RFC 6855, RFC 9051), otherwise
// modified UTF-7. The viewer goes by ns, which must not be changed.
func (ns *Namespace) View(user UserID, admin, utf8 bool) Viewer {
	v := Viewer{ns: ns, user: user, inbox: ns.Inbox(user), admin: admin, utf8: utf8}
	v.domain, _ = v.inbox.Split()
	return v
}

// Inbox returns the internal name of the viewer's own INBOX.
func (v Viewer) Inbox() Name { return v.inbox }

// Separator returns the hierarchy separator.
func (v Viewer) Separator() byte { return v.ns.Separator() }

// Prefixes returns the first levels below which the viewer finds other users' and shared mailboxes:
// the NAMESPACE answer (RFC 2342).
func (v Viewer) Prefixes() (other, shared string) {
	if v.alt() {
		return v.ns.userPrefix(), v.ns.sharedPrefix()
	}
	return "user", ""
}

// Personal returns the prefix of the viewer's own folders with its separator, and false if the
// viewer, an administrator, has no names of his own.
func (v Viewer) Personal() (string, bool) {
	switch {
	case v.admin:
		return "", false
	case v.ns.Alt:
		return "", true
	}
	return "INBOX" + string(v.Separator()), true
}

// alt reports whether the viewer's names are those of the alternative namespace, which
// administrators never see.
func (v Viewer) alt() bool { return v.ns.Alt && !v.admin }

// Owns reports whether n is the viewer's INBOX or lies below it.
func (v Viewer) Owns(n Name) bool {
	rest, ok := strings.CutPrefix(string(n), string(v.inbox))
	return ok && (rest == "" || rest[0] == '.')
}

// Internal translates a name that the client wrote. The errors are ErrBadName and ErrNotMailbox;
// both mean that no such mailbox can exist for this viewer.
func (v Viewer) Internal(e Extern) (Name, error) {
	s, err := v.wire(string(e))
	if err != nil {
		return "", err
	}
	if strings.EqualFold(s, "INBOX") {
		return v.inbox, nil
	}
	domain := v.domain
	if v.admin && v.ns.Virtual {
		if local, d := cutDomain(s); d != "" {
			s, domain = local, d
		}
	}
	parts := strings.Split(s, string(v.Separator()))
	for _, p := range parts {
		if p == "" {
			return "", ErrBadName
		}
	}
	var n Name
	if v.alt() {
		n, err = v.fromAlt(parts)
	} else {
		n, err = v.fromPlain(parts, domain)
	}
	if err != nil {
		return "", err
	}
	if n.Validate() != nil {
		return "", ErrBadName
	}
	return n, nil
}

// wire returns the modified UTF-7 form of what the client wrote, checked.
func (v Viewer) wire(s string) (string, error) {
	if s == "" || len(s) > MaxNameLen {
		return "", ErrBadName
	}
	var err error
	if v.utf8 {
		s, err = EncodeUTF7(s)
	} else {
		_, err = DecodeUTF7(s)
	}
	// "^" stands for a dot inside; a client's own could not come back as it was. "!" ends a domain.
	if err != nil || (!v.ns.Dot && strings.Contains(s, "^")) || strings.Contains(s, "!") {
		return "", ErrBadName
	}
	return s, nil
}

func (v Viewer) fromAlt(parts []string) (Name, error) {
	switch first := parts[0]; {
	case strings.EqualFold(first, "INBOX"):
		return v.inbox + "." + Name(v.join(append([]string{"INBOX"}, parts[1:]...))), nil
	case first == v.ns.altPrefix() && len(parts) > 1:
		return v.inbox + "." + Name(v.join(parts[1:])), nil
	case first == v.ns.userPrefix() && len(parts) > 1:
		return v.ofUser(parts[1:])
	case first == v.ns.sharedPrefix() && len(parts) > 1:
		if parts[1] == "user" || parts[1] == v.ns.deleted() {
			return "", ErrNotMailbox
		}
		return v.ns.qualify(v.domain, v.join(parts[1:])), nil
	case first == v.ns.altPrefix() || first == v.ns.userPrefix() || first == v.ns.sharedPrefix():
		return "", ErrNotMailbox
	}
	return v.inbox + "." + Name(v.join(parts)), nil
}

func (v Viewer) fromPlain(parts []string, domain string) (Name, error) {
	switch first := parts[0]; {
	case strings.EqualFold(first, "INBOX"):
		return v.inbox + "." + Name(v.join(parts[1:])), nil
	case first == "user" && len(parts) == 1:
		return "", ErrNotMailbox
	case first == "user" && !v.admin:
		return v.ofUser(parts[1:])
	case first == v.ns.deleted() && !v.admin:
		return "", ErrNotMailbox
	}
	return v.ns.qualify(domain, v.join(parts)), nil
}

// ofUser translates USER[@DOMAIN], FOLDER... of another user.
func (v Viewer) ofUser(parts []string) (Name, error) {
	user, domain := parts[0], v.domain
	if v.ns.Virtual {
		if local, d := cutDomain(user); d != "" {
			user, domain = local, d
		}
	}
	if domain != v.domain && domain != v.ns.DefaultDomain && !v.ns.CrossDomains {
		return "", ErrNotMailbox
	}
	return v.ns.qualify(domain, "user."+v.join(append([]string{user}, parts[1:]...))), nil
}

// join makes components of the client's form an internal name.
func (v Viewer) join(parts []string) string {
	s := strings.Join(parts, "\x00")
	if !v.ns.Dot {
		s = strings.ReplaceAll(s, ".", "^")
	}
	return strings.ReplaceAll(s, "\x00", ".")
}

// External translates an internal name; false means that the viewer has no name for it. It does
// not ask for rights.
func (v Viewer) External(n Name) (Extern, bool) {
	domain, local := n.Split()
	var s string
	ok := true
	if v.admin {
		s = v.show(string(local))
		if domain != v.domain {
			s += "@" + orElse(domain, v.ns.DefaultDomain)
		}
	} else {
		s, ok = v.userForm(n, domain, string(local))
	}
	if ok && v.utf8 {
		text, err := DecodeUTF7(s)
		return Extern(text), err == nil
	}
	return Extern(s), ok
}

func (v Viewer) userForm(n Name, domain, local string) (string, bool) {
	sep := string(v.Separator())
	if v.Owns(n) {
		if n == v.inbox {
			return "INBOX", true
		}
		rest := string(n[len(v.inbox)+1:])
		if !v.ns.Alt {
			return "INBOX" + sep + v.show(rest), true
		}
		return v.ownAlt(rest), true
	}
	top, below, deep := strings.Cut(local, ".")
	switch {
	case top == v.ns.deleted() || domain != v.domain && !v.ns.CrossDomains:
		return "", false
	case top == "user" && !deep:
		return "", false
	case top != "user" && domain != v.domain:
		return "", false // a shared name has no place for a domain
	case top != "user" && v.ns.Alt:
		return v.ns.sharedPrefix() + sep + v.show(local), true
	case top != "user":
		return v.show(local), true
	}
	user, folder, deep := strings.Cut(below, ".")
	s := orElse(v.otherPrefix(), "user") + sep + v.show(user)
	if domain != v.domain {
		s += "@" + orElse(domain, v.ns.DefaultDomain)
	}
	if deep {
		s += sep + v.show(folder)
	}
	return s, true
}

func (v Viewer) otherPrefix() string { other, _ := v.Prefixes(); return other }

// ownAlt gives the form of a folder of the viewer's own in the alternative namespace, where INBOX
// and the prefixes are taken.
func (v Viewer) ownAlt(rest string) string {
	sep := string(v.Separator())
	shown := v.show(rest)
	first, below, deep := strings.Cut(shown, sep)
	switch {
	case first == "INBOX" && deep:
		return "INBOX" + sep + below
	case strings.EqualFold(first, "INBOX"), first == v.ns.altPrefix(), first == v.ns.userPrefix(), first == v.ns.sharedPrefix():
		return v.ns.altPrefix() + sep + shown
	}
	return shown
}

// ScanFrom returns what the internal names of all matches of p begin with, as far as that is known:
// names with one beginning stand together in OrderDB. It serves administrators, whose names differ
// from the internal ones by their separators only; for others, and with domains, it is "".
func (v Viewer) ScanFrom(p Pattern) Name {
	prefix := p.Prefix()
	if !v.admin || v.ns.Virtual || v.utf8 || p.fold != "" || strings.HasPrefix(prefix, "INBOX") {
		return ""
	}
	return Name(v.join(strings.Split(prefix, string(v.Separator()))))
}

// show writes internal separators and dots as clients see them.
func (v Viewer) show(local string) string {
	if v.ns.Dot {
		return local
	}
	return unixSep.Replace(local)
}

var unixSep = strings.NewReplacer(".", "/", "^", ".")

// cutDomain splits at the last "@"; the domain is "" if there is none.
func cutDomain(s string) (local, domain string) {
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		return s[:i], s[i+1:]
	}
	return s, ""
}

func orElse(s, def string) string {
	if s == "" {
		return def
	}
	return s
}
