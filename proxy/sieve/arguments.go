package sieve

import (
	"fmt"
	"strings"

	"murder/internal/imapwire"
)

// arguments follows a command that is to be passed on. What is a literal to us and not to the backend would turn
// octets of an argument into commands that nobody has looked at. Cyrus: the parser reads a literal only where the
// command takes a string, only without waiting for leave, and goes on at the next line after what it cannot read.
type arguments struct {
	strings int // how many may still come
}

// takes is how many strings each command has.
var takes = map[string]int{
	"PUTSCRIPT": 2, "RENAMESCRIPT": 2, "SETACTIVE": 1, "GETSCRIPT": 1, "DELETESCRIPT": 1, "HAVESPACE": 1,
	"CHECKSCRIPT": 1, "NOOP": 1,
}

// line reads what one line holds of the arguments. It wraps imapwire.ErrBadLiteral if the backend might
// see its end elsewhere.
func (a *arguments) line(rest string) error {
	for {
		rest = strings.TrimLeft(rest, " ")
		switch {
		case rest == "":
			return nil
		case rest[0] == '"':
			end := 1
			for end < len(rest) && rest[end] != '"' {
				if rest[end] == '\\' {
					end++
				}
				end++
			}
			if end >= len(rest) {
				return fmt.Errorf("%w: a quoted string does not end", imapwire.ErrBadLiteral)
			}
			rest = rest[end+1:]
			a.strings--
		case rest[0] == '{':
			lit, has, err := imapwire.TrailingLiteral([]byte(rest))
			if err != nil {
				return err
			}
			if !has || !lit.NonSync || a.strings <= 0 || strings.LastIndexByte(rest, '{') != 0 {
				return fmt.Errorf("%w: not where a string belongs", imapwire.ErrBadLiteral)
			}
			a.strings--
			return nil
		default: // a verb or a number
			end := strings.IndexAny(rest, " \"{")
			if end < 0 {
				return nil
			}
			rest = rest[end:]
		}
	}
}
