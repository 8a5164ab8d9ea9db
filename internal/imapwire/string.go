package imapwire

import "strconv"

// MaxQuoted is the longest value that AppendString writes as a quoted string.
const MaxQuoted = 512

// AppendString writes s as a quoted string when every reader can parse it as one, otherwise as a
// non-synchronising literal. Nothing is ever escaped: RFC 3656 knows no escapes, and some Cyrus releases
// read quoted strings from a server but no such literals (3.4.8, 3.6.5 and 3.8.3: imapparse.c, getxstring).
func AppendString[T ~string | ~[]byte](dst []byte, s T) []byte {
	return AppendStringUpTo(dst, s, MaxQuoted)
}

// AppendStringUpTo is AppendString with another limit than MaxQuoted, for readers that are known to bear it.
func AppendStringUpTo[T ~string | ~[]byte](dst []byte, s T, limit int) []byte {
	if quotable(s, limit) {
		dst = append(dst, '"')
		dst = append(dst, s...)
		return append(dst, '"')
	}
	return AppendLiteral(dst, s)
}

// AppendLiteral writes s as {n+} CRLF octets.
func AppendLiteral[T ~string | ~[]byte](dst []byte, s T) []byte {
	dst = append(dst, '{')
	dst = strconv.AppendInt(dst, int64(len(s)), 10)
	dst = append(dst, "+}\r\n"...)
	return append(dst, s...)
}

// Quotable reports whether s may stand between quotes unescaped.
func Quotable[T ~string | ~[]byte](s T) bool { return quotable(s, MaxQuoted) }

func quotable[T ~string | ~[]byte](s T, limit int) bool {
	if len(s) > limit {
		return false
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c >= 0x80, c == 0, c == '\r', c == '\n', c == '"', c == '\\':
			return false
		}
	}
	return true
}
