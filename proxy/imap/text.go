package imap

import (
	"strconv"
	"strings"

	"murder/internal/imapwire"
)

// astring writes a string for a client: as an atom or quoted if possible, else as a literal.
func astring(s string) string {
	atom := s != "" && len(s) < 512
	for i := 0; i < len(s) && atom; i++ {
		atom = isAstringChar(s[i])
	}
	switch {
	case atom && !strings.EqualFold(s, "NIL"):
		return s
	case imapwire.Quotable(s):
		return `"` + s + `"`
	case isQuotable(s):
		return quote(s)
	}
	return "{" + strconv.Itoa(len(s)) + "}\r\n" + s
}

// isQuotable reports whether s can stand between quotes with escapes.
func isQuotable(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c >= 0x80 || c == 0 || c == '\r' || c == '\n' {
			return false
		}
	}
	return len(s) <= imapwire.MaxQuoted
}

// nameString writes a mailbox name for the client, which may take UTF-8 in quotes (RFC 6855 section 3).
func (s *session) nameString(name string) string {
	if s.utf8() && strings.IndexFunc(name, func(r rune) bool { return r >= 0x80 }) >= 0 {
		return quote(name)
	}
	return astring(name)
}

func (s *session) utf8() bool {
	for _, name := range s.enabled {
		if name == "UTF8=ACCEPT" {
			return true
		}
	}
	return false
}

// appendName writes a mailbox name for a backend, after a space.
func appendName(dst []byte, name string) []byte {
	return imapwire.AppendString(append(dst, ' '), name)
}
