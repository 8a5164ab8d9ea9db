//go:build cyrus

package cyrus

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	operator "murder/cluster/admin"
	"murder/test/dialogue"
	"murder/test/imapline"
)

// moment is one MUPDATE command of an operation, the nth of those that the backends send for it: the leader is
// killed when it arrives.
type moment struct {
	*murder
	through bool // the way of the backends leads through the leader, else through another coordinator
	be1     *Node
	be2     *Node
	admin   *imapline.Conn
}

// operation is done anew for each of its commands, on mailboxes of its own. It says which names may be there
// when it is over, on whichever backend: all of one of the sets.
type operation struct {
	verb    string
	prepare []string // commands on be1, with $i for a number
	do      func(t *testing.T, m *moment, i int)
	sets    [][]string
}

func command(text string) func(*testing.T, *moment, int) {
	return func(t *testing.T, m *moment, i int) {
		_, m.admin = ask(t, m.be1, m.admin, "%s", numbered(text, i)) // a refusal is no error
	}
}

// renameUser renames a user. Where MUPDATE fails when the inbox has its new name already, Cyrus 3.12 forgets the inbox
// (imapd.c, cmd_rename: "temporary uniqueid tombstone"), whoever its MUPDATE server is, though it keeps all that is in
// it: its operator must reconstruct it.
func renameUser(t *testing.T, m *moment, i int) {
	before, after := numbered("user.w$i", i), numbered("user.v$i", i)
	path, err := m.be1.Exec("mbpath", before)
	if err != nil {
		t.Fatal(err)
	}
	command("RENAME "+before+" "+after)(t, m, i)
	if !atLeast(t, 3, 12) {
		return
	}
	names, err := m.be1.names()
	if err != nil {
		t.Fatal(err)
	}
	if slices.Contains(names, after) {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	line, err := m.be1.WaitLog(ctx, "rename failed: oldmboxname=<"+before)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(line, "<"+before+".>") { // the folders' turn, after the inbox
		return
	}
	out, err := m.be1.Exec("reconstruct", "-P", strings.TrimSpace(path))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("be1 has forgotten %s, reconstructed: %s", after, out)
}

func numbered(text string, i int) string { return strings.ReplaceAll(text, "$i", fmt.Sprint(i)) }

var operations = []operation{
	{"CREATE", []string{"CREATE user.c$i"}, command("CREATE user.c$i.new"), [][]string{{"user.c$i"}, {"user.c$i", "user.c$i.new"}}},
	{"DELETE", []string{"CREATE user.d$i", "CREATE user.d$i.old", "SETACL user.d$i.old cyrus lrswipkxtecda"}, command("DELETE user.d$i.old"),
		[][]string{{"user.d$i"}, {"user.d$i", "user.d$i.old"}}},
	{"RENAME of a folder", []string{"CREATE user.r$i", "CREATE user.r$i.old"}, command("RENAME user.r$i.old user.r$i.new"),
		[][]string{{"user.r$i", "user.r$i.old"}, {"user.r$i", "user.r$i.new"}}},
	{"RENAME of a user", []string{"CREATE user.w$i", "CREATE user.w$i.sub"}, renameUser,
		[][]string{{"user.w$i", "user.w$i.sub"}, {"user.v$i", "user.v$i.sub"}, {"user.w$i", "user.v$i.sub"}, {"user.v$i", "user.w$i.sub"}}},
	{"SETACL", []string{"CREATE user.s$i"}, command("SETACL user.s$i u9 lrs"), [][]string{{"user.s$i"}}},
	{"XFER", []string{"CREATE user.x$i", "CREATE user.x$i.sub"}, func(t *testing.T, m *moment, i int) {
		command("XFER user.x$i "+m.be2.Server)(t, m, i)
	}, [][]string{{"user.x$i", "user.x$i.sub"}}},
	{"ctl_mboxlist -m", []string{"CREATE user.m$i", "CREATE user.m$i.sub"}, func(_ *testing.T, m *moment, i int) {
		m.be1.Exec("ctl_mboxlist", "-m") // it may fail: a backend that starts does it again
	}, [][]string{{"user.m$i", "user.m$i.sub"}}},
}

// spoil makes work for ctl_mboxlist -m: a mailbox that the map has not, one that the backend has not, and an old ACL.
func (m *moment) spoil(t *testing.T, i int) {
	t.Helper()
	s := m.session(t, m.nodes[len(m.nodes)-1])
	defer s.Close()
	for _, c := range [][]string{
		{"DELETE", numbered("user.m$i.sub", i)},
		{"ACTIVATE", numbered("user.m$i", i), m.be1.Server + "!default", "nobody\tl\t"},
		{"ACTIVATE", numbered("user.m$i.ghost", i), m.be1.Server + "!default", "nobody\tl\t"},
	} {
		if _, err := s.Do(c[0], c[1:]...); err != nil {
			t.Fatal(err)
		}
	}
}

// The leader is killed at every single command that a backend sends, of every operation. Whatever the backend makes
// of it, after its next push it is at peace with the map, and no mailbox is lost.
func TestLeaderKilledAtEveryCommandThroughIt(t *testing.T)      { leaderKilledAtEveryCommand(t, true) }
func TestLeaderKilledAtEveryCommandThroughAnother(t *testing.T) { leaderKilledAtEveryCommand(t, false) }

func leaderKilledAtEveryCommand(t *testing.T, through bool) {
	t.Parallel()
	m := &moment{murder: newRelayed(t, Options{}), through: through}
	m.be1, m.be2 = m.Node("be1"), m.Node("be2")
	m.admin = signOn(t, m.be1, m.Admin())
	for _, op := range operations {
		t.Run(op.verb, func(t *testing.T) {
			for n := 1; ; n++ {
				if !m.at(t, op, n) {
					if n == 1 {
						t.Error("it sends nothing")
					}
					t.Logf("%d commands", n-1)
					return
				}
			}
		})
	}
}

// at does an operation and kills the leader at its nth command. It reports false if there are not so many.
func (m *moment) at(t *testing.T, op operation, n int) (reached bool) {
	t.Helper()
	for _, c := range op.prepare {
		ok(t, m.admin, "%s", numbered(c, n))
	}
	if op.verb == "ctl_mboxlist -m" {
		m.spoil(t, n)
	}
	leader, restore := m.killAt(t, n)
	begun := time.Now()
	op.do(t, m, n)
	took := time.Since(begun)
	if reached = restore(); reached {
		t.Logf("%s, command %d: %s was killed, %s", op.verb, n, leader, took.Round(time.Millisecond))
	}
	m.push(t, m.be1)
	if op.verb == "XFER" {
		// What one has, the other may have to forget, and where both may have it an operator decides.
		m.push(t, m.be2)
		if m.decide(t, op, n) {
			m.push(t, m.be1)
			m.push(t, m.be2)
		}
		m.push(t, m.be2) // Cyrus: what is wiped is a deleted mailbox, which the next push tells
	}
	inStep(t, m.be1)
	inStep(t, m.be2)
	m.whole(t, op, n)
	return reached
}

// decide is the operator's part when a move has broken off: doctor names what is in doubt. Where the source has
// dropped its mailbox already, or has been overtaken, it is at the destination.
func (m *moment) decide(t *testing.T, op operation, n int) (some bool) {
	t.Helper()
	for name, row := range m.rows(t, m.nodes[0], "") {
		if !op.concerns(name, n) {
			continue
		}
		server, _, _ := strings.Cut(row.Location, "!")
		if row.Kind == "RESERVE" {
			m.doctor(t, name, "transfer")
			server = m.be2.Server
		} else if !m.contested(t, name) {
			continue
		}
		some = true
		t.Logf("%s, command %d: an operator has to decide on %s, and says %s", op.verb, n, name, server)
		m.repair(t, "resolve", name, "--holder", server, "--force") // the destination may be new to the map
	}
	return some
}

func (m *moment) contested(t *testing.T, name string) bool {
	t.Helper()
	var all []operator.Conflict
	if err := m.ctl(&all, "mailbox", "conflicts"); err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(all, func(c operator.Conflict) bool { return c.Name == name })
}

// whole checks that the mailboxes of an operation are all there, on a backend and in the map.
func (m *moment) whole(t *testing.T, op operation, n int) {
	t.Helper()
	var have []string
	rows := m.rows(t, m.nodes[0], "")
	for name, row := range rows {
		if op.concerns(name, n) {
			have = append(have, name)
			if row.Kind != "MAILBOX" {
				t.Errorf("%s, command %d: %+v", op.verb, n, row)
			}
		}
	}
	slices.Sort(have)
	if !slices.ContainsFunc(op.sets, func(set []string) bool {
		var want []string
		for _, name := range set {
			want = append(want, numbered(name, n))
		}
		slices.Sort(want)
		return slices.Equal(have, want)
	}) {
		t.Errorf("%s, command %d: the map has %q", op.verb, n, have)
	}
	held := map[string]string{}
	for _, be := range []*Node{m.be1, m.be2} {
		c := signOn(t, be, m.Admin())
		names, err := c.List("user.*")
		c.Close()
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if !op.concerns(name, n) {
				continue
			}
			if held[name] != "" {
				t.Errorf("%s, command %d: %s is on both backends", op.verb, n, name)
			}
			held[name] = be.Server
		}
	}
	for _, name := range have {
		if at, _, _ := strings.Cut(rows[name].Location, "!"); held[name] != at {
			t.Errorf("%s, command %d: %s is on %q, the map says %+v", op.verb, n, name, held[name], rows[name])
		}
	}
	if len(held) != len(have) {
		t.Errorf("%s, command %d: the backends have %v, the map %q", op.verb, n, held, have)
	}
}

// concerns reports whether a name is one of the operation's nth time.
func (op *operation) concerns(name string, n int) bool {
	for _, set := range op.sets {
		for _, s := range set {
			user, _, _ := strings.Cut(strings.TrimPrefix(numbered(s, n), "user."), ".")
			if name == "user."+user || strings.HasPrefix(name, "user."+user+".") {
				return true
			}
		}
	}
	return false
}

// killAt makes the leader die at the nth command that the backends send from now on. restore starts it again and
// reports whether there was one.
func (m *moment) killAt(t *testing.T, n int) (leader string, restore func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	leader, err := m.cluster.Leader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	others := slices.DeleteFunc(m.cluster.Coordinators(), func(id string) bool { return id == leader })
	lead := func(id string) {
		for _, r := range m.relays {
			r.Lead(m.cluster.Addr(id, "mupdate"))
		}
	}
	if lead(others[0]); m.through {
		lead(leader)
	}
	var mu sync.Mutex
	seen, killed := 0, error(nil)
	fate := func(l dialogue.Line) dialogue.Fate {
		if !l.Client || !isCommand(l.Text) {
			return dialogue.Pass
		}
		mu.Lock()
		defer mu.Unlock()
		if seen++; seen == n {
			lead(others[0]) // as a backend does that knows all addresses
			killed = m.cluster.Kill(leader)
		}
		return dialogue.Pass
	}
	for _, r := range m.relays {
		r.Decide(fate)
	}
	return leader, func() bool {
		t.Helper()
		for _, r := range m.relays {
			r.Decide(nil)
		}
		mu.Lock()
		defer mu.Unlock()
		if killed != nil {
			t.Fatal(killed)
		}
		if seen < n {
			return false
		}
		if err := m.cluster.Start(leader); err != nil {
			t.Fatal(err)
		}
		return true
	}
}

// isCommand tells commands from the arguments that follow them as literals, the sign-on and LOGOUT.
func isCommand(line string) bool {
	f := strings.Fields(line)
	return len(f) > 1 && f[0][0] == 'X' && slices.Contains([]string{"RESERVE", "ACTIVATE", "DEACTIVATE", "DELETE", "FIND", "LIST"}, f[1])
}
