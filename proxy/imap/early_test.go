package imap

import (
	"strings"
	"testing"
	"time"
)

// What happens to a command that was sent before the backend had let us in.
func TestEarly(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault string // of the sign-on
		user  string
		want  string
		times int // that the command is executed
		tries int // to sign on
	}{
		{"let in", "", "alice", "OK ...", 1, 1},
		{"refused once", "TAG NO [AUTHENTICATIONFAILED] not today", "alice", "OK ...", 1, 2},
		{"busy once", "TAG NO [UNAVAILABLE] busy", "alice", "OK ...", 1, 2},
		{"no such mechanism any more", "TAG BAD what is that", "alice", "OK ...", 1, 2},
		{"gone without a word", "close", "alice", "NO [UNAVAILABLE]...", 0, 1},
		{"gone with a word", "bye", "alice", "NO [UNAVAILABLE]...", 0, 1},
		{"silent", "hang", "alice", "NO [UNAVAILABLE]...", 0, 1},
		{"the user is not let in", "", "denied", "NO [AUTHORIZATIONFAILED]...", 0, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			inVirtualTime(t, rigOptions{}, func(t *testing.T, r *rig) {
				b2 := r.stubs["b2"]
				first := r.login("W", "alice")
				first.send(`w STATUS "Shared Folders/shared" (MESSAGES)`)
				first.until("w")
				b2.add("shared", "anyone\tlrswipk\t")
				b2.forget()
				if c.fault != "" {
					b2.fail("AUTHENTICATE", c.fault)
				}
				d := r.login("A", c.user)
				takes(t, 0, 10*time.Second, "the command", func() {
					d.send(`x CREATE "Shared Folders/shared/new"`)
					if got := d.until("x"); !likeness("x " + c.want).MatchString(got[0]) {
						t.Errorf("%q, want %q", got, c.want)
					}
				})
				b2.mu.Lock()
				tries := 0
				for _, seen := range b2.seen {
					if strings.HasPrefix(seen, ": AUTHENTICATE") {
						tries++
					}
				}
				_, made := b2.boxes["shared.new"]
				b2.mu.Unlock()
				if made != (c.times == 1) || tries != c.tries {
					t.Errorf("made: %v, %d tries to sign on, want %d", made, tries, c.tries)
				}
				d.send("y STATUS INBOX (MESSAGES)") // the session goes on
				d.until("y")
			})
		})
	}
}

// The sign-on, who the client is and the first command travel together, also when the first thing is a stream
// or a listing.
func TestEarlyThenAnything(t *testing.T) {
	for _, cmd := range []string{"SELECT INBOX", "APPEND INBOX {3+}\r\nabc", `LIST "" INBOX RETURN (STATUS (MESSAGES))`, "IDLE", "LOGOUT"} {
		r := newRig(t)
		r.login("W", "alice").send("w STATUS INBOX (MESSAGES)")
		r.users["W"].until("w")
		b1 := r.stubs["b1"]
		b1.forget()
		d := r.login("A", "alice")
		d.send("s SELECT INBOX")
		d.until("s")
		if !b1.saw(`alice: ID ("x-originating-ip"`) {
			t.Error("not introduced")
		}
		d.send("x " + cmd)
		if cmd == "IDLE" {
			d.expect("+ idling")
			d.send("DONE")
		}
		if got := d.until("x"); !strings.HasPrefix(got[len(got)-1], "x OK") {
			t.Errorf("%s: %q", cmd, got)
		}
	}
}
