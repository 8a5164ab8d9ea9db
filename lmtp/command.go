package lmtp

import (
	"math"
	"strconv"
	"strings"

	"murder/internal/mbox"
)

// maxCommand is the longest command line in octets without its end. RFC 5321 section 4.5.3.1.4 asks
// for 512 and room for the parameters of extensions.
const maxCommand = 2048

// splitCommand cuts a line into its verb in capitals and the rest.
func splitCommand(line string) (verb, args string) {
	verb, args, _ = strings.Cut(strings.TrimRight(line, " \t"), " ")
	return strings.ToUpper(verb), strings.TrimLeft(args, " ")
}

// envelope is what MAIL says.
type envelope struct {
	from   string
	size   int64  // announced, 0 if not
	body   string // "", 7BIT or 8BITMIME
	poster string // AUTH=, decoded; "" for none and for <>
}

// parsePath cuts "FROM:<path> parameters"; keyword is in capitals. Space after the colon is
// tolerated, as RFC 5321 section 3.3 forbids and some MTAs do.
func parsePath(args, keyword string) (path string, params []string, ok bool) {
	if len(args) <= len(keyword) || !strings.EqualFold(args[:len(keyword)], keyword) || args[len(keyword)] != ':' {
		return "", nil, false
	}
	rest := strings.TrimLeft(args[len(keyword)+1:], " ")
	if rest == "" || rest[0] != '<' {
		return "", nil, false
	}
	end := pathEnd(rest)
	if end < 0 || end+1 < len(rest) && rest[end+1] != ' ' {
		return "", nil, false
	}
	return rest[1:end], strings.Fields(rest[end+1:]), true
}

// pathEnd finds the ">" outside quotes.
func pathEnd(s string) int {
	quoted := false
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && quoted:
			i++
		case c == '"':
			quoted = !quoted
		case c == '>' && !quoted:
			return i
		case c == '<' && !quoted:
			return -1
		}
	}
	return -1
}

// parseMail reads the arguments of MAIL. The last result is the refusal; its code is 0 if there is
// none.
func parseMail(args string) (envelope, reply) {
	path, params, ok := parsePath(args, "FROM")
	if !ok {
		return envelope{}, replySyntax
	}
	var e envelope
	if path != "" {
		a, err := ParseAddress(path)
		if err != nil {
			return envelope{}, replySenderPath
		}
		e.from = a.Path
	}
	for i := range len(e.from) {
		if e.from[i] >= 0x80 { // needs SMTPUTF8
			return envelope{}, replySenderPath
		}
	}
	for _, param := range params {
		name, value, _ := strings.Cut(param, "=")
		switch strings.ToUpper(name) {
		case "SIZE":
			if e.size, ok = parseSize(value); !ok {
				return envelope{}, replySyntax
			}
		case "BODY":
			e.body = strings.ToUpper(value)
			if e.body != "7BIT" && e.body != "8BITMIME" {
				return envelope{}, replySyntax
			}
		case "AUTH":
			if e.poster, ok = parseMailAuth(value); !ok {
				return envelope{}, replySyntax
			}
		case "SMTPUTF8":
			return envelope{}, replyNoUTF8
		default:
			return envelope{}, replyParameter
		}
	}
	return e, reply{}
}

// parseRcpt reads the arguments of RCPT.
func parseRcpt(args string) (a Address, ignoreQuota bool, refusal reply) {
	path, params, ok := parsePath(args, "TO")
	if !ok {
		return Address{}, false, replySyntax
	}
	a, err := ParseAddress(path)
	if err != nil {
		return Address{}, false, replyRecipientPath
	}
	for _, param := range params {
		if !strings.EqualFold(param, "IGNOREQUOTA") {
			return Address{}, false, replyParameter
		}
		ignoreQuota = true
	}
	return a, ignoreQuota, reply{}
}

// parseSize reads the digits of SIZE= (RFC 1870 section 3). What does not fit is as large as can be.
func parseSize(s string) (int64, bool) {
	if s == "" || len(s) > 20 {
		return 0, false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		n = math.MaxInt64
	}
	return n, true
}

// parseMailAuth reads the value of AUTH= (RFC 4954 section 5): xtext or <>.
func parseMailAuth(s string) (string, bool) {
	if s == "<>" {
		return "", true
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '+':
			if i+2 >= len(s) {
				return "", false
			}
			n, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
			if err != nil || s[i+1:i+3] != strings.ToUpper(s[i+1:i+3]) {
				return "", false
			}
			b.WriteByte(byte(n))
			i += 2
		case c < '!' || c > '~' || c == '=':
			return "", false
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), b.Len() > 0 && b.Len() <= mbox.MaxNameLen
}

// mailAuth writes a poster for a backend.
//
// Cyrus: up to 3.6 "+XX" is decoded to NUL, so that alice+40d would act as alice. A name that would
// need it is not sent at all.
func mailAuth(poster string) string {
	if poster == "" {
		return "<>"
	}
	for i := range len(poster) {
		if c := poster[i]; c < '!' || c > '~' || c == '+' || c == '=' {
			return "<>"
		}
	}
	return poster
}

// validName reports whether s may stand as a host name in trace fields.
func validName(s string) bool {
	if s == "" || len(s) > 255 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`()<>;"\`, c) >= 0 {
			return false
		}
	}
	return true
}
