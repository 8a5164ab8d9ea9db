//go:build cyrus

package imapcyrus

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"murder/cluster/admin"
)

// murderctl asks a node, which answers in JSON.
func murderctl(t testing.TB, node string, answer any, args ...string) {
	t.Helper()
	out, err := world.Cluster.Murderctl(t.Context(), node, append(args, "-o", "json")...)
	if err == nil {
		err = json.Unmarshal(out, answer)
	}
	if err != nil {
		t.Fatalf("murderctl %q: %v", args, err)
	}
}

// An operator sees who is there, sends one away and nobody else, and can follow him in the log.
func TestSessionsOfOperators(t *testing.T) {
	goes, stays := dial(t, world.F2, "frank"), at(t, "frank")
	for _, c := range []*client{goes, stays} {
		c.ok("SELECT INBOX")
		c.ok(`STATUS "Shared Folders/shared" (MESSAGES)`)
	}
	var list admin.SessionList
	murderctl(t, "c1", &list, "session", "list", "--user", "frank")
	i := slices.IndexFunc(list.Sessions, func(s admin.Session) bool { return s.Node == "f2" })
	if i < 0 || len(list.Missing) > 0 {
		t.Fatalf("%+v", list)
	}
	s := list.Sessions[i]
	if s.Protocol != "imap" || s.User != "frank" || s.Mailbox != "INBOX" || !slices.Equal(s.Backends, []string{"be1.rig.test", "be2.rig.test"}) ||
		!strings.HasPrefix(s.Peer, "127.") || s.In == 0 || s.Out == 0 {
		t.Errorf("%+v", s)
	}
	if out, err := world.Cluster.Murderctl(t.Context(), "c1", "session", "kick", s.ID, "--reason", "Good night"); err != nil {
		t.Fatalf("%s %v", out, err)
	}
	if line, err := goes.Line(5 * time.Second); err != nil || line != "* BYE [UNAVAILABLE] Good night" {
		t.Errorf("%q %v", line, err)
	}
	if line, err := goes.Line(5 * time.Second); err == nil {
		t.Errorf("then %q", line)
	}
	stays.ok("NOOP")
	if _, err := world.Cluster.Murderctl(t.Context(), "c1", "session", "kick", s.ID); err == nil {
		t.Error("kicked twice")
	}
	// One line when he came, and one when he went.
	eventually(t, "both lines in the log", func() bool {
		var lines []string
		text, err := os.ReadFile(filepath.Join(world.Cluster.Dir, "f2.log"))
		if err != nil {
			t.Fatal(err)
		}
		again, _ := os.ReadFile(filepath.Join(world.Cluster.Dir, "f2.out")) // if it has been started again
		text = append(text, again...)
		for line := range strings.Lines(string(text)) {
			if strings.Contains(line, s.ID) && strings.Contains(line, "frank") && strings.Contains(line, s.Peer) {
				lines = append(lines, line)
			}
		}
		in := slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, "login") && strings.Contains(l, "mech") })
		out := slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, "logout") && strings.Contains(l, "dur") })
		return in && out
	})
}

// An operator sees which backend cannot be reached, from where, and why.
func TestBackendsOfOperators(t *testing.T) {
	a := at(t, "alice")
	state := func(server string) string {
		t.Helper()
		var list []admin.BackendStatus
		murderctl(t, "c1", &list, "backend", "status", server)
		i := slices.IndexFunc(list, func(s admin.BackendStatus) bool { return s.Node == "f1" && s.Service == "imap" })
		if i < 0 {
			t.Fatalf("%+v", list)
		}
		if list[i].State == "down" && (list[i].LastError == "" || list[i].RetryAt.IsZero()) {
			t.Errorf("%+v", list[i])
		}
		return list[i].State
	}
	a.ok("SELECT INBOX")
	a.ok(`STATUS "Shared Folders/shared" (MESSAGES)`)
	world.Be2.Kill()
	for range 4 {
		a.do("NO [UNAVAILABLE]...", `STATUS "Shared Folders/shared" (MESSAGES)`)
	}
	if one, two := state("be1.rig.test"), state("be2.rig.test"); one != "up" || two != "down" {
		t.Errorf("be1 is %s, be2 %s", one, two)
	}
	var list admin.BackendList
	murderctl(t, "c1", &list, "backend", "list")
	if b := list.Backends; len(b) != 2 || b[0].Mailboxes == 0 || b[1].Mailboxes == 0 || len(list.Missing) > 0 {
		t.Errorf("%+v", list)
	}
	if err := world.Be2.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is used again", func() bool {
		r, err := a.Conn.Do(`STATUS "Shared Folders/shared" (MESSAGES)`)
		return err == nil && r.Status == "OK"
	})
	if two := state("be2.rig.test"); two != "up" {
		t.Errorf("be2 is %s", two)
	}
}
