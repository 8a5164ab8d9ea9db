package imap

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"murder/internal/mbox"
)

// MOVE to another server is broken off at every step that a server can take, before and after it has
// done what it was told: no message is ever lost, whatever the client is told, and what it is told is
// true. At worst a message is in both places.
func TestMoveAtEveryCrashPoint(t *testing.T) {
	points := []string{"FETCH", "UID_FETCH", "AUTHENTICATE", "ID", "NAMESPACE", "APPEND{1", "APPEND{2", "APPEND{3", "APPEND", "UID_STORE", "UID_EXPUNGE"}
	for _, at := range []string{"b1", "b2"} {
		for _, point := range points {
			for _, when := range []string{"close", "done-close", "bye", "TAG NO [SERVERBUG] disk", "stop"} {
				t.Run(fmt.Sprintf("%s %s %s", at, point, strings.Fields(when)[0]), func(t *testing.T) {
					inVirtualTime(t, rigOptions{}, func(t *testing.T, r *rig) { crashMove(t, r, at, point, when) })
				})
			}
		}
	}
}

func crashMove(t *testing.T, r *rig, at, point, when string) {
	d := r.login("A", "alice")
	d.send("s SELECT INBOX")
	d.until("s")
	r.stubs[at].fail(point, when)
	d.send(`x MOVE 1:3 "Shared Folders/shared"`)
	told := ""
	for told == "" {
		line, err := d.line()
		if err != nil {
			told = "the end"
		} else if rest, ok := strings.CutPrefix(line, "x "); ok {
			told = rest
		}
	}
	if !slices.ContainsFunc([]string{"OK ...", "NO [UNAVAILABLE] ...", "NO [SERVERBUG] disk", "NO [CANNOT] The messages were copied but not removed..."},
		func(want string) bool { return likeness(want).MatchString(told) }) {
		t.Errorf("the client was told %q", told)
	}
	if at == "b2" { // of no consequence for who has a mailbox of b1 open
		d.send("z NOOP")
		d.until("z")
	}
	here, there := r.stubs["b1"].bodies("user.alice"), r.stubs["b2"].bodies("shared")
	for _, body := range []string{"one", "two", "three"} {
		if here[body]+there[body] == 0 {
			t.Fatalf("%q is lost; the client was told %q", body, told)
		}
		if strings.HasPrefix(told, "OK") && (here[body] != 0 || there[body] != 1) {
			t.Errorf("%q is here %d and there %d times, and the client was told %q", body, here[body], there[body], told)
		}
		if there[body] > 1 {
			t.Errorf("%q is there %d times", body, there[body])
		}
	}
	if n := there["one"] + there["two"] + there["three"]; n != 0 && n != 3 {
		t.Errorf("some were copied: %v", there)
	}
}

// bodies counts the messages of a mailbox by what they say.
func (b *stub) bodies(name mbox.Name) map[string]int {
	b.mu.Lock()
	defer b.mu.Unlock()
	count := map[string]int{}
	for _, m := range b.boxes[name].list {
		count[string(m.body)]++
	}
	return count
}
