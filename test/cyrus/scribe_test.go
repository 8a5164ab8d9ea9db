//go:build cyrus

package cyrus

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"murder/internal/mbox"
)

// scribe is a MUPDATE server without a will of its own. It believes everybody and writes rows as the
// test wants them: how strings look, and in which order.
type scribe struct {
	listener net.Listener

	mu     sync.Mutex
	rows   map[string][]string // name, location, ACL
	form   func(string) string
	order  mbox.Order
	misses int
	conns  map[net.Conn]bool
	wg     sync.WaitGroup
}

// The ways to write a string (RFC 3656 section 2).
func quotedForm(s string) string      { return `"` + s + `"` }
func literalForm(s string) string     { return fmt.Sprintf("{%d+}\r\n%s", len(s), s) }
func syncLiteralForm(s string) string { return fmt.Sprintf("{%d}\r\n%s", len(s), s) }
func escapedForm(s string) string     { return `"\` + s[:1] + strings.ReplaceAll(s[1:], ".", `\.`) + `"` }

func newScribe(t *testing.T, addr string) *scribe {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s := &scribe{listener: l, rows: map[string][]string{}, form: quotedForm, conns: map[net.Conn]bool{}}
	s.wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns[nc] = true
			s.mu.Unlock()
			s.wg.Go(func() { s.serve(nc) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		s.cut()
		s.wg.Wait()
	})
	return s
}

func (s *scribe) addr() string { return s.listener.Addr().String() }

// cut ends all sessions. Those who follow come again and have a whole dump.
func (s *scribe) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for nc := range s.conns {
		nc.Close()
	}
}

// write changes how rows are written from now on.
func (s *scribe) write(form func(string) string, order mbox.Order) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.form, s.order, s.misses = form, order, 0
}

// missed is how often somebody has asked for a single name.
func (s *scribe) missed() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.misses
}

// names are those of all rows, in octet order.
func (s *scribe) names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.rows))
}

// learn adds a row that no server has sent.
func (s *scribe) learn(row ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rows[row[0]] = row
}

func (s *scribe) serve(nc net.Conn) {
	defer func() {
		nc.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.conns, nc)
	}()
	io.WriteString(nc, "* AUTH \"PLAIN\"\r\n* OK MUPDATE \"scribe.test\" \"scribe\" \"1\" \"(master)\"\r\n")
	r := bufio.NewReader(nc)
	for {
		words, err := readCommand(r)
		if err != nil {
			return
		}
		if len(words) < 2 { // the go-ahead of a client that takes a literal for one that waits
			continue
		}
		if _, err := io.WriteString(nc, s.answer(words[0], words[1], words[2:])); err != nil || words[1] == "LOGOUT" {
			return
		}
	}
}

// announced ends a line that a literal follows.
var announced = regexp.MustCompile(`\{(\d+)\+?\}$`)

// readCommand reads one command whose arguments are literals, as Cyrus writes them.
func readCommand(r *bufio.Reader) ([]string, error) {
	var words []string
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return nil, err
		}
		line = strings.TrimRight(line, "\r\n")
		lit := announced.FindStringSubmatch(line)
		if lit == nil {
			return append(words, strings.Fields(line)...), nil
		}
		words = append(words, strings.Fields(strings.TrimSuffix(line, lit[0]))...)
		n, err := strconv.Atoi(lit[1])
		if err != nil {
			return nil, err
		}
		octets := make([]byte, n)
		if _, err := io.ReadFull(r, octets); err != nil {
			return nil, err
		}
		words = append(words, string(octets))
	}
}

func (s *scribe) answer(tag, verb string, args []string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	want := func(row []string) bool { return true }
	switch verb {
	case "RESERVE", "ACTIVATE", "DEACTIVATE":
		s.rows[args[0]] = args
	case "DELETE":
		delete(s.rows, args[0])
	case "FIND":
		s.misses++
		want = func(row []string) bool { return row[0] == args[0] }
	case "LIST":
		want = func(row []string) bool { return len(args) == 0 || strings.HasPrefix(row[1], args[0]) }
	}
	if slices.Contains([]string{"FIND", "LIST", "UPDATE"}, verb) {
		rows := slices.SortedFunc(maps.Values(s.rows), func(a, b []string) int {
			return s.order.Compare(mbox.Name(a[0]), mbox.Name(b[0]))
		})
		for _, row := range rows {
			if !want(row) {
				continue
			}
			b.WriteString(tag + map[int]string{2: " RESERVE", 3: " MAILBOX"}[len(row)])
			for _, field := range row {
				b.WriteString(" " + s.form(field))
			}
			b.WriteString("\r\n")
		}
	}
	return b.String() + tag + " OK \"so be it\"\r\n"
}
