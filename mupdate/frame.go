package mupdate

import (
	"bytes"
	"errors"
	"strings"

	"murder/internal/imapwire"
	"murder/internal/mbox"
)

// Limits of one command or response (RFC 3656 section 2 asks for 1024 and 4096 at least; Cyrus
// takes 128 KiB in either).
const (
	maxLine      = 8192
	maxLiteral   = mbox.MaxACLLen
	maxFragments = 64          // UPDATE with 30 host names as literals, and room
	maxBeside    = 2 * maxLine // all of a command beside one literal of the greatest length, and its last line
	maxTag       = 64
)

// Errors that leave the position in the stream unknown: say BYE and close.
var (
	errLineTooLong    = imapwire.ErrLineTooLong
	errBadLiteral     = imapwire.ErrBadLiteral
	errLiteralTooLong = errors.New("literal too long")
	errTooLong        = errors.New("command too long")
	errTooManyParts   = errors.New("too many arguments")
)

// token is one argument. Only strings (quoted or literal) are ok as arguments in general; an atom
// is kept for the few places that take one, and anything else ends the arguments as bad.
type token struct {
	text string
	kind tokenKind
}

type tokenKind uint8

const (
	bad tokenKind = iota
	atom
	str
)

// frame is one command, or one line of a server, cut into tokens.
type frame struct {
	tag     string // "" if there is none or it is not one
	word    string // verb or keyword
	hasWord bool   // a space followed the tag
	args    []token
}

// parser cuts frames. It keeps its scratch space between calls.
type parser struct {
	literal int64 // longest literal accepted
	parts   []part
}

// part is one line of a frame and the literal that follows it.
type part struct {
	text    []byte
	literal []byte
	hasLit  bool
}

// parse cuts the first frame of buf. n is its length, 0 while it is incomplete; then goAheads is
// the number of synchronising literals announced so far, for which the peer waits.
func (p *parser) parse(buf []byte) (f frame, n, goAheads int, err error) {
	n, goAheads, err = p.split(buf)
	if err != nil || n == 0 {
		return frame{}, 0, goAheads, err
	}
	return p.lex(), n, goAheads, nil
}

// split finds the end of a frame: the first line that announces no literal. Literals in bad
// commands count too, so that they are skipped with the command (Cyrus: eatline).
func (p *parser) split(buf []byte) (n, goAheads int, err error) {
	p.parts = p.parts[:0]
	for {
		rest := buf[n:]
		i := bytes.IndexByte(rest, '\n')
		if i > maxLine+1 || (i < 0 && len(rest) > maxLine) {
			return 0, goAheads, errLineTooLong
		}
		if i < 0 {
			return 0, goAheads, nil
		}
		line := bytes.TrimSuffix(rest[:i], []byte{'\r'})
		n += i + 1
		lit, ok, err := imapwire.TrailingLiteral(line)
		if err != nil {
			return 0, goAheads, err
		}
		if !ok {
			p.parts = append(p.parts, part{text: line})
			return n, goAheads, nil
		}
		if lit.Size > p.literal {
			return 0, goAheads, errLiteralTooLong
		}
		if int64(n)+lit.Size > p.literal+maxBeside {
			return 0, goAheads, errTooLong
		}
		if len(p.parts) == maxFragments {
			return 0, goAheads, errTooManyParts
		}
		if !lit.NonSync {
			goAheads++
		}
		if int64(len(buf)-n) < lit.Size {
			return 0, goAheads, nil
		}
		p.parts = append(p.parts, part{text: line, literal: buf[n : n+int(lit.Size)], hasLit: true})
		n += int(lit.Size)
	}
}

func (p *parser) lex() frame {
	var f frame
	first := p.parts[0].text
	tag, rest, found := bytes.Cut(first, []byte{' '})
	if !validTag(tag) {
		return f
	}
	f.tag, f.hasWord = string(tag), found
	if !found {
		return f
	}
	word, rest, found := bytes.Cut(rest, []byte{' '})
	f.word = string(word)
	if !found {
		if p.parts[0].hasLit {
			f.args = append(f.args, token{})
		}
		return f
	}
	p.lexArgs(&f, rest)
	return f
}

// lexArgs cuts the arguments, each after exactly one space, until the first that is none.
func (p *parser) lexArgs(f *frame, text []byte) {
	for i := 0; ; {
		var t token
		switch lit := p.parts[i]; {
		case len(text) > 0 && text[0] == '"':
			t, text = quoted(text)
		case lit.hasLit && announces(text, ""):
			if bytes.IndexByte(lit.literal, 0) < 0 {
				t = token{string(lit.literal), str}
			}
			i++
			text = p.parts[i].text
		case lit.hasLit && len(lit.literal) == 0 && announces(text, "="):
			// Cyrus clients write an empty initial response as "={0+}".
			t = token{"=", atom}
			i++
			text = p.parts[i].text
		default:
			var word []byte
			if j := bytes.IndexByte(text, ' '); j >= 0 {
				word, text = text[:j], text[j:]
			} else if word, text = text, nil; lit.hasLit {
				word = nil
			}
			if len(word) > 0 && bytes.IndexByte(word, 0) < 0 {
				t = token{string(word), atom}
			}
		}
		end := len(text) == 0 && !p.parts[i].hasLit
		if !end && (len(text) == 0 || text[0] != ' ') {
			t = token{}
		}
		f.args = append(f.args, t)
		if end || t.kind == bad {
			return
		}
		text = text[1:]
	}
}

// announces reports whether text is nothing but prefix and a literal announcement, given that the
// line ends in one.
func announces(text []byte, prefix string) bool {
	rest, ok := bytes.CutPrefix(text, []byte(prefix))
	return ok && bytes.LastIndexByte(rest, '{') == 0
}

// quoted reads a quoted string and returns what follows it. A backslash takes the next octet
// literally, as in ACAP's grammar and in Cyrus; octets above 127 are taken as they are.
func quoted(text []byte) (token, []byte) {
	end := bytes.IndexByte(text[1:], '"') + 1
	if end > 0 && bytes.IndexByte(text[:end], '\\') < 0 {
		return stringToken(text[1:end]), text[end+1:]
	}
	var b []byte
	for i := 1; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"':
			return stringToken(b), text[i+1:]
		case c == '\\' && i+1 < len(text):
			i++
			b = append(b, text[i])
		default:
			b = append(b, c)
		}
	}
	return token{}, nil
}

func stringToken(b []byte) token {
	if bytes.IndexByte(b, 0) >= 0 || bytes.IndexByte(b, '\r') >= 0 {
		return token{}
	}
	return token{string(b), str}
}

func validTag(tag []byte) bool {
	return len(tag) > 0 && len(tag) <= maxTag && !bytes.ContainsAny(tag, "\t\v\f\r()\"\x00")
}

// strings returns the arguments as texts if all of them are strings.
func (f *frame) strings() ([]string, bool) {
	texts := make([]string, len(f.args))
	for i, t := range f.args {
		if t.kind != str {
			return nil, false
		}
		texts[i] = t.text
	}
	return texts, true
}

// is compares the verb or keyword without regard to case.
func (f *frame) is(word string) bool { return strings.EqualFold(f.word, word) }
