package mbox

import "strings"

// Pattern is a compiled LIST pattern: "*" matches anything, "%" anything within one level
// (RFC 3501 section 6.3.8). Matching costs at most the product of both lengths.
type Pattern struct {
	text string
	fold string // the same with INBOX in upper case, if the pattern starts with some spelling of it
	sep  byte
}

// CompilePattern joins a reference and a pattern and compiles them.
//
// Cyrus: of a separator at the end of the reference and one at the start of the pattern one goes.
func CompilePattern(reference, pattern string, sep byte) Pattern {
	if reference != "" && pattern != "" && reference[len(reference)-1] == sep && pattern[0] == sep {
		pattern = pattern[1:]
	}
	p := Pattern{text: simplify(reference + pattern), sep: sep}
	if len(p.text) >= 5 && strings.EqualFold(p.text[:5], "INBOX") && p.text[:5] != "INBOX" {
		p.fold = "INBOX" + p.text[5:]
	}
	return p
}

// simplify merges neighbouring wildcards.
func simplify(s string) string {
	if !strings.ContainsAny(s, "*%") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		if s[i] != '*' && s[i] != '%' {
			b.WriteByte(s[i])
			i++
			continue
		}
		wild := byte('%')
		for ; i < len(s) && (s[i] == '*' || s[i] == '%'); i++ {
			if s[i] == '*' {
				wild = '*'
			}
		}
		b.WriteByte(wild)
	}
	return b.String()
}

// Match reports whether name matches. INBOX is matched without regard to case (RFC 3501 section 5.1).
func (p Pattern) Match(name Extern) bool {
	if wildMatch(p.text, string(name), p.sep) {
		return true
	}
	return p.fold != "" && strings.HasPrefix(string(name), "INBOX") && wildMatch(p.fold, string(name), p.sep)
}

// Levels reports whether the pattern also asks for levels of hierarchy that are no mailboxes: it
// ends in "%".
func (p Pattern) Levels() bool { return strings.HasSuffix(p.text, "%") }

// Prefix returns what every match starts with, apart from the case of INBOX.
func (p Pattern) Prefix() string {
	if i := strings.IndexAny(p.text, "*%"); i >= 0 {
		return p.text[:i]
	}
	return p.text
}

// wildMatch follows all positions of the pattern that are possible at once; two wildcards never
// stand together in p.
func wildMatch(p, s string, sep byte) bool {
	i := strings.IndexAny(p, "*%")
	if i < 0 {
		return p == s
	}
	if !strings.HasPrefix(s, p[:i]) {
		return false
	}
	p, s = p[i:], s[i:]
	if p == "*" {
		return true
	}
	var space [64]bool
	at := space[:]
	if len(p) >= len(space) {
		at = make([]bool, len(p)+1)
	}
	// enter marks position j, and what follows it if a wildcard there may stand for nothing.
	enter := func(j int) {
		at[j] = true
		if j < len(p) && (p[j] == '*' || p[j] == '%') {
			at[j+1] = true
		}
	}
	enter(0)
	for i := 0; i < len(s); i++ {
		alive := false
		at[len(p)] = false
		// Downwards: a position entered in this step is not looked at again in it.
		for j := len(p) - 1; j >= 0; j-- {
			if !at[j] {
				continue
			}
			switch c := s[i]; {
			case p[j] == '*', p[j] == '%' && c != sep:
				enter(j)
				alive = true
			case p[j] == c && p[j] != '%':
				at[j] = false
				enter(j + 1)
				alive = true
			default:
				at[j] = false
			}
		}
		if !alive {
			return false
		}
	}
	return at[len(p)]
}
