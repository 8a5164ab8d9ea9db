//go:build cyrus

package imapcyrus

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"murder/test/imapline"
)

// setting is a number from the environment.
func setting(name string, usual int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil && n > 0 {
		return n
	}
	return usual
}

// crowded is the folder of a crowd to which everybody copies and moves.
const crowded = `"Shared Folders/crowded"`

// 126: many clients at once, on both frontends, do at random what clients do: $MURDER_CLIENTS, by default 40, for
// $MURDER_SECONDS, by default 5. Every answer is OK, nobody gets what is another's, and each message is where its
// client was told.
func TestCrowd(t *testing.T) {
	clients, length := setting("MURDER_CLIENTS", 40), time.Duration(setting("MURDER_SECONDS", 5))*time.Second
	admin := direct(t, world.Be2, "cyrus")
	admin.ok("CREATE crowded")
	admin.ok("SETACL crowded anyone lrswipte")
	users := []string{"alice", "bob", "carol", "erin", "frank"}
	var crowd []*member
	for i := range clients {
		m := &member{t: t, id: i, box: fmt.Sprintf("crowd-%d", i), has: map[string]bool{}, gave: map[string]int{}}
		m.client = dial(t, []string{world.F1, world.F2}[i/len(users)%2], users[i%len(users)])
		m.must("CREATE %s", m.box)
		m.must("SELECT %s", m.box)
		m.must("STATUS %s (MESSAGES)", crowded) // Cyrus takes 32 new connections at a time: they are made before
		crowd = append(crowd, m)
	}
	end := time.Now().Add(length)
	var commands atomic.Int64
	var mu sync.Mutex
	shared := map[string]int{} // how often a message is to be in the folder of all
	var all sync.WaitGroup
	for _, m := range crowd {
		all.Go(func() {
			for time.Now().Before(end) && !m.lost {
				m.act()
			}
			m.check()
			mu.Lock()
			defer mu.Unlock()
			for id, n := range m.gave {
				shared[id] += n
			}
			commands.Add(m.commands)
		})
	}
	all.Wait()
	t.Logf("%d clients, %d commands", clients, commands.Load())
	found := map[string]int{}
	direct := direct(t, world.Be2, "alice")
	direct.ok("EXAMINE %s", crowded)
	if n := len(shared); n > 0 {
		for _, l := range direct.ok("FETCH 1:* BODY.PEEK[HEADER.FIELDS (SUBJECT)]") {
			found[subject(l)]++
		}
	}
	if !maps.Equal(found, shared) {
		t.Errorf("in the folder of all are\n%v, want\n%v", found, shared)
	}
}

// member is one of a crowd, with a folder of its own, and what it has there.
type member struct {
	*client
	t        *testing.T
	box      string
	id, made int
	has      map[string]bool
	gave     map[string]int // to the folder of all
	commands int64
	ok       bool // the last command
	lost     bool // its session
}

// must runs a command whose answer must be OK.
func (m *member) must(format string, args ...any) (lines []string) {
	r, err := m.Conn.Do(format, args...)
	m.commands++
	if m.ok = err == nil && r.Status == "OK"; !m.ok {
		m.t.Errorf("client %d, %.60q: %s %s %v", m.id, fmt.Sprintf(format, args...), r.Status, r.Text, err)
		m.lost = m.lost || err != nil
	}
	for _, l := range r.Lines {
		if !strings.HasPrefix(l, "* ") {
			m.t.Errorf("client %d, %.60q: line %.80q", m.id, fmt.Sprintf(format, args...), l)
		}
	}
	return r.Lines
}

// subject is that of a message of a crowd in a line of FETCH.
func subject(line string) string {
	_, rest, _ := strings.Cut(line, "Subject: ")
	word, _, _ := strings.Cut(rest, "\r\n")
	return word
}

// one is a message that it has, found in its folder, with its UID.
func (m *member) one() (id, uid string) {
	if len(m.has) == 0 {
		return "", ""
	}
	id = slices.Collect(maps.Keys(m.has))[rand.IntN(len(m.has))]
	lines := m.must("UID SEARCH HEADER MESSAGE-ID <%s@example.com>", id)
	for _, l := range lines {
		if f := strings.Fields(l); len(f) == 3 && f[1] == "SEARCH" {
			return id, f[2]
		}
	}
	m.t.Errorf("client %d: %s is not found: %q", m.id, id, lines)
	m.lost = true
	return "", ""
}

// act does something.
func (m *member) act() {
	switch rand.IntN(11) {
	case 0, 1:
		id := fmt.Sprintf("crowd-%d-%d", m.id, m.made)
		m.made++
		text := message(id) + strings.Repeat("x", rand.IntN(20_000)) + "\r\n"
		m.must("APPEND %s (\\Flagged) {%d+}\r\n%s", m.box, len(text), text)
		if m.ok {
			m.has[id] = true
		}
		m.must("NOOP")
	case 2:
		if id, uid := m.one(); uid != "" {
			lines := m.must("UID FETCH %s (UID FLAGS BODY.PEEK[])", uid)
			if len(lines) != 1 || !strings.Contains(lines[0], message(id)) {
				m.t.Errorf("client %d: got %.300q, want %s", m.id, lines, id)
			}
		}
	case 3:
		if id, uid := m.one(); uid != "" {
			if m.must("UID COPY %s %s", uid, crowded); m.ok {
				m.gave[id]++
			}
		}
	case 4:
		if id, uid := m.one(); uid != "" {
			if m.must("UID MOVE %s %s", uid, crowded); m.ok {
				m.gave[id]++
				delete(m.has, id)
			}
		}
	case 5:
		if id, uid := m.one(); uid != "" {
			m.must(`UID STORE %s +FLAGS.SILENT (\Deleted)`, uid)
			m.must("UID EXPUNGE %s", uid)
			delete(m.has, id)
		}
	case 6:
		has(m.t, m.must(`LIST "" (%s "Shared Folders/%%") RETURN (STATUS (MESSAGES))`, m.box), "* STATUS "+m.box+" ("+fmt.Sprintf("MESSAGES %d)", len(m.has)))
	case 7:
		if m.must("SELECT %s", crowded); m.ok {
			m.must("UID FETCH 1:* FLAGS")
		}
		m.must("SELECT %s", m.box)
	case 8:
		tag, err := m.Send("IDLE")
		if err == nil {
			_, err = m.Line(imapline.Timeout)
		}
		if err == nil {
			err = m.Raw("DONE\r\n")
		}
		if err == nil {
			_, err = m.Answer(tag)
		}
		if err != nil {
			m.t.Errorf("client %d: IDLE: %v", m.id, err)
			m.lost = true
		}
	case 9:
		// Several at once.
		if err := m.Pipeline(5, "NOOP"); err != nil {
			m.t.Errorf("client %d: %v", m.id, err)
			m.lost = true
		}
		m.commands += 5
	case 10:
		m.must("UNSELECT")
		m.must("STATUS %s (MESSAGES UIDNEXT)", crowded)
		m.must("SELECT %s", m.box)
	}
}

// check compares what it has with what is there.
func (m *member) check() {
	if m.lost {
		return
	}
	m.must("SELECT %s", m.box)
	found := map[string]bool{}
	if len(m.has) > 0 {
		for _, l := range m.must("FETCH 1:* BODY.PEEK[HEADER.FIELDS (SUBJECT)]") {
			found[subject(l)] = true
		}
	}
	if !maps.Equal(found, m.has) {
		m.t.Errorf("client %d has %v, want %v", m.id, found, m.has)
	}
}
