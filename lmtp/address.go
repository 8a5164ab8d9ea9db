package lmtp

import (
	"errors"
	"strings"

	"murder/internal/mbox"
)

// errPath means an address that breaks the grammar of RFC 5321 section 4.1.2.
var errPath = errors.New("malformed address")

// Address is a parsed forward path.
type Address struct {
	// Path is the address as backends get it: without a source route, and without quotes where
	// none are needed. Cyrus keeps quotes as part of the name, so "alice" would be unknown there.
	Path   string
	local  string // up to the first "+"
	detail string
	plus   bool
	domain string
}

// ParseAddress reads what stands between "<" and ">". A domain is not required, and 8-bit octets are
// allowed in local parts, because folders are addressed by their UTF-8 names.
func ParseAddress(path string) (Address, error) {
	if len(path) > mbox.MaxNameLen {
		return Address{}, errPath
	}
	if strings.HasPrefix(path, "@") { // RFC 5321 appendix C: source routes are to be ignored
		_, rest, ok := strings.Cut(path, ":")
		if !ok {
			return Address{}, errPath
		}
		path = rest
	}
	local, domain, ok := cutPath(path)
	if !ok {
		return Address{}, errPath
	}
	if inner := unquote(local); inner != local && isDotAtom(inner) {
		local = inner
	}
	a := Address{Path: local, domain: domain}
	if domain != "" {
		a.Path += "@" + domain
	}
	a.local, a.detail, a.plus = strings.Cut(local, "+")
	return a, nil
}

// cutPath splits at the last "@" outside quotes and checks the octets of both parts.
func cutPath(path string) (local, domain string, ok bool) {
	end := len(path)
	if strings.HasPrefix(path, `"`) {
		end = quotedEnd(path)
		if end < 0 || end < len(path) && path[end] != '@' {
			return "", "", false
		}
	} else if at := strings.LastIndexByte(path, '@'); at >= 0 {
		end = at
	}
	local = path[:end]
	if end < len(path) {
		if domain = path[end+1:]; domain == "" {
			return "", "", false
		}
	}
	if local == "" || local[0] == '@' || !strings.HasPrefix(local, `"`) && strings.ContainsAny(local, " <>\"\\") || strings.ContainsAny(domain, " <>\"\\@") {
		return "", "", false
	}
	for i := range len(path) {
		if c := path[i]; c < ' ' || c == 0x7f || c >= 0x80 && i >= end {
			return "", "", false
		}
	}
	return local, domain, true
}

// quotedEnd returns the position after a quoted string, or -1 if it does not end.
func quotedEnd(s string) int {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return -1
}

func unquote(s string) string {
	if len(s) < 2 || s[0] != '"' {
		return s
	}
	var b strings.Builder
	for i := 1; i < len(s)-1; i++ {
		if s[i] == '\\' {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func isDotAtom(s string) bool {
	for part := range strings.SplitSeq(s, ".") {
		if part == "" {
			return false
		}
		for i := range len(part) {
			c := part[i]
			if c <= ' ' || c == 0x7f || strings.IndexByte(`()<>[]:;@\,"`, c) >= 0 {
				return false
			}
		}
	}
	return true
}

// Mapping says which mailbox an address names. It must match the backends' settings, or they will
// not know the addresses that are accepted here.
type Mapping struct {
	Namespace mbox.Namespace // Virtual, DefaultDomain, Dot and Deleted count
	// KeepCase does not fold users and domains. Cyrus: lmtp_downcase_rcpt off.
	KeepCase bool
	// PostUser is the local part that addresses shared mailboxes, as POSTUSER+MAILBOX; the usual ""
	// makes it +MAILBOX. Cyrus: postuser.
	PostUser string
	// Fuzzy finds shared mailboxes without regard to case, with space, "-" and "_" alike, and falls
	// back to the nearest parent. Cyrus: lmtp_fuzzy_mailbox_match.
	Fuzzy bool
	// Catchall is the user who gets mail for unknown recipients, "" for none.
	// Cyrus: lmtp_catchall_mailbox.
	Catchall mbox.UserID
}

// Target is the mailbox that an address names.
type Target struct {
	// Name is the key to look up: always the INBOX of a user, the mailbox itself if it is shared.
	Name mbox.Name
	// Folder is the mailbox named by address and detail; Name if there is no detail.
	Folder mbox.Name
	User   mbox.UserID // "" for a shared mailbox
	Shared bool
}

// Target returns the mailbox that an address names, and false if it can name none.
//
// Cyrus: mbname_from_recipient; the folder of a user need not exist, the backend falls back to INBOX.
func (m Mapping) Target(a Address) (Target, bool) {
	local, domain := a.local, a.domain
	if !m.KeepCase {
		local, domain = strings.ToLower(local), strings.ToLower(domain)
	}
	if !m.Namespace.Virtual || m.isDefault(domain) {
		domain = ""
	}
	if strings.EqualFold(local, m.PostUser) {
		return m.shared(a, domain)
	}
	if !m.validUser(local) {
		return Target{}, false
	}
	user := mbox.UserID(local)
	if domain != "" {
		user += mbox.UserID("@" + domain)
	}
	t := Target{User: user, Name: m.Namespace.Inbox(user)}
	t.Folder = t.Name
	if folder, ok := m.folder(a.detail); ok {
		t.Folder += "." + folder
	}
	return t, t.Name.Validate() == nil
}

func (m Mapping) isDefault(domain string) bool {
	return domain != "" && strings.EqualFold(domain, m.Namespace.DefaultDomain)
}

// domain is an address's domain for the backend: as it came, unless it is the default one.
//
// Cyrus: up to 3.6 lmtpd does not take DEF.org for def.org, opens def.org!user.alice, and dies of it
// after the delivery, so that the mail would come again and again.
func (m Mapping) domain(a Address) string {
	if m.Namespace.Virtual && m.isDefault(a.domain) {
		return m.Namespace.DefaultDomain
	}
	return a.domain
}

func (m Mapping) shared(a Address, domain string) (Target, bool) {
	name, ok := m.folder(a.detail)
	if !a.plus || !ok {
		return Target{}, false
	}
	if domain != "" {
		name = mbox.Name(domain) + "!" + name
	}
	return Target{Name: name, Folder: name, Shared: true}, name.Validate() == nil && !m.Namespace.IsDeleted(name)
}

// folder translates a detail, which is the name of a folder in UTF-8.
func (m Mapping) folder(detail string) (mbox.Name, bool) {
	name, err := mbox.EncodeUTF7(detail)
	if detail == "" || err != nil || strings.Contains(name, "!") {
		return "", false
	}
	if !m.Namespace.Dot {
		name = strings.NewReplacer(".", "^", "/", ".").Replace(name)
	}
	if strings.HasPrefix(name, ".") || strings.HasSuffix(name, ".") || strings.Contains(name, "..") {
		return "", false
	}
	return mbox.Name(name), true
}

// detail is the inverse of folder.
func (m Mapping) detail(name mbox.Name) (string, bool) {
	_, local := name.Split()
	text, err := mbox.DecodeUTF7(string(local))
	if err != nil {
		return "", false
	}
	if !m.Namespace.Dot {
		text = strings.NewReplacer(".", "/", "^", ".").Replace(text)
	}
	return text, true
}

// validUser reports whether a folded local part can be a user. With "." as the separator of folders
// a user cannot contain one.
func (m Mapping) validUser(local string) bool {
	if local == "" || m.Namespace.Dot && strings.Contains(local, ".") {
		return false
	}
	for i := range len(local) {
		if c := local[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`/!*%"\^`, c) >= 0 {
			return false
		}
	}
	return true
}

// addressable reports whether a backend takes mail for a shared mailbox under its name.
//
// Cyrus: one with a space has no address, because quotes and backslashes would count as part of the name, and its
// fuzzy match does not find it either.
func (m Mapping) addressable(name mbox.Name) bool {
	detail, ok := m.detail(name)
	return ok && isDotAtom("+"+detail)
}

// fuzzyMatch returns the shared mailbox that resembles name most closely: the longest record fit for mail that
// equals name or one of its parents when case and space, "-", "_" are overlooked.
//
// Cyrus: fuzzy_match in lmtpd. The walk passes over users, whose names the backends match.
func fuzzyMatch(v mbox.View, name mbox.Name, fit func(mbox.Name) bool) (mbox.Entry, bool) {
	domain, local := name.Split()
	wanted := fuzzyForm(local)
	prefix := mbox.Name("")
	if domain != "" {
		prefix = mbox.Name(domain) + "!"
	}
	var best mbox.Entry
	found := false
	walk := func(from, until mbox.Name) {
		v.Ascend(from, func(e mbox.Entry) bool {
			d, l := e.Name.Split()
			if d != domain {
				return domain == "" // names of domains stand among those without
			}
			if until != "" && mbox.OrderDB.Compare(e.Name, until) >= 0 {
				return false
			}
			form := fuzzyForm(l)
			below, parent := strings.CutPrefix(wanted, form)
			if parent && (below == "" || below[0] == '.') && (!found || len(form) > len(fuzzyForm(best.Name))) && fit(e.Name) {
				best, found = e, true
			}
			return true
		})
	}
	walk(prefix, prefix+"user")
	walk(prefix+"user ", "") // space sorts right behind the separator
	return best, found
}

func fuzzyForm(n mbox.Name) string {
	_, local := n.Split()
	return strings.NewReplacer(" ", "_", "-", "_").Replace(strings.ToLower(string(local)))
}
