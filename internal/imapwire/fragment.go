package imapwire

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
)

// Errors of the reader. After either of them the position in the stream is unknown and the
// connection must be closed, once the peer has been told why.
var (
	ErrLineTooLong = errors.New("line too long")
	ErrBadLiteral  = errors.New("malformed literal announcement")
)

// Literal is an announcement at the end of a line: {n}, {n+}, ~{n} or ~{n+}.
type Literal struct {
	Size    int64
	NonSync bool // {n+} (RFC 7888): the octets follow without waiting for "+"
	Binary  bool // ~{n} (RFC 3516): the octets may hold NUL
}

// ReadLine appends one line to buf, without its CRLF or LF. A line of more than limit octets is
// ErrLineTooLong; an end of input in the middle of a line is io.ErrUnexpectedEOF.
func ReadLine(r *bufio.Reader, buf []byte, limit int) ([]byte, error) {
	start := len(buf)
	for {
		part, err := r.ReadSlice('\n')
		buf = append(buf, part...)
		switch {
		case err == nil:
			n := len(buf) - 1
			if n > start && buf[n-1] == '\r' {
				n--
			}
			if n-start > limit {
				return buf[:start], ErrLineTooLong
			}
			return buf[:n], nil
		case errors.Is(err, bufio.ErrBufferFull):
			if len(buf)-start > limit {
				return buf[:start], ErrLineTooLong
			}
		case errors.Is(err, io.EOF) && len(buf) > start:
			return buf[:start], io.ErrUnexpectedEOF
		default:
			return buf[:start], err
		}
	}
}

// TrailingLiteral looks for a literal announcement at the end of a line. ok is false when there is
// none; err is ErrBadLiteral when there is one whose size does not fit, because then the reader
// cannot know where the next command starts.
func TrailingLiteral(line []byte) (lit Literal, ok bool, err error) {
	end := len(line) - 1
	if end < 2 || line[end] != '}' {
		return Literal{}, false, nil
	}
	i := end - 1
	if line[i] == '+' {
		lit.NonSync = true
		i--
	}
	last := i
	for i >= 0 && line[i] >= '0' && line[i] <= '9' {
		i--
	}
	if i < 0 || line[i] != '{' || i == last {
		return Literal{}, false, nil
	}
	for _, c := range line[i+1 : last+1] {
		d := int64(c - '0')
		if lit.Size > (math.MaxInt64-d)/10 {
			return Literal{}, true, fmt.Errorf("%w: size out of range", ErrBadLiteral)
		}
		lit.Size = lit.Size*10 + d
	}
	lit.Binary = i > 0 && line[i-1] == '~'
	return lit, true, nil
}
