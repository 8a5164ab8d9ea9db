package fsm

import (
	"encoding/binary"
	"hash/crc32"
)

// Every number is an unsigned varint, every string its length and its octets. Writers append to a
// slice; readers take from the front of one, and once anything is short they stay failed.

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func appendString[S ~string](dst []byte, s S) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

func appendUint(dst []byte, v uint64) []byte { return binary.AppendUvarint(dst, v) }

// appendInt is for times and other values that may be negative.
func appendInt(dst []byte, v int64) []byte { return binary.AppendVarint(dst, v) }

func appendBool(dst []byte, v bool) []byte {
	if v {
		return append(dst, 1)
	}
	return append(dst, 0)
}

type reader struct {
	b      []byte
	failed bool
}

func (r *reader) fail() {
	r.b, r.failed = nil, true
}

func (r *reader) uint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) int() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.fail()
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

func (r *reader) bool() bool { return r.byte() != 0 }

// take returns the next n octets of the input, not a copy.
func (r *reader) take(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.fail()
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) string() string { return string(r.take(r.uint())) }

// stringLike returns the next string, and the given one if it is the same: commands of one session
// come in rows, and their histories share what they have in common.
func (r *reader) stringLike(known string) string {
	b := r.take(r.uint())
	if string(b) == known {
		return known
	}
	return string(b)
}

// count reads the number of items that follow, of which each takes at least one octet; so nobody
// can make us reserve memory for items that are not there.
func (r *reader) count() int {
	n := r.uint()
	if n > uint64(len(r.b)) {
		r.fail()
		return 0
	}
	return int(n)
}

func (r *reader) hash32() (h [32]byte) {
	copy(h[:], r.take(uint64(len(h))))
	return h
}

func (r *reader) digest() (d Digest) {
	copy(d[:], r.take(uint64(len(d))))
	return d
}
