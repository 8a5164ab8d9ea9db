package mupdate

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"murder/internal/mbox"
)

// Cyrus 3.4.8, 3.6.5 and 3.8.3 read no literals: the row of a mailbox that is shared with many has none. What is
// longer yet keeps the line within what readers must bear.
func TestLongRows(t *testing.T) {
	for _, c := range []struct {
		name, acl string
		literal   bool
	}{
		{"user.a", strings.Repeat("somebody\tlrs\t", 100), false},
		{"user.a", strings.Repeat("x", maxQuoted), false},
		{"user.a", strings.Repeat("x", maxQuoted+1), true},
		{strings.Repeat("n", 1023), strings.Repeat("x", maxQuoted), false},
		{"user.caf\xc3\xa9", "u\tl\t", true},
		{`user.a"b`, "u\tl\t", true}, // no escapes: RFC 3656 has none
	} {
		var o output
		o.row("U01", &mbox.Entry{Name: mbox.Name(c.name), Location: mbox.Location(strings.Repeat("s", 1000) + "!p"), ACL: mbox.ACL(c.acl), State: mbox.Active})
		first, rest, _ := bytes.Cut(o.buf, []byte("\r\n"))
		if literal := bytes.HasSuffix(first, []byte("+}")); literal != c.literal || literal == (len(rest) == 0) {
			t.Errorf("%.20q with an ACL of %d octets: %.60q", c.name, len(c.acl), o.buf)
		}
		if len(first) > maxLine {
			t.Errorf("the line has %d octets", len(first))
		}
		if !c.literal && !strings.HasSuffix(string(o.buf), fmt.Sprintf(" \"%s\"\r\n", c.acl)) {
			t.Errorf("%.20q: the ACL is not there as it was", c.name)
		}
	}
}
