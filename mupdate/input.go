package mupdate

import (
	"bytes"
	"errors"
	"io"
)

// Sizes of input buffers: an idle connection keeps smallInput octets; a reader that finds its
// buffer full takes largeInput, which is enough for some 500 pipelined commands.
const (
	smallInput = 2 << 10
	largeInput = 64 << 10
)

// input is what has been received and not yet used. It grows as one frame needs and shrinks when the
// connection goes quiet; the parser's limits bound it.
type input struct {
	r    io.Reader
	buf  []byte // buf[off:] is unread
	off  int
	full bool // the last read filled the buffer
	p    parser
	sent int // go-aheads already sent for the frame that is incomplete
}

// next returns the next frame if it is complete, otherwise fill must be called. goAheads is how many
// synchronising literals the peer has announced for which "+ go ahead" is still to be sent.
func (in *input) next() (f frame, ok bool, goAheads int, err error) {
	f, n, announced, err := in.p.parse(in.buf[in.off:])
	if err != nil {
		return frame{}, false, 0, err
	}
	goAheads, in.sent = announced-in.sent, announced
	if n > 0 {
		in.off += n
		in.sent = 0
	}
	return f, n > 0, goAheads, nil
}

// line returns one bare line if it is complete, for SASL.
func (in *input) line(limit int) (line []byte, ok bool, err error) {
	rest := in.buf[in.off:]
	i := bytes.IndexByte(rest, '\n')
	if i > limit+1 || (i < 0 && len(rest) > limit) {
		return nil, false, errLineTooLong
	}
	if i < 0 {
		return nil, false, nil
	}
	in.off += i + 1
	return bytes.TrimSuffix(rest[:i], []byte{'\r'}), true, nil
}

// fill reads once. An end of input in the middle of something is io.ErrUnexpectedEOF.
func (in *input) fill() error {
	in.buf = in.buf[:copy(in.buf, in.buf[in.off:])]
	in.off = 0
	switch {
	case in.full && cap(in.buf) < largeInput:
		in.resize(largeInput)
	case len(in.buf) == cap(in.buf):
		in.resize(max(smallInput, 2*cap(in.buf)))
	case len(in.buf) == 0 && !in.full && cap(in.buf) > smallInput:
		in.resize(smallInput)
	}
	room := in.buf[len(in.buf):cap(in.buf)]
	n, err := in.r.Read(room)
	in.full = n == len(room)
	in.buf = in.buf[:len(in.buf)+n]
	if n > 0 {
		return nil
	}
	if errors.Is(err, io.EOF) && len(in.buf) > 0 {
		return io.ErrUnexpectedEOF
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

func (in *input) resize(n int) { in.buf = append(make([]byte, 0, n), in.buf...) }

// take removes everything unread and returns it.
func (in *input) take() []byte {
	rest := bytes.Clone(in.buf[in.off:])
	in.buf, in.off, in.sent = in.buf[:0], 0, 0
	return rest
}
