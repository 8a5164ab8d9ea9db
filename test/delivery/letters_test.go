//go:build cyrus

package delivery

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"murder/test/cyrus"
	"murder/test/imapline"
)

// letters makes messages by their numbers, the same ones whenever it is asked, so that what arrives can be told
// from what was sent. Most are small; one in a hundred does not fit into the memory that a frontend gives a message.
type letters struct{ seed uint64 }

const spoolMemory = 128 << 10

func subject(id int) string { return fmt.Sprintf("loss-%d", id) }

// number is the inverse of subject.
func number(subject string) (id int, ok bool) {
	text, ok := strings.CutPrefix(subject, "loss-")
	id, err := strconv.Atoi(text)
	return id, ok && err == nil
}

func (l letters) text(id int) string { return letter(subject(id), l.body(id)) }

func (l letters) body(id int) string {
	r := rand.New(rand.NewPCG(l.seed, uint64(id)))
	size := 20 + r.IntN(4000)
	switch n := r.IntN(100); {
	case n == 0:
		size = spoolMemory + r.IntN(2*spoolMemory)
	case n < 5:
		size = 8<<10 + r.IntN(56<<10)
	}
	var b strings.Builder
	for b.Len() < size {
		if r.IntN(8) == 0 { // lines that want stuffing
			b.WriteString("....."[:1+r.IntN(5)])
		}
		for range r.IntN(70) {
			c := byte(' ' + r.IntN(96))
			if c == 0x7f {
				c = 0xe4
			}
			b.WriteByte(c)
		}
		b.WriteString("\r\n")
	}
	return b.String()
}

// stored hands the subject and the body of every message in a mailbox to see.
func stored(t testing.TB, n *cyrus.Node, user, mailbox string, see func(subject, body string)) {
	t.Helper()
	const step = 200
	c := signOn(t, n, user)
	reply, err := c.OK("EXAMINE %s", imapline.Quote(mailbox))
	if err != nil {
		t.Fatal(err)
	}
	exist := 0
	for _, l := range reply.Lines {
		if count, ok := strings.CutSuffix(strings.TrimPrefix(l, "* "), " EXISTS"); ok {
			exist, _ = strconv.Atoi(count)
		}
	}
	seen := 0
	for from := 1; from <= exist; from += step {
		reply, err := c.OK("FETCH %d:%d (BODY.PEEK[])", from, min(from+step-1, exist))
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range reply.Lines {
			_, message, ok := strings.Cut(l, "}\r\n")
			if !ok || !strings.Contains(l[:min(60, len(l))], "FETCH") {
				continue
			}
			header, body, _ := strings.Cut(strings.TrimSuffix(message, ")"), "\r\n\r\n")
			_, rest, _ := strings.Cut("\r\n"+header+"\r\n", "\r\nSubject: ")
			subject, _, _ := strings.Cut(rest, "\r\n")
			see(subject, body)
			seen++
		}
	}
	if seen != exist {
		t.Fatalf("%s has %d messages, of which %d could be read", mailbox, exist, seen)
	}
	c.Close()
}
