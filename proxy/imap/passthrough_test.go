package imap

import (
	"slices"
	"strings"
	"testing"
	"time"

	"murder/internal/auth"
	"murder/internal/backend"
	"murder/internal/mbox"
)

// Passwords that only the backends know are checked at the user's own, and nothing tells a stranger who has
// a mailbox.
func TestPassThrough(t *testing.T) {
	for _, greets := range []string{"IMAP4rev1 LITERAL+ AUTH=PLAIN SASL-IR", "IMAP4rev1 AUTH=PLAIN", "IMAP4rev1 LITERAL+"} {
		t.Run(greets, func(t *testing.T) {
			source := &PassThrough{Namespace: mbox.Namespace{Alt: true}}
			inVirtualTime(t, rigOptions{config: []func(*Config){func(c *Config) {
				source.Directory = c.Directory
				c.Auth = auth.NewMechanisms(auth.Config{Source: source, Pause: 3 * time.Second})
			}}, stubs: func(b *stub) {
				b.passwords = map[mbox.Server]map[string]string{"b1": {"alice": `to"p`}, "b2": {"bob": "secret"}}[b.name]
			}}, func(t *testing.T, r *rig) {
				source.Backends = r.srv.cfg.Backends.(*backend.Set)
				d := r.open("A")
				d.expect("* OK ...")
				login := func(user, password, answer string) {
					t.Helper()
					for _, b := range r.stubs {
						b.change(func(b *stub) { b.greets = greets })
					}
					d.send("a LOGIN " + user + " " + quote(password))
					d.expect("a " + answer)
				}
				login("alice", "secret", "NO [AUTHENTICATIONFAILED] Authentication failed.")
				login("nobody", "secret", "NO [AUTHENTICATIONFAILED] Authentication failed.")
				r.dir.mu.Lock()
				r.dir.down = true
				r.dir.mu.Unlock()
				login("nobody", "secret", "NO [UNAVAILABLE] ...") // nobody can say whose password it is
				r.stubs["b1"].fail("AUTHENTICATE", "TAG NO [UNAVAILABLE] busy")
				r.stubs["b1"].fail("LOGIN", "TAG NO [UNAVAILABLE] busy")
				login("alice", `to"p`, "NO [UNAVAILABLE] ...")
				login("alice", `to"p`, "OK ...")
				if log := r.log.String(); strings.Contains(log, `to"p`) || strings.Contains(log, "our identity") {
					t.Error(log)
				}
				r.stubs["b2"].stop()
				other := r.open("B")
				other.expect("* OK ...")
				other.send("a LOGIN bob secret")
				other.expect("a NO [UNAVAILABLE] ...")
			})
		})
	}
}

// By the connection that has verified him a user also reads his mail: he logs in there once, as himself. The server knows
// where he comes from before it judges his password, and hears what his program says of itself later.
func TestPassThroughKeepsTheConnection(t *testing.T) {
	passThrough(t, auth.Config{}, func(t *testing.T, r *rig) {
		d := r.open("A")
		d.expect("* OK ...")
		b1 := r.stubs["b1"]
		d.send("a LOGIN alice wrong")
		d.expect("a NO [AUTHENTICATIONFAILED] ...")
		if got := b1.commands(); !strings.HasPrefix(got[0], `: ID ("x-originating-ip"`) || !strings.HasPrefix(got[1], ": AUTHENTICATE PLAIN") {
			t.Errorf("at a login that fails: %q", got)
		}
		b1.forget()
		d.send("b LOGIN alice secret")
		d.expect("b OK ...")
		d.send(`c ID ("name" "tester")`)
		d.until("c")
		d.send("d SELECT INBOX")
		if got := d.until("d"); !strings.HasPrefix(got[len(got)-1], "d OK") {
			t.Errorf("%q", got)
		}
		got := b1.commands()
		logins := 0
		for _, c := range got {
			if strings.Contains(c, "AUTHENTICATE") {
				logins++
			}
		}
		if !b1.saw(`alice: ID`) || !b1.saw(`"name" "tester"`) || logins != 1 {
			t.Errorf("%q", got)
		}
		// It may be gone before it is used.
		other := r.open("B")
		other.expect("* OK ...")
		other.send("a LOGIN alice secret")
		other.expect("a OK ...")
		b1.stop()
		b1.start()
		other.send("b STATUS INBOX (MESSAGES)")
		if got := other.until("b"); len(got) != 2 {
			t.Errorf("%q", got)
		}
	})
}

// Who logs in to act for another is not given the connection of the one who has the password.
func TestPassThroughForAnother(t *testing.T) {
	passThrough(t, auth.Config{Proxies: []string{"bob"}}, func(t *testing.T, r *rig) {
		d := r.open("A")
		d.expect("* OK ...")
		d.send("a AUTHENTICATE PLAIN " + encodeIR([]byte("alice\x00bob\x00secret")))
		d.expect("a OK ...")
		d.send("b SELECT INBOX")
		d.until("b")
		if got := r.stubs["b2"].commands(); slices.ContainsFunc(got, func(c string) bool { return strings.HasPrefix(c, "bob: ") }) {
			t.Errorf("done as bob: %q", got)
		}
		if !r.stubs["b1"].saw("alice: SELECT") {
			t.Errorf("%q", r.stubs["b1"].commands())
		}
		eventually(t, "the connection of bob is closed", func() bool {
			b := r.stubs["b2"]
			b.mu.Lock()
			defer b.mu.Unlock()
			return len(b.conns) == 0
		})
	})
}

// passThrough is a rig whose backends alone know the passwords: alice's at b1, bob's at b2.
func passThrough(t *testing.T, cfg auth.Config, play func(t *testing.T, r *rig)) {
	source := &PassThrough{Namespace: mbox.Namespace{Alt: true}}
	cfg.Source, cfg.Pause = source, -1
	inVirtualTime(t, rigOptions{config: []func(*Config){func(c *Config) {
		source.Directory = c.Directory
		c.Auth = auth.NewMechanisms(cfg)
	}}, stubs: func(b *stub) {
		b.passwords = map[mbox.Server]map[string]string{"b1": {"alice": "secret"}, "b2": {"bob": "secret"}}[b.name]
	}}, func(t *testing.T, r *rig) {
		source.Backends = r.srv.cfg.Backends.(*backend.Set)
		play(t, r)
	})
}

// What a server offered when it was last heard may not hold any more. The password of a user is tried all the same, and a
// wrong one no more than once.
func TestPassThroughAtChangedServer(t *testing.T) {
	const before = "IMAP4rev1 LITERAL+ ID AUTH=PLAIN SASL-IR"
	for _, c := range []struct {
		name, greets, fault, password, answer string
		tries                                 int
	}{
		{"right", before, "", "secret", "OK ...", 1},
		{"wrong", before, "", "guess", "NO [AUTHENTICATIONFAILED] ...", 1},
		{"wrong, and it hangs up", before, "close", "guess", "NO [UNAVAILABLE] ...", 1},
		{"its answer makes no sense", before, "TAG BAD what?", "guess", "NO [UNAVAILABLE] ...", 1},
		{"wrong, and it offers more", before + " AUTH=GSSAPI X-NEW", "", "guess", "NO [AUTHENTICATIONFAILED] ...", 1},
		{"no initial response any more", "IMAP4rev1 ID AUTH=PLAIN", "TAG BAD what?", "secret", "OK ...", 2},
		{"no such mechanism any more", "IMAP4rev1 ID AUTH=GSSAPI SASL-IR", "TAG NO no mechanism available", "secret", "OK ...", 1},
		{"neither, and wrong", "IMAP4rev1 ID", "TAG NO no mechanism available", "guess", "NO [AUTHENTICATIONFAILED] ...", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			passThrough(t, auth.Config{}, func(t *testing.T, r *rig) {
				b1 := r.stubs["b1"]
				first := r.open("W")
				first.expect("* OK ...")
				first.send("w LOGIN alice secret")
				first.expect("w OK ...")
				b1.change(func(b *stub) { b.greets = c.greets })
				b1.forget()
				if c.fault != "" {
					b1.fail("AUTHENTICATE", c.fault)
				}
				d := r.open("A")
				d.expect("* OK ...")
				d.send("a LOGIN alice " + c.password)
				d.expect("a " + c.answer)
				if n := times(b1.commands(), ": AUTHENTICATE"); n != c.tries {
					t.Errorf("tried %d times, want %d: %q", n, c.tries, b1.commands())
				}
			})
		})
	}
}

// times counts the commands that begin like that.
func times(commands []string, begin string) (n int) {
	for _, c := range commands {
		if strings.HasPrefix(c, begin) {
			n++
		}
	}
	return n
}

// A server may say after the login only that it can be told who the client is.
func TestIdentificationOfferedLate(t *testing.T) {
	passThrough(t, auth.Config{}, func(t *testing.T, r *rig) {
		for _, b := range r.stubs {
			b.change(func(b *stub) { b.greets = "IMAP4rev1 LITERAL+ AUTH=PLAIN SASL-IR" })
		}
		d := r.open("A")
		d.expect("* OK ...")
		d.send("a LOGIN alice secret")
		d.expect("a OK ...")
		d.send("b STATUS INBOX (MESSAGES)")
		d.until("b")
		d.send("c STATUS INBOX (MESSAGES)")
		d.until("c")
		if got := r.stubs["b1"].commands(); times(got, `alice: ID ("x-originating-ip"`) != 1 || times(got, "alice: STATUS") != 2 {
			t.Errorf("%q", got)
		}
	})
}

// Proxies that take one another for backends do not go on asking for ever.
func TestPassThroughInACircle(t *testing.T) {
	passThrough(t, auth.Config{}, func(t *testing.T, r *rig) {
		d := r.open("A")
		d.expect("* OK ...")
		d.send(`i ID ("x-proxy-ttl" "1")`)
		d.until("i")
		d.send("a LOGIN alice secret")
		d.expect("a NO [UNAVAILABLE] ...")
		if got := r.stubs["b1"].commands(); times(got, ": AUTHENTICATE") != 0 {
			t.Errorf("%q", got)
		}
	})
}

// What a program says of itself late goes ahead of a command, but of none that may name messages by their numbers: the
// server takes the occasion to tell which are gone, and the numbers would mean others.
func TestIdentificationWithMailbox(t *testing.T) {
	inVirtualTime(t, rigOptions{}, func(t *testing.T, r *rig) {
		b1 := r.stubs["b1"]
		b1.add("user.alice", "alice\tlrswipkxtecda\t", "one", "two", "three")
		d := r.login("A", "alice")
		d.send("a SELECT INBOX")
		d.until("a")
		b1.forget()
		b1.fail("ID", "lose")
		d.send(`b ID ("name" "tester")`)
		told := d.until("b")
		d.send("c FETCH 2 (UID)")
		fetched := d.until("c")
		if !slices.Contains(told, "* 2 EXPUNGE") || slices.Contains(fetched, "* 2 EXPUNGE") {
			t.Errorf("told %q, then %q", told, fetched)
		}
		if got := b1.commands(); times(got, "alice: ID") != 1 || !b1.saw(`"name" "tester"`) {
			t.Errorf("%q", got)
		}
	})
}

// The connection lasts as long as the session is its user's, and no longer; nobody else ever has it.
func TestPassThroughLeavesNothing(t *testing.T) {
	passThrough(t, auth.Config{Proxies: []string{"bob"}}, func(t *testing.T, r *rig) {
		open := func(want int) {
			t.Helper()
			eventually(t, "connections to backends", func() bool {
				n := 0
				for _, b := range r.stubs {
					b.mu.Lock()
					n += len(b.conns)
					b.mu.Unlock()
				}
				return n == want
			})
		}
		d := r.open("A")
		d.expect("* OK ...")
		d.send("a LOGIN alice secret")
		d.expect("a OK ...")
		open(1)
		d.send("b SELECT INBOX")
		d.until("b")
		open(1)
		d.send("c UNAUTHENTICATE")
		d.until("c")
		open(0)
		d.send("d AUTHENTICATE PLAIN")
		d.expect("+ ")
		d.send("*")
		d.expect("d BAD ...")
		d.send("e AUTHENTICATE PLAIN " + encodeIR([]byte("bob\x00alice\x00secret")))
		d.expect("e NO ...") // alice may not
		d.send("f AUTHENTICATE PLAIN " + encodeIR([]byte("nobody\x00bob\x00secret")))
		d.expect("f OK ...")
		open(0)
		d.send("g UNAUTHENTICATE")
		d.until("g")
		d.send("h LOGIN bob secret")
		d.expect("h OK ...")
		open(1)
		d.conn.Close()
		open(0)
	})
}
