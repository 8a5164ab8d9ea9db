//go:build cyrus

package imapcyrus

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"murder/test/cyrus"
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
	const content = "(UID FLAGS INTERNALDATE BODY.PEEK[])"
	kept := strings.ReplaceAll(d.ok("UID FETCH 1 %s", content)[0], `\Recent `, "")
	d.ok("UNSELECT")
	before := d.ok("STATUS INBOX (MESSAGES UIDNEXT UIDVALIDITY UNSEEN)")
	const script = "keep;\r\n# of dave\r\n"
	sieve(t, world.Be2, "dave", fmt.Sprintf("PUTSCRIPT \"rules\" {%d+}\r\n%s", len(script), script))
	sieve(t, world.Be2, "dave", "SETACTIVE \"rules\"")
	// All that he had is at a server, as it was.
	arrived := func(at *cyrus.Node) {
		t.Helper()
		again := dial(t, world.F2, "dave")
		again.ok("SELECT INBOX")
		if now := again.ok("UID FETCH 1 %s", content); strings.ReplaceAll(now[0], `\Recent `, "") != kept {
			t.Errorf("%q, then %q", kept, now)
		}
		has(t, again.ok(`LSUB "" "*"`), "* LSUB ... sub")
		has(t, again.ok("STATUS sub (MESSAGES)"), "...MESSAGES 1...")
		after := again.ok("STATUS INBOX (UIDVALIDITY)")
		validity := strings.Fields(before[0])
		if !strings.Contains(after[0], " "+validity[len(validity)-3]+")") {
			t.Errorf("%q then %q", before, after)
		}
		if got := sieve(t, at, "dave", "GETSCRIPT \"rules\""); !strings.Contains(got, script) {
			t.Errorf("the script is %q", got)
		}
		if got := sieve(t, at, "dave", "LISTSCRIPTS"); !strings.Contains(got, "\"rules\" ACTIVE") {
			t.Errorf("scripts are %q", got)
		}
	}
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
		var answers atomic.Int64
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
				answers.Add(1)
			}
		})
		goOn := func() {
			t.Helper()
			before := answers.Load()
			eventually(t, "messages come", func() bool { return answers.Load() >= before+5 })
		}
		goOn()
		has(t, admin.ok("RENAME user/dave user/dave be1.rig.test"), "* OK USER ...dave")
		goOn()
		close(stop)
		wait.Wait()
		t.Logf("%d sent, %d stored, %d told to wait", len(sent), len(done), len(told))
		lives("be1.rig.test")
		switch r, err := idle.Conn.Do("NOOP"); {
		case err != nil:
			has(t, r.Lines, "* BYE [UNAVAILABLE]...")
		case r.Status != "OK" && !like("[UNAVAILABLE]...", r.Text):
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
		arrived(world.Be1)
	})
	t.Run("51 XFER back", func(t *testing.T) {
		admin.ok("XFER user/dave be2.rig.test")
		lives("be2.rig.test")
		arrived(world.Be2)
	})
}

// sieve gives a command to a backend's timsieved and returns the answer, which must be OK.
func sieve(t testing.TB, n *cyrus.Node, user, cmd string) string {
	t.Helper()
	nc, err := net.Dial("tcp", n.Addr(cyrus.SievePort))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(20 * time.Second))
	r := bufio.NewReader(nc)
	answer := func() (text string) {
		for {
			line, err := r.ReadString('\n')
			text += line
			switch word, _, _ := strings.Cut(strings.TrimSpace(line), " "); {
			case err != nil, word == "NO", word == "BYE":
				t.Fatalf("%.40q: %q %v", cmd, text, err)
			case word == "OK":
				return text
			}
		}
	}
	answer()
	login := base64.StdEncoding.EncodeToString([]byte("\x00" + user + "\x00" + Password))
	fmt.Fprintf(nc, "AUTHENTICATE \"PLAIN\" \"%s\"\r\n", login)
	answer()
	fmt.Fprintf(nc, "%s\r\n", cmd)
	return answer()
}

// writers is how many make changes at a time in TestReadYourWrites.
const writers = 8

// 37 and 38, $MURDER_LOOPS times, by default 1000: what somebody has been told OK about on one frontend holds at the next command of anybody on the
// other: a mailbox made, renamed, deleted, shared and no longer shared. In the middle the leader dies.
func TestReadYourWrites(t *testing.T) {
	n := setting("MURDER_LOOPS", 1000)
	var rounds, looks, waited atomic.Int64
	var slowest atomic.Int64
	var unrest atomic.Bool // nobody leads, or did so a while ago
	killLeader := sync.OnceFunc(func() {
		unrest.Store(true)
		leader, err := world.Cluster.Leader(t.Context())
		if err == nil {
			err = world.Cluster.Kill(leader)
		}
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() {
			if err := world.Cluster.Start(leader); err != nil {
				t.Error(err)
			}
		})
	})
	began := time.Now()
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() { // not t.Parallel, which runs no more than there are processors
			t.Run(fmt.Sprint("writer ", w), func(t *testing.T) {
				p := &pair{t: t, one: at(t, "carol"), two: dial(t, world.F2, "carol"), friend: dial(t, world.F2, "alice"), waited: &waited, unrest: &unrest}
				for !t.Failed() {
					i := rounds.Add(1)
					if i > int64(n) {
						break
					}
					if i == int64(n/2) {
						killLeader()
					}
					p.round(fmt.Sprintf("rw/%d", i), i)
				}
				looks.Add(p.looks)
				for old := slowest.Load(); int64(p.slowest) > old && !slowest.CompareAndSwap(old, int64(p.slowest)); old = slowest.Load() {
				}
			})
		})
	}
	all.Wait()
	t.Logf("%d rounds in %v, %d looks from the other frontend; slowest change %v, %d told to try again", n, time.Since(began).Round(time.Second),
		looks.Load(), time.Duration(slowest.Load()).Round(time.Millisecond), waited.Load())
}

// pair is a user on both frontends, with a friend on the second.
type pair struct {
	t                testing.TB
	one, two, friend *client
	looks            int64
	slowest          time.Duration
	waited           *atomic.Int64
	unrest           *atomic.Bool
}

// round makes one mailbox and changes it.
func (p *pair) round(name string, i int64) {
	p.insist("ALREADYEXISTS", "CREATE %s", name)
	p.sees(p.one, true, "SELECT %s", name)
	p.sees(p.two, true, "SELECT %s", name)
	p.one.ok("UNSELECT")
	switch i % 4 {
	case 0:
		has(p.t, p.two.ok(`LIST "" %s`, name), "* LIST ... "+name)
	case 1:
		p.two.ok("UNSELECT")
		p.insist("NONEXISTENT", "RENAME %s %s-new", name, name)
		p.sees(p.two, true, "SELECT %s-new", name)
		p.sees(p.two, false, "STATUS %s (MESSAGES)", name)
	case 2:
		p.two.ok("UNSELECT")
		p.insist("NONEXISTENT", "DELETE %s", name)
		p.sees(p.two, false, "SELECT %s", name)
	case 3:
		p.sees(p.friend, false, `STATUS "Other Users/carol/%s" (MESSAGES)`, name)
		p.insist("", "SETACL %s alice lr", name)
		p.sees(p.friend, true, `STATUS "Other Users/carol/%s" (MESSAGES)`, name)
		p.insist("", "DELETEACL %s alice", name)
		p.sees(p.friend, false, `SELECT "Other Users/carol/%s"`, name)
	}
}

// insist repeats a command that cannot be done now. Its outcome may have been unknown: then it may have been done
// already.
func (p *pair) insist(done, format string, args ...any) {
	p.t.Helper()
	began := time.Now()
	for try := 0; ; try++ {
		r, err := p.one.Conn.Do(format, args...)
		if err != nil {
			p.t.Fatal(err)
		}
		if r.Status == "OK" || try > 0 && done != "" && like("["+done+"]...", r.Text) {
			p.slowest = max(p.slowest, time.Since(began))
			return
		}
		p.waited.Add(1)
		if !p.unrest.Load() || !like("[UNAVAILABLE]...", r.Text) || time.Since(began) > 30*time.Second {
			p.t.Fatalf("%s: %+v", fmt.Sprintf(format, args...), r)
		}
	}
}

// sees asks on the other frontend. While nobody leads, what is not there may be unknown, and nothing else.
func (p *pair) sees(c *client, there bool, format string, args ...any) {
	p.t.Helper()
	p.looks++
	for began := time.Now(); ; {
		r, err := c.Conn.Do(format, args...)
		switch cmd := fmt.Sprintf(format, args...); {
		case err != nil:
			p.t.Fatal(cmd, err)
		case there && r.Status == "OK", !there && like("[NONEXISTENT]...", r.Text):
			return
		case !p.unrest.Load() || !like("[UNAVAILABLE]...", r.Text) || time.Since(began) > 30*time.Second:
			p.t.Fatalf("%s: %+v, want it there: %v", cmd, r, there)
		}
		p.waited.Add(1)
	}
}
