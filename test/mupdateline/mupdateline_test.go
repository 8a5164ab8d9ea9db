package mupdateline

import (
	"slices"
	"testing"
)

func TestFields(t *testing.T) {
	for _, c := range []struct {
		line string
		want []string
	}{
		{`X1 OK "done"`, []string{"X1", "OK", "done"}},
		{"U MAILBOX {3+}\r\na b {4+}\r\nh!p  \"x\ty\t\"", []string{"U", "MAILBOX", "a b", "h!p ", "x\ty\t"}},
		{`U RESERVE "a\"b" ""`, []string{"U", "RESERVE", `a"b`, ""}},
		{`U RESERVE "a`, nil},
	} {
		got, err := fields(c.line)
		if !slices.Equal(got, c.want) || (err != nil) != (c.want == nil) {
			t.Errorf("%q: got %q, %v", c.line, got, err)
		}
	}
}
