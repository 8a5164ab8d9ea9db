package fsm

import (
	"bufio"
	"io"

	"github.com/klauspost/compress/zstd"

	"murder/internal/mbox"
)

// ReadSnapshot builds a new machine from what Snapshot.WriteTo wrote, and verifies counts and
// digest. Errors are a *CorruptError, a *SnapshotVersionError, or the reader's own.
func ReadSnapshot(r io.Reader) (*Machine, error) {
	b, done, err := openSnapshot(r)
	if err != nil {
		return nil, err
	}
	defer done()
	l := loader{m: New(), b: b}
	if err := l.load(); err != nil {
		return nil, err
	}
	return l.m, nil
}

// ReadSnapshotHeader reads only the beginning of a snapshot, and verifies nothing else.
func ReadSnapshotHeader(r io.Reader) (SnapshotHeader, error) {
	b, done, err := openSnapshot(r)
	if err != nil {
		return SnapshotHeader{}, err
	}
	defer done()
	return readFirst(b)
}

func openSnapshot(r io.Reader) (*blockReader, func(), error) {
	var magic [len(snapshotMagic) + 1]byte
	if _, err := io.ReadFull(r, magic[:]); err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return nil, nil, err
	}
	if string(magic[:len(snapshotMagic)]) != snapshotMagic {
		return nil, nil, corrupt("not a snapshot")
	}
	if v := magic[len(snapshotMagic)]; v > SnapshotVersion {
		return nil, nil, &SnapshotVersionError{Needs: uint64(v)}
	}
	source := &source{r: r}
	z, err := zstd.NewReader(source, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(8<<20))
	if err != nil {
		return nil, nil, err
	}
	return &blockReader{r: bufio.NewReader(unzipper{source, z})}, z.Close, nil
}

// source remembers an error of the underlying reader, so that it can be told from damage, which the
// decompressor reports with many different errors.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

type unzipper struct {
	source *source
	z      *zstd.Decoder
}

func (u unzipper) Read(p []byte) (int, error) {
	n, err := u.z.Read(p)
	if err != nil && err != io.EOF {
		if err = u.source.err; err == nil {
			err = corrupt("snapshot cannot be decompressed")
		}
	}
	return n, err
}

func readFirst(b *blockReader) (SnapshotHeader, error) {
	if err := b.next(); err != nil {
		return SnapshotHeader{}, err
	}
	if b.open != sectionHeader {
		return SnapshotHeader{}, corrupt("snapshot does not begin with its header")
	}
	row, err := b.row()
	if err != nil {
		return SnapshotHeader{}, err
	}
	r := &reader{b: row}
	h := readHeader(r)
	if r.failed {
		return h, corrupt("snapshot header")
	}
	return h, nil
}

// loader fills a machine with the rows of a snapshot.
type loader struct {
	m      *Machine
	b      *blockReader
	header SnapshotHeader

	before item // the mailbox before, of which the next takes its prefix
	shapes []shape
	event  Event
	row    int
}

func (l *loader) load() error {
	var err error
	if l.header, err = readFirst(l.b); err != nil {
		return err
	}
	for {
		if err := l.rows(); err != nil {
			return err
		}
		if l.b.open == sectionTrailer {
			break
		}
		if err := l.b.next(); err != nil {
			return err
		}
	}
	if _, err := l.b.r.ReadByte(); err != io.EOF {
		return corrupt("snapshot goes on after its end")
	}
	m, h := l.m, l.header
	m.index, m.clock, m.clusterVersion = h.Index, h.Clock, h.ClusterVersion
	m.nextProposer, m.nextEvent = h.nextProposer, h.nextEvent
	digest := m.Digest()
	if digest != h.Digest || uint64(m.mail.tree.Len()) != h.Mailboxes {
		return corrupt("snapshot has digest %v instead of %v", digest, h.Digest)
	}
	m.checkpoints[m.index%checkpointsToKeep] = checkpoint{m.index, digest}
	m.mail.compact()
	return nil
}

// rows reads what is left of the open section.
func (l *loader) rows() error {
	for {
		row, err := l.b.row()
		if row == nil || err != nil {
			return err
		}
		r := &reader{b: row}
		if !l.add(l.b.open, r) || r.failed {
			return corrupt("row in snapshot section %d", l.b.open)
		}
	}
}

// add takes one row; it reports false for one that cannot be.
func (l *loader) add(t section, r *reader) bool {
	m := l.m
	switch t {
	case sectionMailboxes:
		return l.mailbox(r)
	case sectionHolds:
		m.setHold(readHold(r))
	case sectionLeases:
		m.setLease(readLease(r))
	case sectionTombstones:
		m.bury(readTombstone(r))
	case sectionCuts:
		m.setCut(readCut(r))
	case sectionConflicts:
		c := readConflict(r)
		m.conflicts.set(conflictKey(c.Name, c.Claimant), c)
	case sectionDepartures:
		m.setDeparture(readDeparture(r))
	case sectionEvents:
		m.indexEvent(readEvent(r, &l.event))
	case sectionNodes:
		n := readNode(r)
		m.nodes.set(n.ID, n)
	case sectionSettings:
		s := readSetting(r)
		m.settings.set(s.Key, s)
	case sectionTokens:
		t := readToken(r)
		m.tokens.set(t.ID, t)
	case sectionProposers:
		inc := readIncarnation(r)
		if _, twice := m.proposers.rows.Set(inc); twice {
			return false
		}
		m.proposers.toggle(inc)
	case sectionResults:
		inc, ok := m.proposers.rows.Get(&incarnation{proposer: r.uint(), incarnation: r.uint()})
		if !ok {
			return false
		}
		x := readRemembered(r)
		if n := len(inc.results); n > 0 && inc.results[n-1].sequence >= x.sequence {
			return false
		}
		inc.results = append(inc.results, x)
		m.proposers.toggleResult(inc, x)
	case sectionTrailer:
		return l.trailer(r)
	default:
		return false
	}
	return true
}

func (l *loader) mailbox(r *reader) bool {
	common := r.uint()
	if common > uint64(len(l.before.name)) {
		return false
	}
	name := l.before.name[:common] + mbox.Name(r.take(r.uint()))
	index := l.before.index + uint64(r.int())
	id := r.uint()
	if id == uint64(len(l.shapes)) {
		l.shapes = append(l.shapes, readShape(r))
	}
	if r.failed || id >= uint64(len(l.shapes)) {
		return false
	}
	if l.m.mail.tree.Len() > 0 && mbox.OrderDB.Compare(l.before.name, name) >= 0 {
		return false
	}
	l.before = l.m.mail.load(name, index, l.shapes[id])
	return true
}

// trailer compares the number of rows of every section before it.
func (l *loader) trailer(r *reader) bool {
	ok := r.digest() == l.header.Digest
	for t := sectionHeader; t <= lastSection; t++ {
		switch {
		case t == sectionTrailer:
		case t > sectionTrailer && len(r.b) == 0: // written before there was such a section
			ok = l.b.rows[t] == 0 && ok
		default:
			ok = r.uint() == l.b.rows[t] && ok
		}
	}
	return ok
}
