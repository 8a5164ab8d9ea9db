//go:build cyrus

package delivery

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"murder/test/lmtpline"
)

// ledger is what senders were told. Its keys are "ID RCPT".
type ledger struct {
	mu           sync.Mutex
	acknowledged map[string]string   // by whom
	doubts       map[string][]string // attempts whose outcome nobody knows, by their causes
	deferred     map[string]int      // by reply
	refused      []string            // for good
	progress     chan struct{}       // closed and replaced at every acknowledgement
}

func newLedger() *ledger {
	return &ledger{acknowledged: map[string]string{}, doubts: map[string][]string{}, deferred: map[string]int{}, progress: make(chan struct{})}
}

func (l *ledger) acknowledge(by string, keys ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, key := range keys {
		l.acknowledged[key] = by
	}
	close(l.progress)
	l.progress = make(chan struct{})
}

func (l *ledger) doubt(key, cause string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.doubts[key] = append(l.doubts[key], cause)
}

func (l *ledger) note(reply string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deferred[reply]++
}

func (l *ledger) refuse(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refused = append(l.refused, text)
}

func (l *ledger) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acknowledged)
}

// await waits for count acknowledgements in all.
func (l *ledger) await(ctx context.Context, count int) bool {
	for {
		l.mu.Lock()
		n, progress := len(l.acknowledged), l.progress
		l.mu.Unlock()
		if n >= count {
			return true
		}
		select {
		case <-progress:
		case <-ctx.Done():
			return false
		}
	}
}

// tell logs how far it is at every step acknowledgements, until ctx ends.
func (l *ledger) tell(ctx context.Context, t *testing.T, step int) {
	began := time.Now()
	for at := step; l.await(ctx, at); at += step {
		t.Logf("progress:     %d deliveries acknowledged after %s", at, time.Since(began).Round(time.Second))
	}
}

// check compares what was acknowledged with what is stored, and how often. A message may be there again
// for every attempt whose outcome nobody knew.
func (l *ledger) check(t *testing.T, stored map[string]int) {
	t.Helper()
	for _, text := range l.refused {
		t.Errorf("refused for good: %s", text)
	}
	by, found, lost, unexplained := map[string]int{}, 0, 0, 0
	twice := map[string]int{}
	for key, sender := range l.acknowledged {
		by[sender]++
		n := stored[key]
		if n == 0 {
			lost++
			t.Errorf("LOST: %s, acknowledged by %s", key, sender)
			continue
		}
		found++
		for i := range n - 1 {
			if i < len(l.doubts[key]) {
				twice[l.doubts[key][i]]++
				continue
			}
			unexplained++
			t.Errorf("stored %d times after %d open outcomes: %s", n, len(l.doubts[key]), key)
			break
		}
	}
	doubts := map[string]int{}
	for _, causes := range l.doubts {
		for _, cause := range causes {
			doubts[cause]++
		}
	}
	t.Logf("acknowledged: %d deliveries (%s)", len(l.acknowledged), counts(by))
	t.Logf("found:        %d, lost: %d", found, lost)
	t.Logf("stored again: %d without an open outcome; after one: %s", unexplained, counts(twice))
	t.Logf("open outcomes: %s", counts(doubts))
	t.Logf("deferrals:     %s", counts(l.deferred))
}

// counts writes a map by falling numbers.
func counts(m map[string]int) string {
	if len(m) == 0 {
		return "none"
	}
	keys := slices.SortedFunc(maps.Keys(m), func(a, b string) int { return m[b] - m[a] })
	var parts []string
	for _, k := range keys {
		parts = append(parts, fmt.Sprintf("%s %d", k, m[k]))
	}
	return strings.Join(parts, ", ")
}

// generator is an MTA of the simplest kind: it sends every message again to whoever has not been
// confirmed, until all are.
type generator struct {
	*ledger
	addrs []string // frontends
	text  func(id int) string
}

// work sends messages with the ids that it gets, over one connection after the other.
func (g *generator) work(worker int, ids <-chan int, rcptsOf func(id int) []string) {
	var c *lmtpline.Conn
	defer func() {
		if c != nil {
			c.Close()
		}
	}()
	for id := range ids {
		name := subject(id)
		left := rcptsOf(id)
		for try := 0; len(left) > 0; try++ {
			if try > 0 {
				time.Sleep(50 * time.Millisecond) // a queue's pause
			}
			if c == nil {
				if c, _ = lmtpline.Dial(g.addrs[(worker+try)%len(g.addrs)]); c == nil {
					g.note("connection refused")
					continue
				}
			}
			replies, err := c.Deliver(g.text(id), left...)
			if err != nil {
				c.Close()
				c = nil
			}
			left = g.settle(name, left, replies, err)
		}
	}
}

// settle keeps what became of an attempt and returns who has to be tried again.
func (g *generator) settle(name string, rcpts []string, replies []lmtpline.Reply, err error) (again []string) {
	for i, rcpt := range rcpts {
		key := name + " " + rcpt
		var r lmtpline.Reply
		if i < len(replies) {
			r = replies[i]
		}
		switch {
		case err != nil && !r.Sent:
			if errors.Is(err, lmtpline.ErrUncertain) && (r.Code == 0 || r.Code == 250) {
				g.doubt(key, "frontend lost after the dot")
			}
			g.note("connection lost")
			again = append(again, rcpt)
		case r.Code/100 == 2:
			g.acknowledge("generator", key)
		case r.Code/100 == 4:
			g.note(firstWords(r.String()))
			if cause := openOutcome(r.String()); r.Sent && cause != "" {
				g.doubt(key, cause)
			}
			again = append(again, rcpt)
		default:
			g.refuse(key + ": " + r.String())
		}
	}
	return again
}

// openOutcome says why a temporary failure after the data leaves it open whether the message has been
// stored; "" if it has not.
func openOutcome(reply string) string {
	for code, cause := range map[string]string{
		"451 4.4.2": "backend lost after the dot", "451 4.3.2": "backend closing", "451 4.3.0": "frontend failed",
	} {
		if strings.HasPrefix(reply, code) {
			return cause
		}
	}
	return ""
}

// firstWords is a reply's code and enhanced code.
func firstWords(reply string) string {
	words := strings.SplitN(reply, " ", 3)
	return strings.Join(words[:min(2, len(words))], " ")
}
