package mupdate

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// However a command is cut into literals, a session holds little more of it than its longest argument,
// and of a stranger's less.
func TestCommandsAreBounded(t *testing.T) {
	for _, literal := range []int{maxLoginLiteral, maxLiteral} {
		p := parser{literal: int64(literal)}
		whole := fmt.Sprintf("X1 ACTIVATE {1024+}\r\n%s {1024+}\r\n%s {%d+}\r\n%s\r\n",
			strings.Repeat("n", 1024), strings.Repeat("l", 1024), literal, strings.Repeat("a", literal))
		if f, n, _, err := p.parse([]byte(whole)); err != nil || n != len(whole) || len(f.args) != 3 {
			t.Errorf("the longest ACTIVATE with literals of %d: %d of %d octets, %v", literal, n, len(whole), err)
		}
		for _, each := range []int{1000, literal / 2, literal} {
			buf := []byte("X1 NOOP")
			for {
				buf = fmt.Appendf(buf, " {%d+}\r\n", each)
				_, n, _, err := p.parse(buf)
				if errors.Is(err, errTooLong) || errors.Is(err, errTooManyParts) {
					break
				}
				if buf = append(buf, strings.Repeat("x", each)...); err != nil || n > 0 || len(buf) > literal+maxBeside+maxLine {
					t.Errorf("literals of %d: still read after %d octets, %v", each, len(buf), err)
					break
				}
			}
			if most := literal + maxBeside; len(buf) > most+maxLine {
				t.Errorf("literals of %d: %d octets held", each, len(buf))
			}
		}
	}
}
