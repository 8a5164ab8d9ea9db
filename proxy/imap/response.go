package imap

import (
	"bytes"
	"strings"
)

// kind is what the head of a response line tells.
type kind uint8

const (
	kindOther    kind = iota // untagged, passed on
	kindMailbox              // untagged, about the selected mailbox of that connection
	kindOwn                  // untagged, about the connection itself: never passed on
	kindAlert                // untagged OK, NO or BAD with [ALERT]
	kindBye                  // untagged BYE
	kindContinue             // "+"
	kindTagged               // with a tag
)

// classify looks at the head of a response line, at least 64 octets or the whole line.
func classify(head []byte) kind {
	if len(head) == 0 || head[0] == '+' {
		return kindContinue
	}
	rest, ok := bytes.CutPrefix(head, []byte("* "))
	if !ok {
		return kindTagged
	}
	word, rest := cutWord(rest)
	switch strings.ToUpper(string(word)) {
	case "BYE":
		return kindBye
	case "CAPABILITY", "ENABLED", "ID":
		return kindOwn
	case "FLAGS", "VANISHED":
		return kindMailbox
	case "OK", "NO", "BAD":
		if hasPrefixFold(rest, "[ALERT]") {
			return kindAlert
		}
		return kindOther
	}
	if len(word) > 0 && word[0] >= '0' && word[0] <= '9' {
		// EXISTS, RECENT, EXPUNGE, FETCH, UIDFETCH: each is about a message of a selected mailbox.
		return kindMailbox
	}
	return kindOther
}

// cutWord splits at the first space or line end.
func cutWord(b []byte) (word, rest []byte) {
	i := bytes.IndexAny(b, " \r\n")
	if i < 0 {
		return b, nil
	}
	if b[i] == ' ' {
		return b[:i], b[i+1:]
	}
	return b[:i], b[i:]
}

func hasPrefixFold(b []byte, prefix string) bool {
	return len(b) >= len(prefix) && strings.EqualFold(string(b[:len(prefix)]), prefix)
}

// status is the condition of a tagged response (RFC 9051 section 7.1).
type status uint8

const (
	statusBad status = iota
	statusNo
	statusOK
)

func (st status) String() string { return [...]string{"BAD", "NO", "OK"}[st] }

// condition reads the part of a tagged line behind the tag: its status, its response code without
// brackets ("" for none), and its text.
func condition(tagged []byte) (st status, code, text string) {
	_, rest := cutWord(tagged)
	word, rest := cutWord(rest)
	switch strings.ToUpper(string(word)) {
	case "OK":
		st = statusOK
	case "NO":
		st = statusNo
	default:
		st = statusBad
	}
	line := strings.TrimRight(string(rest), "\r\n")
	if strings.HasPrefix(line, "[") {
		if i := strings.IndexByte(line, ']'); i > 0 {
			return st, line[1:i], strings.TrimPrefix(line[i+1:], " ")
		}
	}
	return st, "", line
}

// codeName returns the first word of a response code in upper case.
func codeName(code string) string {
	name, _, _ := strings.Cut(code, " ")
	return strings.ToUpper(name)
}

// plain are texts of Cyrus's refusals that come without a response code, and the code (RFC 5530) each
// deserves. Clients can act on a code only. The first that is found in the text counts.
var plain = []struct{ text, code string }{
	{"does not exist", "NONEXISTENT"},
	{"permission denied", "NOPERM"},
	{"already exists", "ALREADYEXISTS"},
	{"over quota", "OVERQUOTA"},
	{"mupdate", "UNAVAILABLE"},                 // the map could not be told
	{"no connection to server", "UNAVAILABLE"}, // nor could it be reached
	{"unavailable", "UNAVAILABLE"},
	{"currently reserved", "UNAVAILABLE"},
	{"moved to another server", "UNAVAILABLE"},
	{"is locked", "INUSE"},
	{"invalid mailbox name", "CANNOT"},
	{"operation is not supported", "CANNOT"},
	{"i/o error", "SERVERBUG"},
}

// refusalOf is a backend's NO or BAD as the end of the client's command.
func refusalOf(tagged []byte) *result {
	st, code, text := condition(withCode(tagged))
	return &result{min(st, statusNo).String(), code, text}
}

// withCode adds the response code to a backend's NO that has none.
func withCode(tagged []byte) []byte {
	st, have, text := condition(tagged)
	if st != statusNo || have != "" {
		return tagged
	}
	text = strings.ToLower(text)
	for _, p := range plain {
		if strings.Contains(text, p.text) {
			tag, _ := cutWord(tagged)
			rest := tagged[len(tag)+len(" NO "):]
			return append(append(bytes.Clone(tag), " NO ["+p.code+"] "...), rest...)
		}
	}
	return tagged
}
