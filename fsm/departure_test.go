package fsm

import (
	"fmt"
	"testing"

	"murder/internal/mbox"
)

// Whose copy is a leftover, story by story. Server a holds the mailbox at first.
func TestLeftovers(t *testing.T) {
	const n = mbox.Name("user.u")
	const srvC = mbox.Server("c.example")
	move := []Command{
		MailboxWrite{Write: deactivate(n, "a.example!p", by("2", srvA))},
		MailboxWrite{Write: activate(n, "b.example!p", acl, by("3", srvB))},
	}
	claim := MailboxWrite{Write: activate(n, "b.example!p", acl, by("3", srvB))}
	for _, c := range []struct {
		what     string
		commands []Command
		left     []mbox.Server
	}{
		{"nothing has happened", nil, nil},
		{"a move is under way", move[:1], nil},
		{"moved", move, []mbox.Server{srvA}},
		{"moved, and deleted", append(move[:2:2], MailboxWrite{Write: remove(n, by("4", srvB))}), []mbox.Server{srvA}},
		{"moved there and back", append(move[:2:2], MailboxWrite{Write: deactivate(n, "b.example!p", by("4", srvB))},
			MailboxWrite{Write: activate(n, "a.example!p", acl, by("5", srvA))}), []mbox.Server{srvB}},
		{"moved on", append(move[:2:2], MailboxWrite{Write: deactivate(n, "b.example!p", by("4", srvB))},
			MailboxWrite{Write: activate(n, "c.example!p", acl, by("5", srvC))}), []mbox.Server{srvA, srvB}},
		{"the move is given up", append(move[:1:1], MailboxWrite{Write: activate(n, "a.example!p", acl, by("2", srvA))}), []mbox.Server{srvB, srvC}},
		{"given up, and moved at the second attempt", append(move[:1:1], MailboxWrite{Write: activate(n, "a.example!p", acl, by("2", srvA))}, move[0], move[1]),
			[]mbox.Server{srvA}},
		{"given up, and deleted", append(move[:1:1], MailboxWrite{Write: activate(n, "a.example!p", acl, by("2", srvA))},
			MailboxWrite{Write: remove(n, by("2", srvA))}), nil},
		{"claimed", []Command{claim}, nil},
		{"claimed, and an operator decides for the holder", []Command{claim, Resolve{What: RegisterConflicts, Name: n}}, []mbox.Server{srvB}},
		{"decided, and free since", []Command{claim, Resolve{What: RegisterConflicts, Name: n}, MailboxWrite{Write: remove(n, by("1", srvA))}, claim}, nil},
		{"taken over", []Command{MailboxWrite{Write: activate(n, "b.example!p", acl, by("3", srvB, mbox.Takeover))}}, []mbox.Server{srvA}},
		// Nobody who has the mailbox must lose it because a backup was brought back, or to permissive mode.
		{"a backup comes back", []Command{MailboxWrite{Write: activate(n, "b.example!p", acl, by("3", srvB, mbox.Takeover, mbox.Permissive))}}, nil},
		{"the last one wins", []Command{MailboxWrite{Write: activate(n, "b.example!p", acl, by("3", srvB, mbox.Permissive))}}, nil},
		{"deleted, and made elsewhere", []Command{MailboxWrite{Write: remove(n, by("1", srvA))}, claim}, nil},
	} {
		r := newRig(t)
		r.write(activate(n, "a.example!p", acl, by("1", srvA)))
		for _, command := range c.commands {
			r.do(command)
		}
		var left []mbox.Server
		for _, s := range []mbox.Server{srvA, srvB, srvC} {
			if e, ok := r.m.View().Get(n); r.m.View().Leftover(n, s) && !(ok && e.Location.Server() == s) {
				left = append(left, s)
			}
		}
		if fmt.Sprint(left) != fmt.Sprint(c.left) {
			t.Errorf("%s: leftovers of %v, want %v", c.what, left, c.left)
		}
		restored(t, r.m)
	}
}

// Departures are forgotten after some months of leadership, and before they are too many.
func TestDeparturesAge(t *testing.T) {
	r := newRig(t)
	for _, n := range []mbox.Name{"one", "two"} {
		r.write(activate(n, "a.example!p", acl, by("1", srvA)))
		r.write(activate(n, "b.example!p", acl, by("2", srvB, mbox.Takeover)))
		r.pass(departureTime / 2)
	}
	r.do(Tick{})
	if v := r.m.View(); v.Leftover("one", srvA) || !v.Leftover("two", srvA) {
		t.Error("one should be forgotten and two remembered")
	}
	restored(t, r.m)
	for i := range maxDepartures {
		r.m.setDeparture(Departure{Name: "x", Server: mbox.Server(fmt.Sprint(i)), Index: r.index})
	}
	r.do(Empty{})
	if got := r.m.departures.len(); got != maxDepartures || r.m.departureAge.Len() != maxDepartures {
		t.Errorf("%d departures, %d by age", got, r.m.departureAge.Len())
	}
	if r.m.View().Leftover("two", srvA) {
		t.Error("the oldest is still there")
	}
}
