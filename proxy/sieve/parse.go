package sieve

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"murder/internal/imapwire"
	"murder/proxy/login"
)

var errSyntax = errors.New("syntax error")

// command is a command that has been read whole.
type command struct {
	verb string // upper case
	args []string
}

// readCommand reads a command with its quoted strings and literals (RFC 5804 section 1.2), of which
// none may be large. After an errSyntax the next command can be read.
func readCommand(r *bufio.Reader) (command, error) {
	if first, err := r.Peek(1); err == nil && first[0] == 0x16 {
		return command{}, login.ErrTLSOctets
	}
	var c command
	words, err := readWords(r)
	for err == nil && len(words) == 0 {
		words, err = readWords(r) // Cyrus: empty lines go unanswered
	}
	if err != nil {
		return c, err
	}
	if words[0].isString {
		return c, fmt.Errorf("%w: command expected", errSyntax)
	}
	c.verb = strings.ToUpper(words[0].text)
	for _, w := range words[1:] {
		c.args = append(c.args, w.text)
	}
	return c, nil
}

// readString reads a line that is one string.
func readString(r *bufio.Reader) (string, error) {
	words, err := readWords(r)
	if err != nil {
		return "", err
	}
	if len(words) != 1 {
		return "", fmt.Errorf("%w: one string expected", errSyntax)
	}
	return words[0].text, nil
}

type word struct {
	text     string
	isString bool // quoted or literal, not an atom
}

// readWords reads the words of a command or response line, up to the CRLF that ends it.
func readWords(r *bufio.Reader) (words []word, err error) {
	var bad error
	for left := maxCommand; ; {
		line, err := imapwire.ReadLine(r, nil, min(maxCommand, left))
		if err != nil {
			return nil, err
		}
		left -= len(line)
		lit, has, err := imapwire.TrailingLiteral(line)
		if err != nil {
			return nil, err
		}
		if has {
			line = line[:strings.LastIndexByte(string(line), '{')]
		}
		part, err := split(string(line))
		if err != nil {
			bad = err
		}
		words = append(words, part...)
		if !has {
			return words, bad
		}
		if lit.Size > int64(left) {
			return nil, imapwire.ErrLineTooLong
		}
		text := make([]byte, lit.Size)
		if _, err := io.ReadFull(r, text); err != nil {
			return nil, err
		}
		left -= len(text)
		words = append(words, word{string(text), true})
	}
}

// split cuts a line without literals into words.
func split(line string) (words []word, err error) {
	for {
		line = strings.TrimLeft(line, " ")
		if line == "" {
			return words, nil
		}
		if line[0] != '"' {
			i := strings.IndexAny(line, " \"")
			if i < 0 {
				i = len(line)
			}
			words = append(words, word{text: line[:i]})
			line = line[i:]
			continue
		}
		var text []byte
		i := 1
		for ; ; i++ {
			if i == len(line) {
				return words, fmt.Errorf("%w: quoted string without end", errSyntax)
			}
			if line[i] == '"' {
				break
			}
			if line[i] == '\\' && i+1 < len(line) {
				i++
			}
			text = append(text, line[i])
		}
		words = append(words, word{string(text), true})
		line = line[i+1:]
	}
}

// quote writes a short string, without control characters.
func quote(s string) string {
	b := make([]byte, 0, len(s)+2)
	b = append(b, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c >= 0x20 && c != 0x7f:
			b = append(b, c)
		}
	}
	return string(append(b, '"'))
}

// final reports whether a line ends a response, and how.
func final(line string) (status, rest string, ok bool) {
	status, rest, _ = strings.Cut(line, " ")
	switch status = strings.ToUpper(status); status {
	case "OK", "NO", "BYE":
		return status, rest, true
	}
	return "", "", false
}
