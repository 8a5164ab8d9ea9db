package imap

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"time"

	"murder/internal/imapwire"
)

// command is one command of the client. Its first line has been read; literals are read by whoever
// executes it, whole or as a stream.
type command struct {
	tag  string
	name string // verb in upper case, "UID FETCH" in two words
	verb *verb
	line []byte // without CRLF; valid until the next line is read
	args int    // where the arguments start in line
	lit  imapwire.Literal
	open bool // line ends in the announcement lit, whose octets have not been read
	// began is when the first line had been read.
	began time.Time

	parser // over raw, once readWhole has run
}

// Errors of reading a command.
var (
	errSyntax = errors.New("syntax error")
	// errClient means that nothing more can be said to this client.
	errClient = errors.New("client connection lost")
	// errFlood is one of them: the client is sending more than we read to no purpose.
	errFlood = fmt.Errorf("%w: too much to skip", errClient)
)

// parseCommand reads tag and verb of a line. The command is usable for an answer even with an error.
func parseCommand(line []byte) (*command, error) {
	c := &command{tag: "*", line: line}
	tag, rest, ok := bytes.Cut(line, []byte(" "))
	if !ok || !isTag(tag) {
		return c, fmt.Errorf("%w: a tag and a command are needed", errSyntax)
	}
	c.tag = string(tag)
	word, rest := cutAtom(rest)
	c.name = strings.ToUpper(string(word))
	if c.name == "UID" && len(rest) > 1 {
		word, rest = cutAtom(rest[1:])
		c.name = "UID " + strings.ToUpper(string(word))
	}
	c.args = len(line) - len(rest)
	if c.name == "" {
		return c, fmt.Errorf("%w: no command", errSyntax)
	}
	var err error
	c.lit, c.open, err = imapwire.TrailingLiteral(line)
	return c, err
}

func cutAtom(b []byte) (word, rest []byte) {
	if i := bytes.IndexByte(b, ' '); i >= 0 {
		return b[:i], b[i:]
	}
	return b, nil
}

// isTag reports whether b is a tag (RFC 9051 section 9): ASTRING-CHARs without "+".
func isTag(b []byte) bool {
	if len(b) == 0 || len(b) > 1000 {
		return false
	}
	for _, c := range b {
		if !isAstringChar(c) || c == '+' {
			return false
		}
	}
	return true
}

func isAstringChar(c byte) bool {
	return c > ' ' && c < 0x7f && strings.IndexByte(`(){%*"\`, c) < 0
}

// readWhole reads the rest of the command into memory, grants its literals and readies the parser.
// A command that is too long costs the client the command when its rest can be skipped.
func (s *session) readWhole(c *command) error {
	limit := s.cfg.Limits.Arguments
	raw := bytes.Clone(c.line)
	for c.open {
		if c.lit.Size > int64(limit-len(raw)) {
			return s.refuseLiteral(c, no("TOOBIG", "Too many arguments"))
		}
		if !c.lit.NonSync {
			raw = append(raw[:len(raw)-1], "+}"...)
			if err := s.say("+ Go ahead\r\n"); err != nil {
				return err
			}
		}
		raw = append(raw, "\r\n"...)
		err := s.in.copyN(c.lit.Size, func(p []byte) error { raw = append(raw, p...); return nil })
		if err != nil {
			return fmt.Errorf("%w: %w", errClient, err)
		}
		if raw, err = s.nextLine(raw, c); err != nil {
			return err
		}
		if len(raw) > limit+s.cfg.Limits.Line {
			return fmt.Errorf("%w: arguments too long", errClient)
		}
	}
	c.line = raw
	c.parser = parser{b: raw, pos: c.args}
	return nil
}

// nextLine appends the line after a literal and notes whether it announces another.
func (s *session) nextLine(dst []byte, c *command) ([]byte, error) {
	start := len(dst)
	dst, err := s.in.appendLine(dst, s.cfg.Limits.Line)
	if err != nil {
		return dst, fmt.Errorf("%w: %w", errClient, err)
	}
	c.lit, c.open, err = imapwire.TrailingLiteral(dst[start:])
	if err != nil {
		return dst, fmt.Errorf("%w: %w", errClient, err)
	}
	return dst, nil
}

// maxSwallow bounds what is read to no purpose after a refusal; beyond it the connection ends.
const maxSwallow = 64 << 20

// refuseLiteral gives up a command whose next literal has not been read: a synchronising one is
// never sent then, others must be read and dropped (RFC 7888 section 4).
func (s *session) refuseLiteral(c *command, because error) error {
	left := int64(maxSwallow)
	for c.open && c.lit.NonSync {
		if left -= c.lit.Size; left < 0 {
			return errFlood
		}
		if err := s.in.copyN(c.lit.Size, func([]byte) error { return nil }); err != nil {
			return fmt.Errorf("%w: %w", errClient, err)
		}
		var err error
		if s.buf, err = s.nextLine(s.buf[:0], c); err != nil {
			return err
		}
	}
	c.open = false
	return because
}

// parser reads arguments of a command that is in memory whole, with literals in place as
// {n+} CRLF octets. A method that fails leaves the position undefined.
type parser struct {
	b   []byte
	pos int
}

func (p *parser) rest() []byte { return p.b[p.pos:] }

func (p *parser) end() bool { return p.pos >= len(p.b) }

// eat takes c if it is next.
func (p *parser) eat(c byte) bool {
	if p.pos < len(p.b) && p.b[p.pos] == c {
		p.pos++
		return true
	}
	return false
}

func (p *parser) next() byte {
	if p.end() {
		return 0
	}
	return p.b[p.pos]
}

// astring takes an atom, a quoted string or a literal; list also allows wildcards in the atom.
func (p *parser) astring(list bool) (string, error) {
	switch p.next() {
	case '"':
		return p.quoted()
	case '{', '~':
		if p.next() == '{' || p.pos+1 < len(p.b) && p.b[p.pos+1] == '{' {
			return p.literal()
		}
	}
	start := p.pos
	for p.pos < len(p.b) {
		c := p.b[p.pos]
		// Octets above 0x7e are no atom characters, but some clients send names so.
		if !(isAstringChar(c) || c >= 0x80 || list && (c == '*' || c == '%')) {
			break
		}
		p.pos++
	}
	if p.pos == start {
		return "", fmt.Errorf("%w: an argument is missing", errSyntax)
	}
	return string(p.b[start:p.pos]), nil
}

func (p *parser) quoted() (string, error) {
	var b strings.Builder
	for p.pos++; p.pos < len(p.b); p.pos++ {
		switch c := p.b[p.pos]; c {
		case '"':
			p.pos++
			return b.String(), nil
		case '\\':
			if p.pos++; p.end() {
				return "", fmt.Errorf("%w: quoted string does not end", errSyntax)
			}
			b.WriteByte(p.b[p.pos])
		case '\r', '\n', 0:
			return "", fmt.Errorf("%w: control octet in a quoted string", errSyntax)
		default:
			b.WriteByte(c)
		}
	}
	return "", fmt.Errorf("%w: quoted string does not end", errSyntax)
}

func (p *parser) literal() (string, error) {
	i := bytes.IndexByte(p.rest(), '\n')
	if i < 0 {
		return "", fmt.Errorf("%w: literal expected", errSyntax)
	}
	lit, ok, err := imapwire.TrailingLiteral(bytes.TrimRight(p.rest()[:i], "\r"))
	if !ok || err != nil || lit.Size > int64(len(p.rest())-i-1) {
		return "", fmt.Errorf("%w: literal expected", errSyntax)
	}
	p.pos += i + 1
	v := p.b[p.pos : p.pos+int(lit.Size)]
	p.pos += int(lit.Size)
	return string(v), nil
}

// arg takes a space and a string.
func (p *parser) arg() (string, error) {
	if !p.eat(' ') {
		return "", fmt.Errorf("%w: an argument is missing", errSyntax)
	}
	return p.astring(false)
}

// mailbox takes the arguments up to the one that names the mailbox, by the table.
func (c *command) mailbox() (ext string, err error) {
	for range c.verb.mailbox {
		if ext, err = c.arg(); err != nil {
			return "", err
		}
	}
	return ext, nil
}

// exactly takes n strings, each after a space, and nothing more.
func (p *parser) exactly(n int) ([]string, error) {
	list := make([]string, n)
	for i := range list {
		var err error
		if list[i], err = p.arg(); err != nil {
			return nil, err
		}
	}
	return list, p.finish()
}

// finish checks that nothing is left but spaces.
func (p *parser) finish() error {
	if len(bytes.TrimRight(p.rest(), " ")) > 0 {
		return fmt.Errorf("%w: unexpected argument", errSyntax)
	}
	return nil
}

// list takes a parenthesised list of strings; nested lists come back as one string each, with
// their parentheses.
func (p *parser) list() ([]string, error) {
	if !p.eat('(') {
		return nil, fmt.Errorf("%w: a list is missing", errSyntax)
	}
	var items []string
	for {
		for p.eat(' ') {
		}
		switch {
		case p.eat(')'):
			return items, nil
		case p.next() == '(':
			start := p.pos
			if err := p.skipList(0); err != nil {
				return nil, err
			}
			items = append(items, string(p.b[start:p.pos]))
		default:
			// Flags have a backslash, which no atom has.
			slash := ""
			if p.eat('\\') {
				slash = `\`
			}
			item, err := p.astring(true)
			if err != nil {
				return nil, err
			}
			items = append(items, slash+item)
		}
	}
}

func (p *parser) skipList(depth int) error {
	if depth > 20 {
		return fmt.Errorf("%w: too deep", errSyntax)
	}
	p.pos++
	for {
		switch c := p.next(); {
		case p.eat(')'):
			return nil
		case c == '(':
			if err := p.skipList(depth + 1); err != nil {
				return err
			}
		case c == ' ' || c == '\\':
			p.pos++
		default:
			if _, err := p.astring(true); err != nil {
				return err
			}
		}
	}
}
