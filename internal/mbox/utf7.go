package mbox

import (
	"encoding/base64"
	"errors"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// ErrUTF7 means a name that is not well-formed modified UTF-7, or text that cannot be written in it.
var ErrUTF7 = errors.New("not a well-formed name: bad modified UTF-7")

// utf7 is base64 with "," for "/", without padding (RFC 3501 section 5.1.3). Bits that fill the last
// sextet must be zero.
var utf7 = base64.NewEncoding("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+,").
	WithPadding(base64.NoPadding).Strict()

// EncodeUTF7 writes UTF-8 text in modified UTF-7.
func EncodeUTF7(s string) (string, error) {
	if !utf8.ValidString(s) {
		return "", ErrUTF7
	}
	if isDirect(s) {
		return s, nil
	}
	var b strings.Builder
	var run []uint16
	flush := func() {
		if len(run) == 0 {
			return
		}
		raw := make([]byte, 0, 2*len(run))
		for _, u := range run {
			raw = append(raw, byte(u>>8), byte(u))
		}
		b.WriteByte('&')
		b.WriteString(utf7.EncodeToString(raw))
		b.WriteByte('-')
		run = run[:0]
	}
	for _, r := range s {
		switch {
		case r < 0x20 || r == 0x7f:
			return "", ErrUTF7
		case r == '&':
			flush()
			b.WriteString("&-")
		case r < 0x7f:
			flush()
			b.WriteByte(byte(r))
		default:
			run = utf16.AppendRune(run, r)
		}
	}
	flush()
	return b.String(), nil
}

// DecodeUTF7 reads modified UTF-7, strictly: every name has one spelling, so that two spellings
// cannot name one mailbox (RFC 3501 section 5.1.3).
func DecodeUTF7(s string) (string, error) {
	if isDirect(s) {
		return s, nil
	}
	var b strings.Builder
	shifted := false // the previous piece was a base64 run
	for i := 0; i < len(s); {
		c := s[i]
		if c < 0x20 || c >= 0x7f {
			return "", ErrUTF7
		}
		if c != '&' {
			b.WriteByte(c)
			i++
			shifted = false
			continue
		}
		n := strings.IndexByte(s[i:], '-')
		if n < 0 {
			return "", ErrUTF7
		}
		run := s[i+1 : i+n]
		i += n + 1
		if run == "" {
			b.WriteByte('&')
			shifted = false
			continue
		}
		// Cyrus: two runs in a row are refused too; they should have been one.
		if shifted {
			return "", ErrUTF7
		}
		shifted = true
		if err := decodeRun(&b, run); err != nil {
			return "", err
		}
	}
	return b.String(), nil
}

func decodeRun(b *strings.Builder, run string) error {
	raw, err := utf7.DecodeString(run)
	// The decoder passes over line ends, and a lone sextet would have no octets.
	if err != nil || len(raw) == 0 || len(raw)%2 != 0 || strings.ContainsAny(run, "\r\n") {
		return ErrUTF7
	}
	for i := 0; i < len(raw); i += 2 {
		r := rune(raw[i])<<8 | rune(raw[i+1])
		if utf16.IsSurrogate(r) {
			if i+3 >= len(raw) {
				return ErrUTF7
			}
			r = utf16.DecodeRune(r, rune(raw[i+2])<<8|rune(raw[i+3]))
			if r == utf8.RuneError {
				return ErrUTF7
			}
			i += 2
		}
		if r < 0x80 { // has a direct form, or is a control
			return ErrUTF7
		}
		b.WriteRune(r)
	}
	return nil
}

// isDirect reports whether s stands for itself in modified UTF-7.
func isDirect(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < 0x20 || c >= 0x7f || c == '&' {
			return false
		}
	}
	return true
}
