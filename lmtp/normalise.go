package lmtp

import (
	"bytes"
	"strings"
)

const foldAt = 998 // RFC 5322 section 2.1.1

// normaliser reads DATA from a client and writes the same message as backends may safely get it.
//
// From the client only CRLF.CRLF ends the data, and one dot is removed from each line that CRLF ends.
// To the backend, lone CR are dropped, lone LF become CRLF, and then every line that starts with a dot
// gets another. Exactly in this order.
//
// Cyrus: lmtpd drops lone CR and accepts lone LF before it looks for the final dot, so a message that
// kept them could end early and go on as commands.
type normaliser struct {
	maxLine int
	fold    bool

	in   inputState
	col  int  // octets of the current line written, with a stuffed dot
	body bool // behind the header

	head    [12]byte // start of the current header line, without a stuffed dot
	headLen int

	size      int64 // octets of the message, without stuffed dots
	nul       bool
	long      bool // a line exceeds maxLine
	received  int  // Received fields
	messageID bool // there is a Message-ID field
}

type inputState uint8

const (
	atStart inputState = iota // of a line that the client ended before with CRLF
	atDot                     // behind a dot at the start
	atDotCR                   // behind dot and CR at the start
	inText
	atCR
)

// feed takes octets from the client and appends what they become to dst. done is true behind the end
// of data; what follows the used octets is not part of the message.
func (n *normaliser) feed(dst, src []byte) (out []byte, used int, done bool) {
	cr, lf := -1, -1 // the next of each, looked for once
	for i := 0; i < len(src); i++ {
		c := src[i]
		switch n.in {
		case atStart:
			if c == '.' {
				n.in = atDot
				continue
			}
		case atDot:
			if c == '\r' {
				n.in = atDotCR
				continue
			}
		case atDotCR:
			if c == '\n' {
				return dst, i + 1, true
			}
		case atCR:
			if c == '\n' {
				dst = n.endLine(dst)
				n.in = atStart
				continue
			}
		}
		switch c {
		case '\r':
			n.in = atCR
		case '\n':
			dst = n.endLine(dst)
			n.in = inText
		default:
			if cr < i {
				cr = index(src, i, '\r')
			}
			if lf < i {
				lf = index(src, i, '\n')
			}
			end := min(cr, lf)
			dst = n.text(dst, src[i:end])
			n.in = inText
			i = end - 1
		}
	}
	return dst, len(src), false
}

// index returns the position of c in p from a position on, or the end of p.
func index(p []byte, from int, c byte) int {
	if i := bytes.IndexByte(p[from:], c); i >= 0 {
		return from + i
	}
	return len(p)
}

// text appends octets other than CR and LF.
func (n *normaliser) text(dst, run []byte) []byte {
	n.nul = n.nul || bytes.IndexByte(run, 0) >= 0
	if !n.body && n.headLen < len(n.head) {
		n.headLen += copy(n.head[n.headLen:], run)
	}
	if n.col == 0 && run[0] == '.' {
		dst = append(dst, '.')
		n.col++
	}
	for n.fold && n.col+len(run) > foldAt {
		room := foldAt - n.col
		dst = append(dst, run[:room]...)
		dst = append(dst, "\r\n "...)
		n.size += int64(room) + 3
		run = run[room:]
		n.col = 1
	}
	n.size += int64(len(run))
	n.col += len(run)
	n.long = n.long || n.col > n.maxLine
	return append(dst, run...)
}

// endLine appends a line end, and notes what header fields went by.
func (n *normaliser) endLine(dst []byte) []byte {
	if !n.body {
		switch field := strings.ToLower(string(n.head[:n.headLen])); {
		case n.col == 0:
			n.body = true
		case strings.HasPrefix(field, "received:"):
			n.received++
		case strings.HasPrefix(field, "message-id:"):
			n.messageID = true
		}
		n.headLen = 0
	}
	n.col = 0
	n.size += 2
	return append(dst, '\r', '\n')
}
