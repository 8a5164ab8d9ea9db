//go:build cyrus

package cyrus

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"murder/internal/mbox"
	"murder/test/seed"
)

// crowded are names that Cyrus's slave mixes up when it merges a dump, because it compares by octets what is sorted
// otherwise.
func crowded() (names []string) {
	for _, a := range []string{".", "-", " ", "^", "(", "0"} {
		names = append(names, "user.x.a"+a+"b")
		for _, b := range []string{".", "-", " "} {
			names = append(names, "user.x.a"+a+"b"+b+"c")
		}
	}
	return append(names, "user.x", "user.x.a", "user.x-a", "office", "office.x", "office-x")
}

// reshuffle makes the map of a server that is not there another part of the names, and returns it.
func (m *murder) reshuffle(t *testing.T, random *rand.Rand) (want []string) {
	t.Helper()
	s := m.session(t, m.nodes[0])
	defer s.Close()
	for _, name := range crowded() {
		command := []string{"DELETE", name}
		if random.IntN(3) > 0 {
			want = append(want, name)
			command = []string{"ACTIVATE", name, "elsewhere.rig.test!default", fmt.Sprintf("u%d\tlrs\t", random.IntN(9))}
		}
		if _, err := s.Do(command[0], command[1:]...); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(want)
	return want
}

// Frontends that were away while many names came and went have the right ones afterwards, in whatever order they get
// their rows: a wrong one in the configuration costs nothing but rows that are sent twice.
func TestFrontendsInAnyOrder(t *testing.T) {
	t.Parallel()
	orders := []mbox.Order{mbox.OrderDB, mbox.OrderOctet, mbox.OrderMboxsort}
	logins, flags := map[string]string{}, []string{}
	for i, o := range orders {
		logins[fmt.Sprint("fe", i+1)] = "in-" + o.String()
		flags = append(flags, "--mupdate-reader", "in-"+o.String()+":labpass", "--set", "mupdate.identities.in-"+o.String()+".order="+o.String())
	}
	m := newMurder(t, Options{Backends: 1, Frontends: len(orders), LoginOf: logins}, flags...)
	m.ours(t)
	random := seed.Rand(t)
	for range 4 {
		for i := range orders {
			if err := m.Node(fmt.Sprint("fe", i+1)).Stop(); err != nil {
				t.Fatal(err)
			}
		}
		want := m.reshuffle(t, random)
		if err := m.StartAll(); err != nil {
			t.Fatal(err)
		}
		for i, o := range orders {
			m.has(t, m.Node(fmt.Sprint("fe", i+1)), want, "rows in order "+o.String())
		}
	}
}

// has checks that the list of a node comes to have these names, and no others.
func (m *murder) has(t *testing.T, n *Node, want []string, what string) {
	t.Helper()
	eventually(t, func() error {
		names, err := n.names()
		if err != nil {
			return err
		}
		if slices.Sort(names); !slices.Equal(names, want) {
			return fmt.Errorf("%s (%s) has %q, want %q", n.Name, what, names, want)
		}
		return nil
	})
}

// A unified server that was away while names of other servers came and went: it gets all of them right, keeps its
// own, which are between them, and tells nobody that the others are its own.
func TestUnifiedServerAmongAwkwardNames(t *testing.T) {
	t.Parallel()
	m := newMurder(t, Options{Backends: 1, Unified: true, LoginOf: map[string]string{"be1": "unified1"}},
		"--set", "mupdate.identities.unified1.unified=true", "--mupdate-backend", "unified1:labpass=be1.rig.test",
		"--set", "mupdate.identities.unified1.order="+sorted(t).String())
	m.ours(t)
	be1 := m.Node("be1")
	admin := signOn(t, be1, m.Admin())
	own := slices.Clone(awkward)
	for _, name := range own {
		ok(t, admin, "CREATE %q", name)
	}
	random := seed.Rand(t)
	for range 4 {
		if err := be1.Stop(); err != nil {
			t.Fatal(err)
		}
		want := m.reshuffle(t, random)
		if err := be1.Start(); err != nil {
			t.Fatal(err)
		}
		m.has(t, be1, slices.Sorted(slices.Values(append(want, own...))), "unified")
		rows := m.rows(t, m.nodes[0], "")
		for _, name := range crowded() {
			if row := rows[name]; slices.Contains(want, name) != strings.HasPrefix(row.Location, "elsewhere.rig.test!") || row.Location != "" && !slices.Contains(want, name) {
				t.Errorf("%s: the map says %+v, and of those that are elsewhere there should be %q", name, row, want)
			}
		}
		u1 := signOn(t, be1, "u1")
		for _, name := range own {
			m.lives(t, name, be1)
			if folder, sub := strings.CutPrefix(name, "user.u1."); sub {
				ok(t, u1, "SELECT %q", "INBOX."+folder)
			}
		}
		u1.Close()
	}
}
