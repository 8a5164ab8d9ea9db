package imap

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"murder/internal/backend"
	"murder/internal/mbox"
)

// A server that has been heard is told who we are before it greets. When it will not have that it is asked
// in good order.
func TestEarlySignOn(t *testing.T) {
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
		{"gone without a word", "close", "alice", "OK ...", 1, 2},
		{"gone with a word", "bye", "alice", "OK ...", 1, 2},
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

// deaf is a socket to somebody who never answers a handshake.
type deaf struct{ net.Conn }

func (d deaf) Read(p []byte) (int, error) {
	n, err := d.Conn.Read(p)
	if n > 0 && p[0] == 22 {
		io.Copy(io.Discard, d.Conn)
		return 0, io.EOF
	}
	return n, err
}

// A server that has been heard and now stops in the middle of a handshake is not asked to do so once more.
func TestHandshakeStalls(t *testing.T) {
	o := rigOptions{stubs: func(b *stub) {
		b.greets += " STARTTLS"
		b.below = func(conn net.Conn) net.Conn { return deaf{conn} }
	}}
	inVirtualTime(t, o, func(t *testing.T, r *rig) {
		first := r.login("W", "alice")
		first.send("w STATUS INBOX (MESSAGES)")
		first.until("w")
		backends := r.srv.cfg.Backends.(*backend.Set)
		settings := backends.Settings("b1")
		settings.TLS = backend.StartTLS
		backends.Update(backend.Settings{}, map[mbox.Server]backend.Settings{"b1": settings})
		for range 2 {
			r.stubs["b1"].fail("STARTTLS", "TAG OK go on")
		}
		d := r.login("A", "alice")
		takes(t, 0, 10*time.Second, "the command", func() {
			d.send("x STATUS INBOX (MESSAGES)")
			d.expect("x NO [UNAVAILABLE]...")
		})
	})
}

// A search that finds every other message of a large mailbox is answered in one line.
func TestLongAnswer(t *testing.T) {
	r := newRig(t)
	found := "1" + strings.Repeat(",1000000003", 50_000)
	r.stubs["b1"].fail("NAMESPACE", `* X-NEWS `+found+`\nTAG OK done`)
	r.stubs["b1"].fail("UID_SEARCH", `* ESEARCH (TAG "x") UID ALL `+found+`\nTAG OK done`)
	d := r.login("A", "alice")
	d.send("w STATUS INBOX (MESSAGES)")
	d.expect("* STATUS ...")
	d.expect("w OK ...")
	d.send("a ESEARCH IN (inboxes) ALL")
	if got := d.until("a"); len(got) != 2 || !strings.HasSuffix(got[0], " UIDVALIDITY 1000) UID ALL "+found) {
		t.Errorf("%.200q", got)
	}
}

// Whoever says much about himself fills no log.
func TestLongIdentification(t *testing.T) {
	r := newRig(t)
	d := r.login("A", "alice")
	d.raw("a ID (" + strings.TrimSpace(strings.Repeat(`"name" "`+strings.Repeat("x", 1000)+`" `, 30)) + ")\r\n")
	d.until("a")
	eventually(t, "a line in the log", func() bool { return strings.Contains(r.log.String(), "client identification") })
	if log := r.log.String(); strings.Count(log, "x") > 2000 {
		t.Errorf("%d octets", len(log))
	}
}
