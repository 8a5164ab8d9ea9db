// Package inflate reads DEFLATE (RFC 1951) as a protocol's peer sends it: whatever the peer has flushed
// comes out at once, however it was flushed.
//
// zlib's Z_PARTIAL_FLUSH, which mbsync uses, ends what it sends with an empty block of ten bits, of which
// up to seven travel only with the next octets. Decompressors that want a whole block, or a few bits
// more than the codes need, wait for those while the peer waits for an answer.
package inflate

import (
	"bufio"
	"io"

	"github.com/mjl-/flate"
)

// NewReader returns a reader of what is compressed in r. It reads ahead in r. Truncated input ends in
// io.ErrUnexpectedEOF. It is not safe for concurrent use.
func NewReader(r io.Reader) io.Reader {
	// The decompressor hands out what it has at the end of a block if its own buffer holds nothing
	// more, not even bits of the next block. So it gets single octets.
	return flate.NewReaderPartial(bufio.NewReaderSize(single{bufio.NewReader(r)}, 16))
}

// single reads one octet at a time.
type single struct{ r *bufio.Reader }

func (s single) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c, err := s.r.ReadByte()
	if err != nil {
		return 0, err
	}
	p[0] = c
	return 1, nil
}
