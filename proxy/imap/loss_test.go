package imap

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"murder/internal/mbox"
)

// Who has come before the backends went, and who comes afterwards, is greeted, logged in, shown the mailboxes that there
// are, and let go, all at once.
func TestNobodyIsNeeded(t *testing.T) {
	inVirtualTime(t, rigOptions{}, func(t *testing.T, r *rig) {
		early := r.login("A", "alice")
		for _, box := range []string{"INBOX", `"Shared Folders/shared"`} {
			early.send("s STATUS " + box + " (MESSAGES)")
			early.until("s")
		}
		lists := func(d *dialogue) (lines []string) {
			for _, pattern := range []string{"*", "%", "Other Users/%"} {
				takes(t, atOnce, atOnce, "LIST "+pattern, func() {
					d.send(`l LIST "" "` + pattern + `"`)
					lines = append(lines, d.until("l")...)
				})
			}
			return lines
		}
		before := lists(early)
		for _, b := range r.stubs {
			b.stop()
		}
		var late *dialogue
		takes(t, atOnce, atOnce, "login", func() { late = r.login("B", "alice") })
		for _, d := range []*dialogue{early, late} {
			if now := lists(d); !slices.Equal(now, before) {
				t.Errorf("%q, and before %q", now, before)
			}
			takes(t, atOnce, atOnce, "LOGOUT", func() {
				d.send("z LOGOUT")
				d.expect("* BYE ...")
				d.expect("z OK ...")
				d.end()
			})
		}
	})
}

// A backend that hangs is not waited for by who logs out.
func TestLogoutWaitsForNobody(t *testing.T) {
	inVirtualTime(t, rigOptions{}, func(t *testing.T, r *rig) {
		d := r.login("A", "alice")
		d.send("s SELECT INBOX")
		d.until("s")
		r.stubs["b1"].fail("LOGOUT", "hang")
		takes(t, atOnce, atOnce, "LOGOUT", func() {
			d.send("z LOGOUT")
			d.expect("* BYE ...")
			d.expect("z OK ...")
			d.end()
		})
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if list := r.srv.Sessions(); len(list) > 0 {
			t.Errorf("still there: %+v", list)
		}
	})
}

// 111: the server of the selected mailbox ends between two answers, in whatever way. What has come of them is the
// client's; then it is told at once that nobody knows what became of its command, which is not given a second time, and
// that it must come again.
func TestSelectedServerEnds(t *testing.T) {
	for _, cmd := range []string{"FETCH 1:3 FLAGS", `STORE 1 +FLAGS (\Deleted)`, "EXPUNGE", "UID EXPUNGE 1", "COPY 1 Work", "UID MOVE 1 Work",
		"SEARCH ALL", "CHECK", "NOOP", "STATUS INBOX (MESSAGES)"} {
		for _, how := range []string{"close", "done-close", "bye", `* 2 FETCH (FLAGS ())\nTHEN-CLOSE`, `* 2 FETCH (FLAGS ())\n* BYE leaving\nTHEN-CLOSE`} {
			if cmd == "FETCH 1:3 FLAGS" && how == "done-close" {
				continue // all of it has come but the end
			}
			t.Run(cmd+", "+how, func(t *testing.T) {
				inVirtualTime(t, rigOptions{}, func(t *testing.T, r *rig) {
					d := r.login("A", "alice")
					d.send("s SELECT INBOX")
					d.until("s")
					words := strings.Fields(cmd)
					verb := words[0]
					if verb == "UID" {
						verb += "_" + words[1]
					}
					b1 := r.stubs["b1"]
					b1.forget()
					b1.fail(verb, how)
					takes(t, atOnce, atOnce, "the end", func() {
						d.send("x " + cmd)
						if strings.HasPrefix(how, "*") {
							d.expect("* 2 FETCH (FLAGS ())")
						}
						d.expect("x NO [UNAVAILABLE] ...unknown")
						d.expect("* BYE [UNAVAILABLE] Mailbox server lost")
						d.end()
					})
					if n := times(b1.commands(), "alice: "+cmd); n != 1 {
						t.Errorf("given %d times: %q", n, b1.commands())
					}
				})
			})
		}
	}
}

// A mailbox that has been moved is served by its old server for as long as that goes on. Who asks for news, or is there when it
// ends, is told to come again.
func TestMovedWhileSelected(t *testing.T) {
	for _, end := range []string{"NOOP", "FETCH 1 FLAGS"} {
		inVirtualTime(t, rigOptions{}, func(t *testing.T, r *rig) {
			d := r.login("A", "alice")
			d.send("s SELECT INBOX")
			d.until("s")
			r.dir.set("user.alice", "b2!default", "alice\tlrswip\t")
			synctest.Wait()
			d.send("f FETCH 1 FLAGS")
			d.expect("* 1 FETCH ...")
			d.expect("f OK ...")
			r.stubs["b1"].fail("FETCH", "bye")
			takes(t, atOnce, atOnce, end, func() {
				d.send("x " + end)
				if end == "NOOP" {
					d.expect("x OK ...")
				} else {
					d.expect("x NO [UNAVAILABLE] ...")
				}
				d.expect("* BYE [UNAVAILABLE] Mailbox moved, reconnect")
				d.end()
			})
		})
	}
}

// A client that begins IDLE when its mailbox has moved is told at once.
func TestIdleAfterTheMove(t *testing.T) {
	inVirtualTime(t, rigOptions{}, func(t *testing.T, r *rig) {
		d := r.login("A", "alice")
		d.send("s SELECT INBOX")
		d.until("s")
		r.dir.set("user.alice", "b2!default", "alice\tlrswip\t")
		synctest.Wait()
		d.send("i IDLE")
		takes(t, atOnce, atOnce, "leaving", func() {
			d.expect("+ idling")
			d.expect("* BYE [UNAVAILABLE] Mailbox moved...")
		})
		r.dir.set("user.alice", "b1!default", "alice\tlrswip\t")
		d = r.login("A", "alice")
		d.send("s SELECT INBOX")
		d.until("s")
		r.dir.set("user.alice", "b2!default", "alice\tlrswip\t")
		synctest.Wait()
		d.send("u UNSELECT") // and so it is nothing to him
		d.until("u")
		d.send("i IDLE")
		d.expect("+ idling")
		d.send("DONE")
		d.expect("i OK ...")
	})
}

// One that has moved while its old server took its time to open it is known to have moved, too.
func TestMovedWhileBeingSelected(t *testing.T) {
	inVirtualTime(t, rigOptions{config: []func(*Config){func(c *Config) { c.Limits.BackendReply = 10 * time.Minute }}}, func(t *testing.T, r *rig) {
		d := r.login("A", "alice")
		r.stubs["b1"].fail("SELECT", `LATERTAG OK [READ-WRITE] opened`)
		d.send("s SELECT INBOX")
		synctest.Wait()
		r.dir.set("user.alice", "b2!default", "alice\tlrswip\t")
		d.until("s")
		d.send("n NOOP")
		d.expect("n OK ...")
		d.expect("* BYE [UNAVAILABLE] Mailbox moved...")
	})
}

// A client that vanishes takes its connections to the backends with it. Nothing is expunged, and nothing completed.
func TestClientVanishes(t *testing.T) {
	for _, last := range []string{"", "x STORE 1 +FLAGS", "x IDLE\r\n", "x EXPUNGE", "x APPEND INBOX {100+}\r\nhalf", "x APPEND INBOX {4+}\r\nhalf",
		"x APPEND \"Shared Folders/shared\" {100+}\r\nhalf", "x CLOSE", "x FETCH 1 BODY[HEADER.FIELDS ({5+}\r\n"} {
		t.Run(last, func(t *testing.T) {
			inVirtualTime(t, rigOptions{}, func(t *testing.T, r *rig) {
				d := r.login("A", "alice")
				d.send("s SELECT INBOX")
				d.until("s")
				d.send(`s UID STORE 1 +FLAGS (\Deleted)`)
				d.until("s")
				d.raw(last)
				synctest.Wait()
				d.conn.Close()
				synctest.Wait()
				if list := r.srv.Sessions(); len(list) > 0 {
					t.Errorf("still there: %+v", list)
				}
				for name, b := range r.stubs {
					b.mu.Lock()
					if len(b.conns) > 0 {
						t.Errorf("%s still has %d connections", name, len(b.conns))
					}
					b.mu.Unlock()
					for _, bad := range []string{": CLOSE", "EXPUNGE", "APPEND"} {
						if b.saw(bad) {
							t.Errorf("%s has seen %q", name, b.commands())
						}
					}
				}
				if n := r.stubs["b1"].count("user.alice"); n != 3 {
					t.Errorf("%d messages", n)
				}
			})
		})
	}
}

// 127: the list of all mailboxes, for a client that reads it slowly, is nowhere held as a whole.
func TestListOfEverything(t *testing.T) {
	const many = 200_000
	r := newRig(t)
	entries := make([]mbox.Entry, many)
	for i := range entries {
		entries[i] = mbox.Entry{Name: mbox.Name(fmt.Sprintf("user.u%06d", i)), Location: "b1!default", ACL: "anyone\tl\t", State: mbox.Active}
	}
	d := r.login("A", "cyrus")
	r.dir.mu.Lock()
	r.dir.view = &memoryView{index: r.dir.view.index, entries: entries}
	r.dir.mu.Unlock()
	const most = 512 << 10
	held := growth(most)
	d.send(`a LIST "" "*"`)
	last := int64(-1)
	eventually(t, "the list stands", func() bool {
		time.Sleep(50 * time.Millisecond)
		out := r.srv.Sessions()[0].Out
		stands := out == last && out > 0
		last = out
		return stands
	})
	if grown := held(); grown > most {
		t.Errorf("%d KiB are held", grown>>10)
	}
	d.conn.SetReadDeadline(time.Now().Add(time.Minute))
	for n := 0; ; n++ {
		line, err := d.r.ReadSlice('\n')
		if err != nil {
			t.Fatal(err)
		}
		if bytes.HasPrefix(line, []byte("a OK")) {
			if n != many {
				t.Errorf("%d lines", n)
			}
			break
		}
		if want := fmt.Sprintf(`user/u%06d`, n); !bytes.HasSuffix(bytes.TrimSpace(line), []byte(want)) {
			t.Fatalf("got %q, want %s", line, want)
		}
		if n%50_000 == 0 {
			if grown := held(); grown > most {
				t.Errorf("%d KiB are held after %d lines", grown>>10, n)
			}
		}
	}
}
