package mupdate

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"murder/internal/mbox"
)

// A session that vanishes between the answer to a write and anything else is reported with that write,
// because the backend may never have seen the answer; LOGOUT or a next command settles it.
func TestUnconfirmedWrite(t *testing.T) {
	dir := newMemory()
	s := startServer(t, testConfig(t, dir))
	for i, c := range []struct {
		end  func(*Client)
		want mbox.Name
	}{
		{func(c *Client) { c.Close() }, "n"},
		{func(c *Client) { c.Logout(t.Context()) }, ""},
		{func(c *Client) { c.Noop(t.Context()); c.Close() }, ""},
		{func(c *Client) { c.Activate(t.Context(), "m", "b.example!p", ""); c.Close() }, ""},
	} {
		client := dialClient(t, s, "be-a")
		if err := client.Activate(t.Context(), "n", "a.example!p", ""); err != nil {
			t.Fatal(err)
		}
		written := dir.View().Index()
		c.end(client)
		if _, _, err := dir.Changes(t.Context(), written); err != nil { // the end of the session
			t.Fatal(err)
		}
		dir.mu.Lock()
		if got := dir.unconfirmed; len(got) != i+1 || got[i] != c.want {
			t.Errorf("%d: got %q, want %q last", i, got, c.want)
		}
		dir.mu.Unlock()
	}
}

// The outcome of a write is unknown, and the end of its session cannot be recorded either. It is recorded
// when there is a quorum again: nothing else would tell that the backend has undone its part.
func TestEndOfSessionIsRecordedLater(t *testing.T) {
	dir := newMemory()
	s := startServer(t, testConfig(t, dir))
	c := dialClient(t, s, "be-a")
	if err := c.Reserve(t.Context(), "n", "a.example!p"); err != nil {
		t.Fatal(err)
	}
	set := func(err error) {
		dir.mu.Lock()
		defer dir.mu.Unlock()
		dir.writeErr = err
	}
	set(mbox.ErrUnknownOutcome)
	before := dir.View().Index()
	if err := c.Activate(t.Context(), "n", "a.example!p", ""); err == nil || errors.As(err, new(*ResponseError)) {
		t.Fatalf("an unknown outcome is answered with %v", err)
	}
	set(nil)
	if _, _, err := dir.Changes(t.Context(), before); err != nil {
		t.Fatal(err)
	}
	dir.mu.Lock()
	defer dir.mu.Unlock()
	if got := dir.unconfirmed; len(got) != 1 || got[0] != "n" {
		t.Errorf("recorded %q", got)
	}
}

// What the end of a session says about a DELETE: the whole of it, or the first part of a rename.
func TestHowASessionEnds(t *testing.T) {
	lost := func(dir *memory, err error) {
		dir.mu.Lock()
		defer dir.mu.Unlock()
		dir.writeErr = err
	}
	for what, c := range map[string]struct {
		end  func(*Client, *memory)
		want []mbox.SessionFlags
	}{
		"LOGOUT":                    {func(c *Client, _ *memory) { c.Logout(t.Context()) }, []mbox.SessionFlags{mbox.LoggedOut}},
		"no LOGOUT":                 {func(c *Client, _ *memory) { c.Close() }, []mbox.SessionFlags{0}},
		"a RESERVE that is refused": {func(c *Client, _ *memory) { c.Reserve(t.Context(), "taken", "a.example!p"); c.Logout(t.Context()) }, []mbox.SessionFlags{0}},
		"one for another server":    {func(c *Client, _ *memory) { c.Reserve(t.Context(), "n2", "b.example!p"); c.Logout(t.Context()) }, []mbox.SessionFlags{mbox.RenameRefused, 0}},
		"a RESERVE without a quorum": {func(c *Client, dir *memory) {
			lost(dir, mbox.ErrUnavailable)
			c.Reserve(t.Context(), "n2", "a.example!p")
			lost(dir, nil)
			c.Logout(t.Context())
		}, []mbox.SessionFlags{mbox.RenameRefused, 0}},
		"an ACTIVATE without a quorum": {func(c *Client, dir *memory) {
			c.Reserve(t.Context(), "n2", "a.example!p")
			lost(dir, mbox.ErrUnavailable)
			c.Activate(t.Context(), "n2", "a.example!p", "")
			lost(dir, nil)
			c.Logout(t.Context())
		}, []mbox.SessionFlags{0}},
		"another DELETE": {func(c *Client, _ *memory) {
			c.Reserve(t.Context(), "taken", "a.example!p")
			c.Delete(t.Context(), "m")
			c.Logout(t.Context())
		}, []mbox.SessionFlags{mbox.LoggedOut}},
	} {
		t.Run(what, func(t *testing.T) {
			dir := newMemory()
			for n, at := range map[mbox.Name]mbox.Location{"n": "a.example!p", "m": "a.example!p", "taken": "b.example!p"} {
				dir.have(mbox.Entry{Name: n, State: mbox.Active, Location: at})
			}
			s := startServer(t, testConfig(t, dir))
			client := dialClient(t, s, "be-a")
			if err := client.Delete(t.Context(), "n"); err != nil {
				t.Fatal(err)
			}
			c.end(client, dir)
			for {
				dir.mu.Lock()
				got, moved := slices.Clone(dir.ends), dir.moved
				dir.mu.Unlock()
				if len(got) == len(c.want) {
					if !slices.Equal(got, c.want) {
						t.Errorf("got %v, want %v", got, c.want)
					}
					return
				}
				select {
				case <-moved:
				case <-time.After(patience):
					t.Fatalf("got %v, want %v", got, c.want)
				}
			}
		})
	}
}

// A rename that was refused without a quorum, and tried again as a DELETE for good, is not taken back.
func TestDeletedForGood(t *testing.T) {
	var e ending
	e.made(&mbox.Write{Kind: mbox.Delete, Name: "n"})
	if e.refuse(mbox.Reserve); e.half != "n" {
		t.Fatalf("half done: %q", e.half)
	}
	e.made(&mbox.Write{Kind: mbox.Delete, Name: "m"})
	if e.half != "n" {
		t.Error("another DELETE settles it")
	}
	if e.made(&mbox.Write{Kind: mbox.Delete, Name: "n"}); e.half != "" {
		t.Error("it would come back")
	}
}

// What sessions left to say is said one session at a time: each that is recorded is so for good, however slow the
// next one is.
func TestEndsOneAtATime(t *testing.T) {
	dir := newMemory()
	s := startServer(t, testConfig(t, dir))
	var clients []*Client
	for i := range 3 {
		clients = append(clients, dialClient(t, s, "be-a"))
		if err := clients[i].Activate(t.Context(), mbox.Name(fmt.Sprint("n", i)), "a.example!p", ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := clients[0].Delete(t.Context(), "n0"); err != nil {
		t.Fatal(err)
	}
	set := func(err error, gate chan struct{}) {
		dir.mu.Lock()
		defer dir.mu.Unlock()
		dir.writeErr, dir.gate, dir.batches = err, gate, nil
	}
	set(mbox.ErrUnavailable, nil)
	clients[0].Reserve(t.Context(), "elsewhere", "a.example!p") // half a rename
	for i, c := range clients {
		c.Close()
		for waits := 0; waits < i+2; { // in this order
			s.ends.mu.Lock()
			waits = len(s.ends.waiting)
			s.ends.mu.Unlock()
			select {
			case <-time.After(time.Millisecond):
			case <-t.Context().Done():
				t.Fatal("the end of a session is forgotten")
			}
		}
	}
	gate := make(chan struct{})
	set(nil, gate)
	for i, want := range [][]int{{2}, {2, 1}, {2, 1, 1}} {
		dir.mu.Lock()
		moved := dir.moved
		dir.mu.Unlock()
		gate <- struct{}{} // one Write goes on
		<-moved
		dir.mu.Lock()
		if !slices.Equal(dir.batches, want) {
			t.Errorf("after %d: written %v, want %v", i+1, dir.batches, want)
		}
		dir.mu.Unlock()
	}
	dir.mu.Lock()
	defer dir.mu.Unlock()
	if len(dir.ended) != 3 || !slices.Equal(dir.ends, []mbox.SessionFlags{mbox.RenameRefused, 0, 0, 0}) {
		t.Errorf("said %v of %d sessions", dir.ends, len(dir.ended))
	}
}
