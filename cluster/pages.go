package cluster

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
	"slices"
)

// pages reads a bbolt file without mapping it into memory. bbolt itself trusts what it finds: a
// damaged page makes it panic on a goroutine of its own, or touch memory behind the end of the file,
// and either kills the process without a word that helps. So the file is read like this first.
//
// Every page begins with a header of 16 octets: id (uint64), flags and count (uint16 each), overflow
// (uint32, pages that follow and belong to it). Numbers are in native order.
type pages struct {
	r    io.ReaderAt
	size int64 // of the file
	page int64
	high uint64 // pages in use end before this one
	seen map[uint64]bool

	buckets []string // in the root
}

const (
	pageHeader   = 16
	branchPage   = 0x01
	leafPage     = 0x02
	bucketInLeaf = 0x01 // flag of a leaf's element: the value is a bucket
	maxOverflow  = 1 << 16
)

// metaPage is what the newest valid meta page says. Its body is, after the page header: magic,
// version, page size, flags (uint32 each), root page and sequence, free list page, high-water page,
// transaction (uint64 each), and the FNV-64a sum of all these.
type metaPage struct {
	pageSize int64
	root     uint64
	high     uint64
	tx       uint64
}

// readMeta finds the newest of the two meta pages. They are written in turn, and each with one write,
// so both are good, one transaction apart, unless something is wrong with the disk: with one bad page
// bbolt would go back by a transaction and say nothing.
func readMeta(r io.ReaderAt) (newest metaPage, ok bool) {
	var other uint64
	good := 0
	const body, magic = 56, 0xED0CDAED
	at := func(off int64) {
		var buf [body + 8]byte
		if _, err := r.ReadAt(buf[:], off+pageHeader); err != nil {
			return
		}
		o := binary.NativeEndian
		sum := fnv.New64a()
		sum.Write(buf[:body])
		if o.Uint32(buf[0:]) != magic || o.Uint64(buf[body:]) != sum.Sum64() {
			return
		}
		m := metaPage{int64(o.Uint32(buf[8:])), o.Uint64(buf[16:]), o.Uint64(buf[40:]), o.Uint64(buf[48:])}
		if m.pageSize < 1<<9 || m.pageSize > 1<<16 {
			return
		}
		good++
		if good == 1 || m.tx >= newest.tx {
			other, newest = newest.tx, m
		} else {
			other = m.tx
		}
	}
	at(0)
	for size := int64(1 << 10); size <= 1<<16 && good < 2; size <<= 1 { // the second meta page is page 1
		at(size)
	}
	return newest, good == 2 && other+1 == newest.tx
}

// checkPages walks everything that is reachable in a bbolt file and returns the first thing that is
// not as bbolt writes it. The buckets must have these names, in order: a missing one would be made anew.
func checkPages(r io.ReaderAt, size int64, buckets ...string) error {
	m, ok := readMeta(r)
	if !ok {
		return fmt.Errorf("it has no valid header")
	}
	p := &pages{r: r, size: size, page: m.pageSize, high: m.high, seen: make(map[uint64]bool)}
	if need := int64(m.high) * m.pageSize; size < need {
		return fmt.Errorf("it was cut short: it has %d octets of at least %d", size, need)
	}
	if err := p.walk(m.root, nil, nil, 0); err != nil {
		return err
	}
	if !slices.Equal(p.buckets, buckets) {
		return fmt.Errorf("it has the buckets %q, not %q", p.buckets, buckets)
	}
	return nil
}

// walk checks a page and what is below it. All keys must be in [low, high), a nil end is open.
func (p *pages) walk(id uint64, low, high []byte, depth int) error {
	if id < 2 || id >= p.high || p.seen[id] || depth > 32 {
		return fmt.Errorf("page %d cannot be where it is", id)
	}
	p.seen[id] = true
	var head [pageHeader]byte
	if _, err := p.r.ReadAt(head[:], int64(id)*p.page); err != nil {
		return fmt.Errorf("reading page %d: %w", id, err)
	}
	o := binary.NativeEndian
	flags, count, overflow := o.Uint16(head[8:]), int(o.Uint16(head[10:])), uint64(o.Uint32(head[12:]))
	if o.Uint64(head[:]) != id || overflow > maxOverflow || id+overflow >= p.high {
		return fmt.Errorf("page %d has a damaged header", id)
	}
	for i := range overflow {
		if p.seen[id+1+i] {
			return fmt.Errorf("page %d is used twice", id+1+i)
		}
		p.seen[id+1+i] = true
	}
	buf := make([]byte, (int64(overflow)+1)*p.page)
	if _, err := p.r.ReadAt(buf, int64(id)*p.page); err != nil {
		return fmt.Errorf("reading page %d: %w", id, err)
	}
	return p.walkBuffer(id, flags, count, buf, low, high, depth)
}

func (p *pages) walkBuffer(id uint64, flags uint16, count int, buf, low, high []byte, depth int) error {
	if flags != branchPage && flags != leafPage || count > (len(buf)-pageHeader)/16 || flags == branchPage && count == 0 {
		return fmt.Errorf("page %d has a damaged header", id)
	}
	o := binary.NativeEndian
	// part cuts a key or value out; positions count from the element.
	part := func(elem int, pos, n uint32) []byte {
		from, to := uint64(elem)+uint64(pos), uint64(elem)+uint64(pos)+uint64(n)
		if to > uint64(len(buf)) {
			return nil
		}
		return buf[from:to:to]
	}
	type element struct {
		key, value []byte
		child      uint64
		flags      uint32
	}
	list := make([]element, count)
	for i := range list {
		at, e := pageHeader+16*i, &list[i]
		if flags == branchPage {
			e.key = part(at, o.Uint32(buf[at:]), o.Uint32(buf[at+4:]))
			e.child = o.Uint64(buf[at+8:])
		} else {
			e.flags = o.Uint32(buf[at:])
			pos, ksize, vsize := o.Uint32(buf[at+4:]), o.Uint32(buf[at+8:]), o.Uint32(buf[at+12:])
			e.key = part(at, pos, ksize)
			if uint64(pos)+uint64(ksize) <= uint64(len(buf)) {
				e.value = part(at, pos+ksize, vsize)
			}
			if e.value == nil || e.flags&^uint32(bucketInLeaf) != 0 {
				return fmt.Errorf("page %d, element %d is damaged", id, i)
			}
		}
		if len(e.key) == 0 || low != nil && i == 0 && string(e.key) < string(low) ||
			i > 0 && string(e.key) <= string(list[i-1].key) || high != nil && string(e.key) >= string(high) {
			return fmt.Errorf("page %d, element %d is out of order", id, i)
		}
	}
	for i, e := range list {
		switch {
		case flags == branchPage:
			end := high
			if i+1 < count {
				end = list[i+1].key
			}
			if err := p.walk(e.child, e.key, end, depth+1); err != nil {
				return err
			}
		case e.flags == bucketInLeaf:
			p.buckets = append(p.buckets, string(e.key)) // none has buckets of its own
			if err := p.walkBucket(id, e.value, depth); err != nil {
				return err
			}
		}
	}
	return nil
}

// walkBucket follows a bucket: root page (0 if its only page follows here) and sequence.
func (p *pages) walkBucket(id uint64, value []byte, depth int) error {
	if len(value) < 16 {
		return fmt.Errorf("page %d has a damaged bucket", id)
	}
	o := binary.NativeEndian
	if root := o.Uint64(value); root != 0 {
		return p.walk(root, nil, nil, depth+1)
	}
	inline := value[16:]
	if len(inline) < pageHeader {
		return fmt.Errorf("page %d has a damaged bucket", id)
	}
	return p.walkBuffer(id, o.Uint16(inline[8:]), int(o.Uint16(inline[10:])), inline, nil, nil, depth+1)
}
