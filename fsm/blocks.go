package fsm

import (
	"bufio"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
)

const (
	blockSize = 64 << 10
	// maxRow bounds a row of a snapshot: the largest settings and ACLs fit several times.
	maxRow = 1 << 20
)

// blockWriter writes sections as blocks of rows. The first error stays.
type blockWriter struct {
	w    io.Writer
	err  error
	buf  []byte // not yet a full block
	one  []byte // the row being made
	open section
	rows [lastSection + 1]uint64
}

func (b *blockWriter) begin(t section) {
	b.open = t
	head := []byte{byte(t), 0, SnapshotVersion}
	b.write(binary.LittleEndian.AppendUint32(head, crc32.Checksum(head, castagnoli)))
}

// rowBuf returns an empty buffer to make the next row in.
func (b *blockWriter) rowBuf() []byte { return b.one[:0] }

// row adds a row and reports whether to go on.
func (b *blockWriter) row(row []byte) bool {
	b.one = row
	b.rows[b.open]++
	b.buf = binary.AppendUvarint(b.buf, uint64(len(row)))
	b.buf = append(b.buf, row...)
	for len(b.buf) >= blockSize {
		b.block(b.buf[:blockSize])
		b.buf = b.buf[:copy(b.buf, b.buf[blockSize:])]
	}
	return b.err == nil
}

func (b *blockWriter) end() {
	if len(b.buf) > 0 {
		b.block(b.buf)
		b.buf = b.buf[:0]
	}
	b.write(make([]byte, 4))
}

func (b *blockWriter) block(payload []byte) {
	head := binary.LittleEndian.AppendUint32(make([]byte, 0, 8), uint32(len(payload)))
	b.write(binary.LittleEndian.AppendUint32(head, crc32.Checksum(payload, castagnoli)))
	b.write(payload)
}

func (b *blockWriter) write(p []byte) {
	if b.err == nil {
		_, b.err = b.w.Write(p)
	}
}

// blockReader reads them back. Its memory does not depend on what a damaged input claims.
type blockReader struct {
	r    *bufio.Reader
	buf  []byte // of the open section: read and verified, not yet taken
	more bool   // the open section may have further blocks
	open section
	rows [lastSection + 1]uint64
}

// next opens the next section, skipping unknown ones that are optional.
func (b *blockReader) next() error {
	for {
		var head [7]byte
		if err := b.full(head[:]); err != nil {
			return err
		}
		if binary.LittleEndian.Uint32(head[3:]) != crc32.Checksum(head[:3], castagnoli) {
			return corrupt("snapshot section header")
		}
		t, flags, needs := section(head[0]), head[1], uint64(head[2])
		b.open, b.buf, b.more = t, b.buf[:0], true
		if t >= sectionHeader && t <= lastSection && needs <= SnapshotVersion {
			return nil
		}
		if flags&sectionOptional == 0 {
			return &SnapshotVersionError{Needs: max(needs, SnapshotVersion+1)}
		}
		for b.more {
			b.buf = b.buf[:0]
			if err := b.block(); err != nil {
				return err
			}
		}
	}
}

// row returns the next row of the open section, nil after the last one. It is valid until the next call.
func (b *blockReader) row() ([]byte, error) {
	for {
		if n, head := binary.Uvarint(b.buf); head > 0 {
			if n > maxRow {
				return nil, corrupt("snapshot row of %d octets", n)
			}
			if end := head + int(n); end <= len(b.buf) {
				row := b.buf[head:end:end]
				b.buf = b.buf[end:]
				b.rows[b.open]++
				return row, nil
			}
		}
		if !b.more {
			if len(b.buf) != 0 {
				return nil, corrupt("snapshot section ends in the middle of a row")
			}
			return nil, nil
		}
		if err := b.block(); err != nil {
			return nil, err
		}
	}
}

// block appends the next block of the open section to buf.
func (b *blockReader) block() error {
	var head [8]byte
	if err := b.full(head[:4]); err != nil {
		return err
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n == 0 {
		b.more = false
		return nil
	}
	if n > blockSize {
		return corrupt("snapshot block of %d octets", n)
	}
	if err := b.full(head[4:]); err != nil {
		return err
	}
	have := len(b.buf)
	if cap(b.buf) < have+int(n) {
		b.buf = append(make([]byte, 0, have+blockSize), b.buf...)
	}
	b.buf = b.buf[:have+int(n)]
	if err := b.full(b.buf[have:]); err != nil {
		return err
	}
	if binary.LittleEndian.Uint32(head[4:]) != crc32.Checksum(b.buf[have:], castagnoli) {
		return corrupt("snapshot block checksum")
	}
	return nil
}

func (b *blockReader) full(p []byte) error {
	_, err := io.ReadFull(b.r, p)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return corrupt("snapshot is cut short")
	}
	return err
}
