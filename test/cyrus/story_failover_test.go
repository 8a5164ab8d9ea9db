//go:build cyrus

package cyrus

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"murder/test/imapline"
)

// The leader is killed while a backend makes mailboxes. What the backend said OK to is in the map;
// what it refused is neither there nor on the backend; and the backend goes on by itself.
func TestLeaderKilledDuringCreates(t *testing.T) {
	t.Parallel()
	m := newMurder(t, Options{})
	c := m.ours(t)
	be1 := m.Node("be1")
	admin := signOn(t, be1, m.Admin())
	ok(t, admin, "CREATE user.u1")

	var made []string
	var gap time.Duration
	last := time.Now()
	create := func(i int) bool {
		name := fmt.Sprintf("user.u1.f%03d", i)
		var r imapline.Reply
		if r, admin = ask(t, be1, admin, "CREATE %s", name); r.Status == "OK" {
			made = append(made, name)
			gap = max(gap, time.Since(last))
			last = time.Now()
		}
		return r.Status == "OK"
	}
	i := 0
	for ; i < 20; i++ {
		if !create(i) {
			t.Fatalf("CREATE %d was refused before anything happened", i)
		}
	}
	leader, err := c.Leader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	killed := make(chan error, 1)
	go func() { killed <- c.Kill(leader) }()
	refusals := 0
	for end, after := time.Now().Add(60*time.Second), 0; after < 40; i++ {
		if time.Now().After(end) {
			t.Fatalf("only %d mailboxes were made in a minute after the leader's death, %d refused", after, refusals)
		}
		if create(i) {
			after++
		} else {
			refusals++
		}
	}
	if err := <-killed; err != nil {
		t.Fatal(err)
	}
	t.Logf("%s killed: %d mailboxes made, %d refused, longest time without one %s", leader, len(made), refusals, gap.Round(time.Millisecond))

	m.nodes = slices.DeleteFunc(m.nodes, func(addr string) bool { return addr == c.Addr(leader, "mupdate") })
	for _, addr := range m.nodes {
		rows := m.rows(t, addr, "")
		for _, name := range made {
			if row := rows[name]; row.Kind != "MAILBOX" || !strings.HasPrefix(row.Location, be1.Server+"!") {
				t.Errorf("%s: %s was acknowledged and is %+v", addr, name, row)
			}
		}
	}
	held, err := admin.List("user.u1.*")
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(held)
	if !slices.Equal(held, made) {
		t.Errorf("be1 holds %d mailboxes and said OK to %d: %q\n%q", len(held), len(made), held, made)
	}

	if err := c.Start(leader); err != nil {
		t.Fatal(err)
	}
	m.nodes = append(m.nodes, c.Addr(leader, "mupdate"))
	// A refused CREATE may have got as far as a reservation, or to the answer that was lost; the push
	// clears both.
	m.push(t, be1)
	for _, name := range made {
		m.lives(t, name, be1)
	}
	rows := m.rows(t, m.nodes[0], "")
	if len(rows) != len(made)+1 {
		t.Errorf("the map has %d records, want %d", len(rows), len(made)+1)
	}
}

// Without a majority a backend's CREATE is refused, soon, and leaves nothing; users read on.
func TestNoMajority(t *testing.T) {
	t.Parallel()
	m := newMurder(t, Options{})
	c := m.ours(t)
	be1 := m.Node("be1")
	admin := signOn(t, be1, m.Admin())
	ok(t, admin, "CREATE user.u1")
	u1 := m.login(t, "u1")
	ok(t, u1, "SELECT INBOX")
	for _, id := range []string{"c2", "c3"} {
		if err := c.Kill(id); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	refusedCreate(t, be1, "user.u1.none")
	if d := time.Since(began); d > 25*time.Second {
		t.Errorf("the refusal took %s", d)
	}
	if names, err := admin.List("user.u1.*"); err != nil || len(names) != 0 {
		t.Errorf("be1 keeps %q (%v)", names, err)
	}
	ok(t, m.login(t, "u1"), "SELECT INBOX")
	if err := c.StartAll([]string{"c2", "c3"}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := c.Leader(ctx); err != nil {
		t.Fatal(err)
	}
	insist(t, be1, admin, "CREATE user.u1.some")
	m.lives(t, "user.u1.some", be1)
	m.push(t, be1)
}
