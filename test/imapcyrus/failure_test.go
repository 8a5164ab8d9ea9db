//go:build cyrus

package imapcyrus

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// within runs f and complains if it takes long.
func within(t testing.TB, limit time.Duration, what string, f func()) {
	t.Helper()
	began := time.Now()
	f()
	if took := time.Since(began); took > limit {
		t.Errorf("%s took %v", what, took)
	}
}

func TestBackendAway(t *testing.T) {
	a, c, f := at(t, "alice"), at(t, "carol"), at(t, "frank")
	a.ok("SELECT INBOX")
	a.ok("STATUS \"Shared Folders/shared\" (MESSAGES)")
	c.ok("SUBSCRIBE INBOX")
	subscribed := c.ok(`LSUB "" "*"`)
	whole := a.ok(`LIST "" "*"`)
	idle := at(t, "carol")
	idle.ok("SELECT INBOX")
	tag, err := idle.Send("IDLE")
	if err != nil {
		t.Fatal(err)
	}
	if line, err := idle.Conn.Line(10 * time.Second); err != nil || !strings.HasPrefix(line, "+") {
		t.Fatalf("IDLE: %q %v", line, err)
	}

	t.Run("117 restarted", func(t *testing.T) {
		p := at(t, "alice")
		p.ok("STATUS \"Shared Folders/shared\" (MESSAGES)")
		if err := world.Be2.Restart(); err != nil {
			t.Fatal(err)
		}
		p.ok("STATUS \"Shared Folders/shared\" (MESSAGES)")
	})
	t.Run("106 IDLE", func(t *testing.T) {
		r, err := idle.Answer(tag)
		if err == nil {
			t.Errorf("%+v", r)
		}
		has(t, r.Lines, "* BYE [UNAVAILABLE]...")
	})

	waits, works := at(t, "carol"), at(t, "carol")
	for _, c := range []*client{waits, works} {
		c.ok("SELECT INBOX")
	}
	if tag, err = waits.Send("IDLE"); err != nil {
		t.Fatal(err)
	}
	if line, err := waits.Line(10 * time.Second); err != nil || !strings.HasPrefix(line, "+") {
		t.Fatalf("IDLE: %q %v", line, err)
	}
	world.Be2.Kill()
	t.Run("106 111 the server of the selected mailbox is gone", func(t *testing.T) {
		within(t, time.Second, "an answer", func() {
			r, err := works.Conn.Do("FETCH 1:1000 FLAGS")
			has(t, append(r.Lines, r.Status+" "+r.Text), "...[UNAVAILABLE]...")
			if err == nil {
				line, err := works.Line(time.Second)
				has(t, []string{line}, "* BYE [UNAVAILABLE]...")
				if err != nil {
					t.Error(err)
				}
			}
		})
		within(t, 2*time.Second, "the end of IDLE", func() {
			r, err := waits.Answer(tag)
			if err == nil {
				t.Errorf("%+v", r)
			}
			has(t, r.Lines, "* BYE [UNAVAILABLE]...")
		})
	})
	t.Run("66 LIST needs nobody", func(t *testing.T) {
		if now := a.ok(`LIST "" "*"`); strings.Join(now, "\n") != strings.Join(whole, "\n") {
			t.Errorf("%q\n%q", whole, now)
		}
	})
	t.Run("28 SELECT", func(t *testing.T) {
		within(t, 5*time.Second, "SELECT", func() { a.do("NO [UNAVAILABLE]...", `SELECT "Shared Folders/shared"`) })
		a.do("BAD...", "FETCH 1 FLAGS")
		a.ok("SELECT INBOX")
	})
	t.Run("65 87 99", func(t *testing.T) {
		has(t, a.ok(`GETMETADATA "Shared Folders/shared" /shared/vendor/cmu/cyrus-imapd/server`), `...be2.rig.test...`)
		a.do("NO [UNAVAILABLE]...", `APPEND "Shared Folders/shared" {1000000}`)
		f.append("INBOX", message("stays"))
		f.ok("SELECT INBOX")
		f.do("NO [UNAVAILABLE]...", `COPY 1 "Shared Folders/shared"`)
		a.do("NO [UNAVAILABLE]...", `ESEARCH IN (mailboxes "Shared Folders/shared") ALL`)
		f.ok("CREATE Alone")
	})
	t.Run("71 LIST STATUS", func(t *testing.T) {
		lines := a.ok(`LIST "" "*" RETURN (STATUS (MESSAGES))`)
		has(t, lines, `* LIST ... "Shared Folders/shared"`)
		has(t, lines, "* STATUS INBOX...")
		has(t, lines, "* NO [UNAVAILABLE]...")
		hasNot(t, lines, `* STATUS "Shared...`)
	})
	t.Run("78 subscriptions", func(t *testing.T) {
		away := at(t, "carol")
		away.do("NO [UNAVAILABLE]...", `LSUB "" "*"`)
		away.do("NO [UNAVAILABLE]...", `SUBSCRIBE INBOX`)
		away.do("NO [UNAVAILABLE]...", `LIST (SUBSCRIBED) "" "*"`)
	})
	t.Run("112 the second try is quick", func(t *testing.T) {
		a.do("NO...", `STATUS "Shared Folders/shared" (MESSAGES)`)
		within(t, 50*time.Millisecond, "the second", func() { a.do("NO [UNAVAILABLE]...", `STATUS "Shared Folders/shared" (MESSAGES)`) })
	})
	t.Run("16 LOGOUT", func(t *testing.T) {
		within(t, 100*time.Millisecond, "LOGOUT", func() { has(t, at(t, "carol").ok("LOGOUT"), "* BYE...") })
	})
	if err := world.Be2.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is used again", func() bool {
		r, err := a.Conn.Do(`SELECT "Shared Folders/shared"`)
		return err == nil && r.Status == "OK"
	})
	if now := at(t, "carol").ok(`LSUB "" "*"`); strings.Join(now, "\n") != strings.Join(subscribed, "\n") {
		t.Errorf("subscriptions: %q, now %q", subscribed, now)
	}
}

// 113: half a message is none.
func TestClientDiesInLiteral(t *testing.T) {
	e := at(t, "frank")
	e.ok("CREATE Half")
	nc, err := net.Dial("tcp", world.F1)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(nc, "a LOGIN frank %s\r\nb APPEND Half {100000+}\r\nonly this", Password)
	for r := bufio.NewScanner(nc); !strings.HasPrefix(r.Text(), "a OK"); {
		if !r.Scan() {
			t.Fatalf("LOGIN: %q %v", r.Text(), r.Err())
		}
	}
	nc.Close()
	eventually(t, "the session has ended", func() bool {
		out, err := world.Cluster.Murderctl(t.Context(), "f1", "session", "list", "--user", "frank")
		return err == nil && !strings.Contains(string(out), nc.LocalAddr().String())
	})
	has(t, e.ok("STATUS Half (MESSAGES)"), "...MESSAGES 0...")
}

// 118: without a majority mail can be read, and nothing is claimed that cannot be known.
func TestNoQuorum(t *testing.T) {
	a := at(t, "alice")
	ids := []string{"c1", "c2"}
	for _, id := range ids {
		if err := world.Cluster.Kill(id); err != nil {
			t.Fatal(err)
		}
	}
	defer func() {
		if err := world.Cluster.StartAll(ids); err != nil {
			t.Error(err)
		}
		eventually(t, "a leader", func() bool {
			r, err := a.Conn.Do("CREATE Again%d", time.Now().UnixNano())
			return err == nil && r.Status == "OK"
		})
	}()
	has(t, a.ok(`LIST "" "*"`), "* LIST ... INBOX")
	a.ok("SELECT INBOX")
	within(t, 3*time.Second, "SELECT nosuch", func() { a.do("NO [UNAVAILABLE]...", "SELECT nosuch") })
	a.do("NO...", "CREATE Foo9")
	a.ok("SELECT INBOX")
}
