package fsm

import (
	"cmp"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"

	"github.com/tidwall/btree"
)

// Digest is the exclusive or of a hash of every record of every replicated table, so it is kept up
// to date at the price of the record that changes, and the order of changes does not show.
type Digest [16]byte

func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// toggle adds a record to the digest, or takes it out again.
func (d *Digest) toggle(record []byte) {
	h := sha256.Sum256(record)
	subtle.XORBytes(d[:], d[:], h[:len(d)])
}

// digestKey separates these hashes from any others of the same octets.
const digestKey = "murder fsm 1\x00"

// table is a replicated table: every change goes into the digest, and a copy costs nothing.
// Rows are never changed in place. The tree has pointers to them, since the nodes on the way to a
// change are copied whenever a view was taken in between.
type table[K cmp.Ordered, V any] struct {
	rows   btree.Map[K, *V]
	tag    section
	append func([]byte, V) []byte // the row with its key, as hashed and stored
	digest *digester
}

// digester is a digest with a buffer to encode into; all tables of a machine share one.
type digester struct {
	Digest
	buf []byte
}

func toggle[V any](d *digester, tag section, appendRow func([]byte, V) []byte, v V) {
	d.buf = append(append(d.buf[:0], digestKey...), byte(tag))
	d.buf = appendRow(d.buf, v)
	d.toggle(d.buf)
}

func newTable[K cmp.Ordered, V any](d *digester, tag section, appendRow func([]byte, V) []byte) table[K, V] {
	return table[K, V]{tag: tag, append: appendRow, digest: d}
}

func (t *table[K, V]) get(k K) (V, bool) { return getRow(&t.rows, k) }
func (t *table[K, V]) len() int          { return t.rows.Len() }

func (t *table[K, V]) set(k K, v V) {
	if old, replaced := t.rows.Set(k, &v); replaced {
		toggle(t.digest, t.tag, t.append, *old)
	}
	toggle(t.digest, t.tag, t.append, v)
}

func (t *table[K, V]) delete(k K) (v V, ok bool) {
	old, ok := t.rows.Delete(k)
	if ok {
		v = *old
		toggle(t.digest, t.tag, t.append, v)
	}
	return v, ok
}

func getRow[K cmp.Ordered, V any](rows *btree.Map[K, *V], k K) (v V, ok bool) {
	row, ok := rows.Get(k)
	if ok {
		v = *row
	}
	return v, ok
}

func eachRow[K cmp.Ordered, V any](rows *btree.Map[K, *V], yield func(V) bool) {
	rows.Scan(func(_ K, row *V) bool { return yield(*row) })
}

// index orders rows of a table by something else than their key. It is rebuilt from the table, so
// it is neither in the digest nor in snapshots.
type index = btree.BTreeG[indexKey]

type indexKey struct {
	s string
	n uint64
	t string
}

func newIndex() *index {
	return btree.NewBTreeGOptions(func(a, b indexKey) bool {
		if a.s != b.s {
			return a.s < b.s
		}
		if a.n != b.n {
			return a.n < b.n
		}
		return a.t < b.t
	}, btree.Options{NoLocks: true})
}
