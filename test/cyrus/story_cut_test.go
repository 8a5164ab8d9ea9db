//go:build cyrus

package cyrus

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"murder/test/dialogue"
)

// The session is cut off in the middle of a CREATE, at each of its steps. The backend takes everything
// back. What the map cannot know it remembers; a name that stays reserved is free again soon after the
// session, and for the same backend at once.
func TestCreateCutInHalf(t *testing.T) {
	t.Parallel()
	m := newRelayed(t, Options{})
	be1, be2, relay := m.Node("be1"), m.Node("be2"), m.relays["be1"]
	admin := signOn(t, be1, m.Admin())
	ok(t, admin, "CREATE user.u1")
	var reserved string // the name that nobody asks for again
	var since time.Time
	for i, cut := range []struct {
		at   string
		fate func(dialogue.Line) dialogue.Fate
		kind string // of the record that is left
	}{
		{"before RESERVE", when("RESERVE", always(dialogue.CutBefore)), ""},
		{"before the answer to RESERVE", answered("RESERVE", always(dialogue.CutBefore)), "RESERVE"},
		{"after the answer to RESERVE", answered("RESERVE", always(dialogue.CutAfter)), "RESERVE"},
		{"before ACTIVATE", when("ACTIVATE", always(dialogue.CutBefore)), "RESERVE"},
		{"before the answer to ACTIVATE", answered("ACTIVATE", always(dialogue.CutBefore)), "MAILBOX"},
	} {
		t.Run(cut.at, func(t *testing.T) {
			for n, name := range []string{fmt.Sprintf("again%d", i), fmt.Sprintf("never%d", i)} {
				relay.Decide(cut.fate)
				refusedCreate(t, be1, name)
				relay.Decide(nil)
				if names, err := admin.List(name); err != nil || len(names) != 0 {
					t.Errorf("the backend keeps %q (%v)", names, err)
				}
				if row := m.record(t, name); row.Kind != cut.kind {
					t.Errorf("%s is left as %+v, want %q", name, row, cut.kind)
				}
				if cut.kind == "MAILBOX" {
					m.history(t, name, "unconfirmed")
					m.doctor(t, name, "unconfirmed")
				}
				if n == 0 {
					ok(t, admin, "CREATE %s", name)
					m.lives(t, name, be1)
				} else if cut.kind == "RESERVE" {
					reserved, since = name, time.Now()
				}
			}
		})
	}
	// Another backend may have the name once the lease is over: a session that has ended has 30 s.
	admin2 := signOn(t, be2, m.Admin())
	refusedCreate(t, be2, reserved)
	for m.record(t, reserved).Kind != "" {
		if time.Since(since) > 45*time.Second {
			t.Fatalf("%s is still reserved after %s", reserved, time.Since(since))
		}
		time.Sleep(time.Second)
	}
	m.push(t, be1) // clears what was confirmed to nobody
	if rows := m.rows(t, m.nodes[0], be1.Server+"!"); len(rows) != 6 {
		t.Errorf("the map has of be1 %v", rows)
	}
	ok(t, admin2, "CREATE %s", reserved)
	m.lives(t, reserved, be2)
}

// An ACL that is changed reaches the map, or the backend's client hears that it did not, and the next
// push brings it. A deletion that is cut off is a rename that is cut off: the mailbox is there as
// before, and the operator is told.
func TestChangesCutInHalf(t *testing.T) {
	t.Parallel()
	m := newRelayed(t, Options{Backends: 1})
	be1, relay := m.Node("be1"), m.relays["be1"]
	admin := signOn(t, be1, m.Admin())
	ok(t, admin, "CREATE user.u1")
	for _, cut := range []struct {
		at   string
		fate func(dialogue.Line) dialogue.Fate
		acl  bool // it has got into the map
	}{
		{"before ACTIVATE", when("ACTIVATE", always(dialogue.CutBefore)), false},
		{"before the answer to ACTIVATE", answered("ACTIVATE", always(dialogue.CutBefore)), true},
	} {
		t.Run("SETACL "+cut.at, func(t *testing.T) {
			relay.Decide(cut.fate)
			refused(t, admin, "SETACL user.u1 u2 lrs")
			relay.Decide(nil)
			if row := m.lives(t, "user.u1", be1); strings.Contains(row.ACL, "u2\tlrs\t") != cut.acl {
				t.Errorf("after the cut: %+v", row)
			}
			m.push(t, be1)
			if row := m.lives(t, "user.u1", be1); !strings.Contains(row.ACL, "u2\tlrs\t") {
				t.Errorf("after the push: %+v", row)
			}
			ok(t, admin, "DELETEACL user.u1 u2")
		})
	}
	t.Run("DELETE after its first step", func(t *testing.T) {
		ok(t, admin, "CREATE user.u1.kept")
		ok(t, admin, "SETACL user.u1.kept %s lrswipkxtecda", m.Admin())
		relay.Decide(answered("DELETE", always(dialogue.CutAfter)))
		refused(t, admin, "DELETE user.u1.kept")
		relay.Decide(nil)
		if names, err := admin.List("*user.u1.kept*"); err != nil || !slices.Equal(names, []string{"user.u1.kept"}) {
			t.Fatalf("the backend has %q (%v)", names, err)
		}
		m.gone(t, "user.u1.kept")
		m.doctor(t, "user.u1.kept", "cut-rename")
		m.repair(t, "restore", "user.u1.kept")
		m.lives(t, "user.u1.kept", be1)
	})
	m.push(t, be1)
}
