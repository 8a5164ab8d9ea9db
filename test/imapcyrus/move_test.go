//go:build cyrus

package imapcyrus

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// 50 to 56: a user moves between servers while in use.
func TestMoveUser(t *testing.T) {
	admin := at(t, "cyrus")
	d := at(t, "dave")
	d.ok("CREATE sub")
	d.append("INBOX", message("kept"))
	d.append("sub", message("deep"))
	d.ok("SELECT INBOX")
	d.ok(`STORE 1 +FLAGS (\Seen)`)
	d.ok("SUBSCRIBE sub")
	d.ok("UNSELECT")
	before := d.ok("STATUS INBOX (MESSAGES UIDNEXT UIDVALIDITY UNSEEN)")
	lives := func(server string) {
		t.Helper()
		for _, addr := range []string{world.F1, world.F2} {
			for _, name := range []string{"user/dave", "user/dave/sub"} {
				has(t, dial(t, addr, "cyrus").ok("GETMETADATA %s /shared/vendor/cmu/cyrus-imapd/server", name), fmt.Sprintf("...%q)", server))
			}
		}
	}
	t.Run("52 53 54 refused", func(t *testing.T) {
		admin.do("NO ...", "XFER user/dave/sub be1.rig.test")
		admin.do("NO ...", "RENAME user/dave user/dave nosuchserver")
		admin.do("NO ...", "RENAME user/dave user/eve be1.rig.test")
		lives("be2.rig.test")
		d.ok("STATUS sub (MESSAGES)")
	})
	t.Run("50 55 56 while in use", func(t *testing.T) {
		idle := at(t, "dave")
		idle.ok("SELECT INBOX")
		stop := make(chan struct{})
		var sent, told, done []string
		var wait sync.WaitGroup
		wait.Go(func() {
			w := at(t, "dave")
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				id := fmt.Sprintf("during-%d", i)
				sent = append(sent, id)
				m := message(id)
				r, err := w.Conn.Do("APPEND INBOX {%d+}\r\n%s", len(m), m)
				switch {
				case err != nil:
					t.Error(err)
					return
				case r.Status == "OK":
					done = append(done, id)
				case like("[UNAVAILABLE]...", r.Text):
					told = append(told, r.Text)
				default:
					t.Errorf("%+v", r)
				}
			}
		})
		time.Sleep(50 * time.Millisecond)
		has(t, admin.ok("RENAME user/dave user/dave be1.rig.test"), "* OK USER ...dave")
		time.Sleep(50 * time.Millisecond)
		close(stop)
		wait.Wait()
		t.Logf("%d sent, %d stored, %d told to wait", len(sent), len(done), len(told))
		lives("be1.rig.test")
		if r, err := idle.Conn.Do("NOOP"); err == nil && r.Status != "OK" && !like("[UNAVAILABLE]...", r.Text) {
			t.Errorf("%+v", r)
		}
		again := at(t, "dave")
		again.ok("SELECT INBOX")
		for _, id := range done {
			has(t, again.ok("SEARCH HEADER MESSAGE-ID <%s@example.com>", id), "* SEARCH ...")
			if found := again.ok("SEARCH HEADER MESSAGE-ID <%s@example.com>", id); len(found) == 1 && len(strings.Fields(found[0])) != 3 {
				t.Errorf("%s: %q", id, found)
			}
		}
		has(t, again.ok("UID FETCH 1 FLAGS"), `...\Seen...`)
		has(t, again.ok(`LSUB "" "*"`), "* LSUB ... sub")
		has(t, again.ok("STATUS sub (MESSAGES)"), "...MESSAGES 1...")
		after := again.ok("STATUS INBOX (UIDVALIDITY)")
		validity := strings.Fields(before[0])
		if !strings.Contains(after[0], validity[len(validity)-3]) {
			t.Errorf("%q then %q", before, after)
		}
	})
	t.Run("51 XFER back", func(t *testing.T) {
		admin.ok("XFER user/dave be2.rig.test")
		lives("be2.rig.test")
		again := at(t, "dave")
		again.ok("SELECT INBOX")
		has(t, again.ok("UID FETCH 1 FLAGS"), `...\Seen...`)
	})
}

// loops is how often TestReadYourWrites goes round: $MURDER_LOOPS, by default 1000 times.
func loops() int {
	if n, err := strconv.Atoi(os.Getenv("MURDER_LOOPS")); err == nil && n > 0 {
		return n
	}
	return 1000
}

// 37 and 38: who has been told OK finds the mailbox on every frontend; in the middle the leader dies.
func TestReadYourWrites(t *testing.T) {
	n := loops()
	one, two := at(t, "frank"), dial(t, world.F2, "frank")
	var slowest time.Duration
	var waited int
	for i := range n {
		if i == n/2 {
			leader, err := world.Cluster.Leader(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := world.Cluster.Kill(leader); err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := world.Cluster.Start(leader); err != nil {
					t.Error(err)
				}
			}()
		}
		name := fmt.Sprintf("rw/%d", i)
		began := time.Now()
		for try := 0; ; try++ {
			r, err := one.Conn.Do("CREATE %s", name)
			if err != nil {
				t.Fatal(err)
			}
			if r.Status == "OK" {
				break
			}
			waited++
			if !like("[UNAVAILABLE]...", r.Text) && !(try > 0 && like("[ALREADYEXISTS]...", r.Text)) || time.Since(began) > 30*time.Second {
				t.Fatalf("%s: %+v", name, r)
			}
			if like("[ALREADYEXISTS]...", r.Text) {
				break
			}
		}
		slowest = max(slowest, time.Since(began))
		two.ok("SELECT %s", name)
		if i%10 == 0 {
			has(t, two.ok(`LIST "" %s`, name), "* LIST ... "+name)
		}
		if i%2 == 0 {
			one.ok("SELECT %s", name)
			one.ok("UNSELECT")
		}
	}
	t.Logf("%d times CREATE then SELECT on the other frontend; slowest CREATE %v, %d told to try again", n, slowest.Round(time.Millisecond), waited)
}
