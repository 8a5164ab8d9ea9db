package fsm

import (
	"cmp"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/tidwall/btree"

	"murder/internal/mbox"
)

// SnapshotVersion is the newest snapshot format that this package reads, and the one it writes.
//
// A snapshot is 16 octets of magic, of which the last is the version, and one zstd stream of
// sections:
//
//	type | flags | format version that a reader needs | CRC32C of these | blocks | 0 (four octets)
//
// A block is its length and CRC32C (four octets each, little-endian) and at most 64 KiB. The blocks
// of a section are one run of rows, each preceded by its length. A reader skips an unknown section
// that is marked optional and refuses any other.
//
// First comes the header, then the mailboxes in the order of the map, then the other tables, each in
// the order of its key, and last the trailer with the number of rows of every section.
const SnapshotVersion = 1

const snapshotMagic = "murder-snapshot"

// section is a type of section, and the tag of a table in the digest. Never renumber.
type section byte

const (
	sectionHeader section = 1 + iota
	sectionMailboxes
	sectionHolds
	sectionLeases
	sectionTombstones
	sectionCuts
	sectionConflicts
	sectionEvents
	sectionNodes
	sectionSettings
	sectionTokens
	sectionProposers
	sectionResults
	sectionTrailer
	sectionDepartures // before the trailer all the same
	lastSection       = sectionDepartures
)

const sectionOptional = 1

// SnapshotHeader is what a snapshot says of itself.
type SnapshotHeader struct {
	Index          uint64
	Clock          uint64
	ClusterVersion uint32
	ClusterID      string
	Mailboxes      uint64
	Digest         Digest
	Writer         string // binary version of the writer; "" unless Snapshot.Writer was set

	nextProposer, nextEvent uint64
}

func appendHeader(dst []byte, h SnapshotHeader) []byte {
	dst = appendUint(dst, h.Index)
	dst = appendUint(dst, h.Clock)
	dst = appendUint(dst, uint64(h.ClusterVersion))
	dst = appendString(dst, h.ClusterID)
	dst = appendUint(dst, h.Mailboxes)
	dst = append(dst, h.Digest[:]...)
	dst = appendString(dst, h.Writer)
	dst = appendUint(dst, h.nextProposer)
	return appendUint(dst, h.nextEvent)
}

func readHeader(r *reader) SnapshotHeader {
	return SnapshotHeader{Index: r.uint(), Clock: r.uint(), ClusterVersion: uint32(r.uint()), ClusterID: r.string(),
		Mailboxes: r.uint(), Digest: r.digest(), Writer: r.string(), nextProposer: r.uint(), nextEvent: r.uint()}
}

// Snapshot is everything at one log index, to be written while the machine goes on. It may be used
// from any goroutine, by one at a time.
type Snapshot struct {
	// Writer is the version of the running binary, for the header.
	Writer string

	view                    *View
	proposers               []incarnation
	nextProposer, nextEvent uint64
}

// Snapshot takes a copy of the state. It costs microseconds.
func (m *Machine) Snapshot() *Snapshot {
	return &Snapshot{view: m.View(), proposers: m.proposers.clone(), nextProposer: m.nextProposer, nextEvent: m.nextEvent}
}

// Index is the log index of the snapshot.
func (s *Snapshot) Index() uint64 { return s.view.index }

// WriteTo writes the snapshot. What it writes depends on nothing but the log entries applied, and on
// Writer.
func (s *Snapshot) WriteTo(w io.Writer) (int64, error) {
	n := &countingWriter{w: w}
	if _, err := io.WriteString(n, snapshotMagic+string(rune(SnapshotVersion))); err != nil {
		return n.n, err
	}
	z, err := zstd.NewWriter(n, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(1<<20))
	if err != nil {
		return n.n, err
	}
	b := &blockWriter{w: z}
	s.writeSections(b)
	if b.err != nil {
		z.Close()
		return n.n, b.err
	}
	return n.n, z.Close()
}

func (s *Snapshot) writeSections(b *blockWriter) {
	v := s.view
	b.begin(sectionHeader)
	b.row(appendHeader(b.rowBuf(), SnapshotHeader{Index: v.index, Clock: v.clock, ClusterVersion: v.clusterVersion,
		ClusterID: v.Setting(SettingClusterID), Mailboxes: uint64(v.Len()), Digest: v.digest, Writer: s.Writer,
		nextProposer: s.nextProposer, nextEvent: s.nextEvent}))
	b.end()
	s.writeMailboxes(b)
	writeRows(b, sectionHolds, v.holds, appendHold)
	writeRows(b, sectionLeases, v.leases, appendLease)
	writeRows(b, sectionTombstones, v.tombstones, appendTombstone)
	writeRows(b, sectionCuts, v.cuts, appendCut)
	writeRows(b, sectionConflicts, v.conflicts, appendConflict)
	writeRows(b, sectionDepartures, v.departures, appendDeparture)
	writeRows(b, sectionEvents, v.events, appendEvent)
	writeRows(b, sectionNodes, v.nodes, appendNode)
	writeRows(b, sectionSettings, v.settings, appendSetting)
	writeRows(b, sectionTokens, v.tokens, appendToken)
	s.writeProposers(b)
	rows := b.rows // of the sections before the trailer
	b.begin(sectionTrailer)
	buf := append(b.rowBuf(), v.digest[:]...)
	for t := sectionHeader; t <= lastSection; t++ {
		if t != sectionTrailer {
			buf = appendUint(buf, rows[t])
		}
	}
	b.row(buf)
	b.end()
}

// writeMailboxes writes names without the prefix that they share with the one before, indexes as the
// difference to the one before, and every shape in full at its first mailbox, by number afterwards.
func (s *Snapshot) writeMailboxes(b *blockWriter) {
	b.begin(sectionMailboxes)
	shapes := map[*shared]uint64{}
	var before item
	s.view.mailboxes.Scan(func(it item) bool {
		common := commonPrefix(before.name, it.name)
		buf := appendUint(b.rowBuf(), uint64(common))
		buf = appendString(buf, it.name[common:])
		buf = appendInt(buf, int64(it.index-before.index))
		id, known := shapes[it.shared]
		if !known {
			id = uint64(len(shapes))
			shapes[it.shared] = id
		}
		buf = appendUint(buf, id)
		if !known {
			buf = appendShape(buf, it.shape)
		}
		before = it
		return b.row(buf)
	})
	b.end()
}

func commonPrefix(a, b mbox.Name) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

func (s *Snapshot) writeProposers(b *blockWriter) {
	b.begin(sectionProposers)
	for i := range s.proposers {
		b.row(appendIncarnation(b.rowBuf(), &s.proposers[i]))
	}
	b.end()
	b.begin(sectionResults)
	for i := range s.proposers {
		for _, r := range s.proposers[i].results {
			b.row(appendResultRow(b.rowBuf(), resultRow{&s.proposers[i], r}))
		}
	}
	b.end()
}

func writeRows[K cmp.Ordered, V any](b *blockWriter, t section, rows *btree.Map[K, *V], appendRow func([]byte, V) []byte) {
	b.begin(t)
	eachRow(rows, func(v V) bool { return b.row(appendRow(b.rowBuf(), v)) })
	b.end()
}

type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
