package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"murder/fsm"
	"murder/internal/mbox"
)

// Frames of murder-rpc/1. Numbers are unsigned varints unless a width is given, strings have their
// length in front.
//
//	frame     length(4, big endian, of what follows) | kind(1) | id | payload
//	hello     JSON: who the server is                      server, first, id 0
//	refused   epoch | text for the operator, then the end  server, instead of hello
//	propose   flow string | batch as the log holds it      client
//	readIndex -                                            client
//	call      method string | JSON                         client
//	position  as beat                                      client, each second, id 0
//	results   index | count | for each: outcome(1) refusal(1) repeat(1)
//	          holder detail index proposer incarnation     server
//	confirm   term                                         client
//	index     index                                        server
//	confirmed 1 if the server is still in that term, else 0 server
//	answer    JSON                                         server
//	failed    class(1) | text                              server
//	beat      leading(1) | term | applied index | last index of the log |
//	          1 if its copy is known to be wrong           server, each second, id 0
//
// Each server says in its hello which version of all this it speaks at most, and the client speaks the lower of
// that and its own: it sends no kind of frame that came later (frameSince). A request of a kind that a server does
// not know is answered with failed, class unsupported, and the link goes on.
//
// What a payload has behind the fields that a receiver knows is left unread, and fields at the end may be
// missing. The id is the client's and comes back in the answer. Requests are answered in any order.
const (
	frameHello     = 1
	frameRefused   = 2
	framePropose   = 3
	frameReadIndex = 4
	frameCall      = 5
	framePosition  = 6
	frameResults   = 7
	frameIndex     = 8
	frameAnswer    = 9
	frameFailed    = 10
	frameBeat      = 11
	frameConfirm   = 12
	frameConfirmed = 13
)

const (
	wireVersion = 1 // what this binary speaks
	minWire     = 1 // the oldest that it understands: two versions before, once there are so many
)

// frameSince is the version in which a kind of request came, where that was not the first.
var frameSince = map[byte]int{}

const (
	maxFrame  = 4 << 20 // octets, of what follows the length
	maxString = 1 << 20
)

// Classes of failure: what is known about the outcome.
const (
	classNotProposed = 0 // nothing happened: try again, here or elsewhere
	classBusy        = 1 // nothing happened: the leader's queue is full
	classUnknown     = 2 // it may have happened: try again under the same number only
	classRefused     = 3 // nothing happened, and trying again would not help: the text says why
	classUnsupported = 4 // nothing happened: this node's version of the program does not know the request
)

// failure is an attempt that did not end in an answer.
type failure struct {
	class byte
	text  string
}

func (f *failure) Error() string { return f.text }

// Refused tells the admin interface that trying again would not help.
func (f *failure) Refused() bool { return f.class == classRefused }

func notProposed(format string, args ...any) error {
	return &failure{classNotProposed, fmt.Sprintf(format, args...)}
}

func unknownOutcome(format string, args ...any) error {
	return &failure{classUnknown, fmt.Sprintf(format, args...)}
}

func refuse(format string, args ...any) error {
	return &failure{classRefused, fmt.Sprintf(format, args...)}
}

func unsupported(format string, args ...any) error {
	return &failure{classUnsupported, fmt.Sprintf(format, args...)}
}

// classOf reads the class of an error; anything unforeseen counts as unknown.
func classOf(err error) byte {
	var f *failure
	if errors.As(err, &f) {
		return f.class
	}
	return classUnknown
}

type frame struct {
	kind    byte
	id      uint64
	payload []byte
}

// appendFrame builds a frame; body appends the payload.
func appendFrame(dst []byte, kind byte, id uint64, body func([]byte) []byte) []byte {
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0, kind)
	dst = binary.AppendUvarint(dst, id)
	if body != nil {
		dst = body(dst)
	}
	binary.BigEndian.PutUint32(dst[start:], uint32(len(dst)-start-4))
	return dst
}

// readFrame reads one frame into a buffer of its own.
func readFrame(r io.Reader) (frame, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return frame{}, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n < 2 || n > maxFrame {
		return frame{}, fmt.Errorf("frame of %d octets, at most %d are allowed", n, maxFrame)
	}
	buf := make([]byte, n)
	if _, err := io.ReadFull(r, buf); err != nil {
		return frame{}, fmt.Errorf("reading frame: %w", err)
	}
	d := decoder{buf: buf[1:]}
	id := d.uvarint()
	return frame{buf[0], id, d.buf}, d.err
}

// decoder takes a payload apart; after the first error it gives zero values.
type decoder struct {
	buf []byte
	err error
}

var errShort = errors.New("frame is malformed")

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.buf)
	if n <= 0 {
		d.err, d.buf = errShort, nil
		return 0
	}
	d.buf = d.buf[n:]
	return v
}

func (d *decoder) byte() byte {
	if len(d.buf) == 0 {
		d.err = errShort
		return 0
	}
	b := d.buf[0]
	d.buf = d.buf[1:]
	return b
}

func (d *decoder) bytes() []byte {
	n := d.uvarint()
	if n > uint64(len(d.buf)) || n > maxString {
		d.err, d.buf = errShort, nil
		return nil
	}
	b := d.buf[:n]
	d.buf = d.buf[n:]
	return b
}

func appendString[T ~string | ~[]byte](dst []byte, s T) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

func appendResults(dst []byte, index uint64, results []fsm.Result) []byte {
	dst = binary.AppendUvarint(dst, index)
	dst = binary.AppendUvarint(dst, uint64(len(results)))
	for _, r := range results {
		dst = append(dst, byte(r.Outcome), byte(r.Refusal), flag(r.Repeat))
		dst = appendString(dst, r.Holder)
		dst = appendString(dst, r.Detail)
		dst = binary.AppendUvarint(dst, r.Index)
		dst = binary.AppendUvarint(dst, r.Proposer)
		dst = binary.AppendUvarint(dst, r.Incarnation)
	}
	return dst
}

func decodeResults(p []byte) (index uint64, results []fsm.Result, err error) {
	d := decoder{buf: p}
	index = d.uvarint()
	n := d.uvarint()
	if n > uint64(len(d.buf)) { // each takes eight octets at least
		return 0, nil, errShort
	}
	for range n {
		r := fsm.Result{}
		r.Outcome, r.Refusal, r.Repeat = mbox.Outcome(d.byte()), fsm.Refusal(d.byte()), d.byte() == 1
		r.Holder = mbox.Location(d.bytes())
		r.Detail = string(d.bytes())
		r.Index, r.Proposer, r.Incarnation = d.uvarint(), d.uvarint(), d.uvarint()
		results = append(results, r)
	}
	return index, results, d.err
}

func flag(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// beat is what a node says about itself each second on every link.
type beat struct {
	leading       bool
	term          uint64
	applied, last uint64
	diverged      bool
}

func (b beat) append(dst []byte) []byte {
	dst = append(dst, flag(b.leading))
	dst = binary.AppendUvarint(dst, b.term)
	dst = binary.AppendUvarint(dst, b.applied)
	dst = binary.AppendUvarint(dst, b.last)
	return append(dst, flag(b.diverged))
}

func decodeBeat(p []byte) (beat, error) {
	d := decoder{buf: p}
	b := beat{leading: d.byte() == 1, term: d.uvarint(), applied: d.uvarint(), last: d.uvarint()}
	if len(d.buf) > 0 {
		b.diverged = d.byte() == 1
	}
	return b, d.err
}
