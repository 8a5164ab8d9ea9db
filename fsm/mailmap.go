package fsm

import (
	"strings"

	"github.com/tidwall/btree"

	"murder/internal/mbox"
)

// mailmap is the mailbox map: a tree of small items in the order of Cyrus's own database, with what
// many mailboxes share (location, ACL, state) kept once.
type mailmap struct {
	tree   *btree.BTreeG[item]
	shared map[shape]*shared
	digest *digester
}

// item is a mailbox in the tree: 32 octets and its name.
type item struct {
	name  mbox.Name
	index uint64
	*shared
}

// shared is a shape that refs mailboxes have. Everything but refs is constant, and only the owner
// of the machine reads refs, so that copies of the tree may be read anywhere.
type shared struct {
	shape
	refs int
}

type shape struct {
	location mbox.Location
	acl      string // with the owner's name replaced if packed
	packed   bool
	state    mbox.State
	transfer bool
}

func newMailmap(d *digester) mailmap {
	return mailmap{
		tree: btree.NewBTreeGOptions(func(a, b item) bool { return mbox.OrderDB.Compare(a.name, b.name) < 0 },
			btree.Options{NoLocks: true}),
		shared: map[shape]*shared{},
		digest: d,
	}
}

func (it item) entry() mbox.Entry {
	return mbox.Entry{Name: it.name, Location: it.location, ACL: unpackACL(it.shape, it.name), State: it.state,
		Transfer: it.transfer, Index: it.index}
}

func shapeOf(e mbox.Entry) shape {
	acl, packed := packACL(e.ACL, e.Name)
	return shape{location: e.Location, acl: acl, packed: packed, state: e.State, transfer: e.Transfer}
}

func (m *mailmap) get(n mbox.Name) (item, bool) { return m.tree.Get(item{name: n}) }

func (m *mailmap) set(e mbox.Entry) {
	it := m.item(e.Name, e.Index, shapeOf(e))
	if old, replaced := m.tree.Set(it); replaced {
		m.release(old)
	}
}

// load is set for a name that comes after all others.
func (m *mailmap) load(n mbox.Name, index uint64, s shape) item {
	it := m.item(n, index, s)
	m.tree.Load(it)
	return it
}

func (m *mailmap) delete(n mbox.Name) {
	if old, ok := m.tree.Delete(item{name: n}); ok {
		m.release(old)
	}
}

func (m *mailmap) item(n mbox.Name, index uint64, s shape) item {
	sh := m.shared[s]
	if sh == nil {
		sh = &shared{shape: s}
		m.shared[s] = sh
	}
	sh.refs++
	it := item{name: n, index: index, shared: sh}
	toggle(m.digest, sectionMailboxes, appendItem, it)
	return it
}

// release is the opposite of item.
func (m *mailmap) release(it item) {
	toggle(m.digest, sectionMailboxes, appendItem, it)
	if it.refs--; it.refs == 0 {
		delete(m.shared, it.shape)
	}
}

// compact rewrites every node of a tree that was filled in order: its nodes are half full, and a
// copied node has no spare room.
func (m *mailmap) compact() {
	m.tree = m.tree.Copy()
	m.tree.ScanMut(func(item) bool { return true })
}

// ownerMark stands for the owner's name in a packed ACL. No identifier contains it.
const ownerMark = "\x01"

// packACL replaces the identifiers that are the owner's name, so that the mailboxes of all users
// share a few ACLs. It is part of the snapshot format.
func packACL(acl mbox.ACL, n mbox.Name) (string, bool) {
	owner := ownerOf(n)
	if owner == "" || strings.Contains(string(acl), ownerMark) {
		return string(acl), false
	}
	packed := replaceIdentifier(string(acl), owner, ownerMark)
	return packed, packed != string(acl)
}

func unpackACL(s shape, n mbox.Name) mbox.ACL {
	if !s.packed {
		return mbox.ACL(s.acl)
	}
	return mbox.ACL(replaceIdentifier(s.acl, ownerMark, ownerOf(n)))
}

// replaceIdentifier replaces whole fields at the identifiers' places, also those of negative rights.
func replaceIdentifier(acl, from, to string) string {
	if !strings.Contains(acl, from) {
		return acl
	}
	var b strings.Builder
	b.Grow(len(acl) + len(to))
	for identifier := true; acl != ""; identifier = !identifier {
		field, rest, tab := strings.Cut(acl, "\t")
		acl = rest
		if identifier {
			if name, negative := strings.CutPrefix(field, "-"); negative && name == from {
				b.WriteByte('-')
				field = to
			} else if field == from {
				field = to
			}
		}
		b.WriteString(field)
		if tab {
			b.WriteByte('\t')
		}
	}
	return b.String()
}

// ownerOf guesses the login name of the owner of a mailbox below "user.", also of a deleted one
// ("DELETED.user.x.y"); "" if there is none.
func ownerOf(n mbox.Name) string {
	domain, local := n.Split()
	s := string(local)
	rest, ok := strings.CutPrefix(s, "user.")
	if !ok {
		_, after, _ := strings.Cut(s, ".")
		if rest, ok = strings.CutPrefix(after, "user."); !ok {
			return ""
		}
	}
	owner, _, _ := strings.Cut(rest, ".")
	if strings.Contains(owner, "\t") || strings.Contains(domain, "\t") {
		return ""
	}
	owner = strings.ReplaceAll(owner, "^", ".")
	if domain != "" && owner != "" {
		owner += "@" + domain
	}
	return owner
}
