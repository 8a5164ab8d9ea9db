package fsm

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"murder/internal/mbox"
)

// Hard limits of one log entry. A proposer keeps well below them (256 KiB): raft sends up to
// MaxAppendEntries entries in one message.
const (
	MaxCommands  = 512
	MaxEntrySize = 1 << 20
)

// A log entry is one batch:
//
//	magic 0xB7 | version | lease clock | number of commands | CRC32C of the header | envelopes
//
// and an envelope is
//
//	magic 0xE5 | version | flags | type | command version | proposer | incarnation | sequence |
//	low-water | body length | body | CRC32C of all before
//
// with one octet for magic, version and flags, four (little-endian) for a CRC, and unsigned varints
// for the rest.
const (
	batchMagic      = 0xB7
	batchVersion    = 1
	envelopeMagic   = 0xE5
	envelopeVersion = 1

	// minEnvelope is the size of the smallest one: seven numbers, no body.
	minEnvelope = 3 + 7 + 4

	// flagIgnorable: a binary that does not know the command may skip it. Only for commands that
	// touch no replicated table, the dedupe table included.
	flagIgnorable = 1
)

// Envelope is a command with what makes it apply exactly once.
//
// Proposer and Incarnation come from RegisterProposer. Sequence numbers start at 1 and are given to
// a command once, however often it is sent. LowWater is the lowest sequence whose answer may still
// be asked for; no command below it may still be under way. Proposer 0 means that the command is
// harmless when repeated (Empty, NewTerm, Tick, Checkpoint, RegisterProposer), and is not remembered.
type Envelope struct {
	Proposer    uint64
	Incarnation uint64
	Sequence    uint64
	LowWater    uint64
	Command     Command
}

// AppendEnvelope appends the encoded form, which a node forwards and a batch contains.
func AppendEnvelope(dst []byte, e Envelope) []byte {
	start := len(dst)
	k := e.Command.kind()
	info := commands[k]
	var flags byte
	if info.ignorable {
		flags |= flagIgnorable
	}
	body := appendBody(nil, e.Command)
	dst = append(dst, envelopeMagic, envelopeVersion, flags)
	for _, v := range [...]uint64{uint64(k), info.version, e.Proposer, e.Incarnation, e.Sequence, e.LowWater, uint64(len(body))} {
		dst = binary.AppendUvarint(dst, v)
	}
	dst = append(dst, body...)
	return binary.LittleEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
}

// DecodeEnvelope reads one envelope from the front of b and returns what follows it. A leader checks
// with it what others forward: an entry that does not decode stops every node. The error is a
// *CorruptError or an *UnknownCommandError, the latter also for commands that Apply would skip.
func DecodeEnvelope(b []byte) (Envelope, []byte, error) {
	e, rest, err := decodeEnvelope(b, new(mbox.Session))
	if err == nil && e.Command == nil {
		err = &UnknownCommandError{Type: e.unknownType, Version: e.unknownVersion}
	}
	return e.Envelope, rest, err
}

// AppendBatch appends a log entry of the given commands. The caller keeps to MaxCommands and
// MaxEntrySize; Apply refuses what is larger.
func AppendBatch(dst []byte, clock uint64, envelopes []Envelope) []byte {
	dst = appendBatchHeader(dst, clock, len(envelopes))
	for _, e := range envelopes {
		dst = AppendEnvelope(dst, e)
	}
	return dst
}

// AppendEncodedBatch does the same with envelopes that are encoded already.
func AppendEncodedBatch(dst []byte, clock uint64, envelopes [][]byte) []byte {
	dst = appendBatchHeader(dst, clock, len(envelopes))
	for _, e := range envelopes {
		dst = append(dst, e...)
	}
	return dst
}

func appendBatchHeader(dst []byte, clock uint64, count int) []byte {
	start := len(dst)
	dst = append(dst, batchMagic, batchVersion)
	dst = binary.AppendUvarint(dst, clock)
	dst = binary.AppendUvarint(dst, uint64(count))
	return binary.LittleEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
}

// CheckEntry reports whether a log entry holds what AppendBatch wrote: nil, a *CorruptError, or an
// *UnknownCommandError.
func CheckEntry(entry []byte) error {
	_, _, err := decodeBatch(entry, new(mbox.Session))
	return err
}

// ReadEntry decodes a log entry. An envelope whose Command is nil holds one that this binary does not know and may
// skip. Errors are those of CheckEntry.
func ReadEntry(entry []byte) ([]Envelope, error) {
	_, list, err := decodeBatch(entry, new(mbox.Session))
	if err != nil {
		return nil, err
	}
	envelopes := make([]Envelope, len(list))
	for i, e := range list {
		envelopes[i] = e.Envelope
	}
	return envelopes, nil
}

// decoded is an envelope that may hold an unknown command of the kind that can be skipped.
type decoded struct {
	Envelope
	unknownType, unknownVersion uint64
}

// decodeBatch decodes a whole log entry. Errors lack the index.
func decodeBatch(b []byte, near *mbox.Session) (clock uint64, envelopes []decoded, err error) {
	if len(b) > MaxEntrySize {
		return 0, nil, corrupt("entry has %d octets", len(b))
	}
	r := &reader{b: b}
	magic, version := r.byte(), r.byte()
	if r.failed || magic != batchMagic {
		return 0, nil, corrupt("no batch header")
	}
	if version != batchVersion {
		return 0, nil, &UnknownCommandError{Type: 0, Version: uint64(version)}
	}
	clock = r.uint()
	n := r.uint()
	if !checkCRC(b, r) {
		return 0, nil, corrupt("batch header checksum")
	}
	if n > MaxCommands || n > uint64(len(r.b))/minEnvelope {
		return 0, nil, corrupt("batch of %d commands", n)
	}
	envelopes = make([]decoded, 0, n)
	rest := r.b
	for range n {
		var e decoded
		if e, rest, err = decodeEnvelope(rest, near); err != nil {
			return 0, nil, err
		}
		envelopes = append(envelopes, e)
	}
	if len(rest) != 0 {
		return 0, nil, corrupt("%d octets after the last command", len(rest))
	}
	return clock, envelopes, nil
}

func decodeEnvelope(b []byte, near *mbox.Session) (e decoded, rest []byte, err error) {
	r := &reader{b: b}
	magic, version, flags := r.byte(), r.byte(), r.byte()
	if r.failed || magic != envelopeMagic {
		return e, nil, corrupt("no envelope")
	}
	if version != envelopeVersion {
		return e, nil, &UnknownCommandError{Type: 0, Version: uint64(version)}
	}
	k, commandVersion := kind(r.uint()), r.uint()
	e.Proposer, e.Incarnation, e.Sequence, e.LowWater = r.uint(), r.uint(), r.uint(), r.uint()
	body := r.take(r.uint())
	if !checkCRC(b, r) {
		return e, nil, corrupt("envelope checksum")
	}
	info, known := commands[k]
	switch {
	case !known || info.since > MaxVersion || commandVersion == 0 || commandVersion > info.version:
		if flags&flagIgnorable == 0 {
			return e, nil, &UnknownCommandError{Type: uint64(k), Version: commandVersion}
		}
		e.unknownType, e.unknownVersion = uint64(k), commandVersion
		return e, r.b, nil
	case (flags&flagIgnorable != 0) != info.ignorable:
		return e, nil, corrupt("flags %#x of command type %d", flags, k)
	}
	var ok bool
	if e.Command, ok = readBody(k, body, near); !ok {
		return e, nil, corrupt("body of command type %d", k)
	}
	return e, r.b, nil
}

// checkCRC takes the checksum of what r has read of b so far.
func checkCRC(b []byte, r *reader) bool {
	read := b[:len(b)-len(r.b)]
	sum := r.take(4)
	return !r.failed && binary.LittleEndian.Uint32(sum) == crc32.Checksum(read, castagnoli)
}

func corrupt(format string, args ...any) error {
	return &CorruptError{What: fmt.Sprintf(format, args...)}
}
