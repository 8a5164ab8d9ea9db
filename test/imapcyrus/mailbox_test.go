//go:build cyrus

package imapcyrus

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"murder/test/cyrus"
	"murder/test/imapline"
)

func TestMailboxes(t *testing.T) {
	a, a2, b := at(t, "alice"), dial(t, world.F2, "alice"), at(t, "bob")
	admin := at(t, "cyrus")
	t.Run("39 40 47 create and delete", func(t *testing.T) {
		a.ok("CREATE Twice")
		a.do("NO [ALREADYEXISTS] ...", "CREATE Twice")
		a.ok("CREATE \"deep/er/still\"")
		has(t, same(t, a, direct(t, world.Be1, "alice"), `LIST "" "deep*"`), `* LIST ... deep/er/still`)
		a.ok("SELECT deep/er/still")
		a.ok("UNSELECT")
		a.do("NO ...", "DELETE INBOX")
		a.ok("STATUS INBOX (MESSAGES)")
	})
	t.Run("41 42 43 where new users go", func(t *testing.T) {
		admin.ok("CREATE user/new1")
		other := dial(t, world.F2, "cyrus")
		has(t, other.ok(`LIST "" user/new1`), "* LIST ... user/new1")
		// Where there are fewest: be1 has all that alice and others have made here.
		for node, n := range map[*cyrus.Node]int{world.Be1: 0, world.Be2: 1} {
			if found := direct(t, node, "cyrus").ok(`LIST "" user/new1`); len(found) != n {
				t.Errorf("%s has %q", node.Name, found)
			}
		}
		has(t, other.ok("GETMETADATA user/new1 /shared/vendor/cmu/cyrus-imapd/server"), `..."be2.rig.test")`)
		for i, form := range []string{" be2.rig.test", " (SERVER be2.rig.test)", " be2.rig.test!default"} {
			name := fmt.Sprintf("user/new%d", i+2)
			admin.ok("CREATE %s%s", name, form)
			has(t, direct(t, world.Be2, "cyrus").ok(`LIST "" %s`, name), "* LIST ... "+name)
		}
		a.do("NO [NOPERM] ...", "CREATE Foo2 be2.rig.test")
	})
	t.Run("45 one of two", func(t *testing.T) {
		other := dial(t, world.F2, "cyrus")
		for i := range 50 {
			var won int
			var mu sync.Mutex
			var wait sync.WaitGroup
			for _, c := range []*client{admin, other} {
				wait.Go(func() {
					r, err := c.Conn.Do("CREATE user/race%d", i)
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					defer mu.Unlock()
					if r.Status == "OK" {
						won++
					}
				})
			}
			wait.Wait()
			held := len(direct(t, world.Be1, "cyrus").ok(`LIST "" user/race%d`, i)) + len(direct(t, world.Be2, "cyrus").ok(`LIST "" user/race%d`, i))
			if won != 1 || held != 1 {
				t.Fatalf("round %d: %d were told OK, %d INBOXes", i, won, held)
			}
		}
	})
	t.Run("46 a backend that deletes in silence", func(t *testing.T) {
		a.ok("CREATE Silent")
		a.ok("DELETE Silent")
		hasNot(t, a.ok(`LIST "" "*"`), "...Silent")
		hasNot(t, a2.ok(`LIST "" "Silent"`), "...Silent")
		a.ok("CREATE Silent")
	})
	t.Run("48 49 rename", func(t *testing.T) {
		a.ok("CREATE Foo")
		a.ok("CREATE Foo/Bar")
		a.append("Foo/Bar", message("renamed"))
		a.ok("RENAME Foo Zed")
		for _, c := range []*client{a, a2} {
			lines := c.ok(`LIST "" "*"`)
			has(t, lines, "* LIST ... Zed")
			has(t, lines, "* LIST ... Zed/Bar")
			hasNot(t, lines, "* LIST ... Foo...")
			has(t, c.ok("SELECT Zed/Bar"), "* 1 EXISTS")
			c.ok("UNSELECT")
		}
		b.ok("SETACL proj alice lrswipkxte")
		a.do("NO [CANNOT] ...", `RENAME Zed "Other Users/bob/proj/Zed"`)
		a.ok("SELECT Zed")
		a.ok("UNSELECT")
	})
	t.Run("57 58 60 rights", func(t *testing.T) {
		a.ok("CREATE Acl")
		a.ok("SETACL Acl bob lr")
		has(t, same(t, a, direct(t, world.Be1, "alice"), "GETACL Acl"), "* ACL Acl ...bob lr...")
		has(t, dial(t, world.F2, "bob").ok(`LIST "" "*Acl"`), `* LIST ... "Other Users/alice/Acl"`)
		a.do("NO [NOPERM]...", `GETACL "Shared Folders/shared"`)
		b.do("NO [NONEXISTENT]...", `GETACL "Other Users/alice/Twice"`)
		admin.ok("CREATE second be2.rig.test")
		admin.ok("SETACL second anyone lrs")
		admin.ok("SETACL second -alice r")
		has(t, a.ok(`LIST "" "Shared Folders/second"`), "* LIST...")
		has(t, a.ok(`MYRIGHTS "Shared Folders/second"`), `... ls`)
		there := direct(t, world.Be2, "alice")
		admin.ok("SETACL second anyone lrswipkxte")
		for _, not := range []string{"e", "t", "kx", "c", "d", "lr"} {
			admin.ok("SETACL second -alice %s", not)
			has(t, same(t, a, there, `MYRIGHTS "Shared Folders/second"`), "* MYRIGHTS ...")
		}
		admin.ok("SETACL second -alice r") // and again may be seen
		for _, box := range []string{"INBOX", "Acl"} {
			for _, who := range []string{"alice", "bob", "anyone", "-bob"} {
				same(t, a, direct(t, world.Be1, "alice"), "LISTRIGHTS %s %s", box, who)
			}
		}
	})
	t.Run("59 an owner who does not see it", func(t *testing.T) {
		a.ok("CREATE Blind")
		// Cyrus: an owner's own entry always has what nobody can take from him.
		admin.ok("SETACL user/alice/Blind alice r")
		admin.ok("SETACL user/alice/Blind -alice l")
		d := direct(t, world.Be1, "alice")
		if lines := same(t, a, d, `LIST "" Blind`); len(lines) > 0 {
			t.Errorf("%q", lines)
		}
		hasNot(t, a.ok(`LIST "" "*"`), "...Blind")
		has(t, same(t, a, d, "MYRIGHTS Blind"), "* MYRIGHTS Blind lrkxcan")
	})
	t.Run("62 quota", func(t *testing.T) {
		direct(t, world.Be1, "cyrus").ok("SETQUOTA user/alice (STORAGE 100000)")
		d := direct(t, world.Be1, "alice")
		has(t, same(t, a, d, "GETQUOTAROOT INBOX"), "* QUOTA ...STORAGE ... 100000)")
		has(t, same(t, admin, direct(t, world.Be1, "cyrus"), "GETQUOTA user/alice"), "* QUOTA ...STORAGE ... 100000)")
		one, err := a.Conn.Do("GETQUOTA INBOX")
		two, err2 := d.Conn.Do("GETQUOTA INBOX")
		if err != nil || err2 != nil || one.Status != two.Status || !slices.Equal(one.Lines, two.Lines) {
			t.Errorf("%+v %v, at the backend %+v %v", one, err, two, err2)
		}
	})
	t.Run("63 64 65 annotations", func(t *testing.T) {
		a.ok(`SETMETADATA INBOX (/private/comment "hi")`)
		has(t, same(t, a, direct(t, world.Be1, "alice"), "GETMETADATA INBOX /private/comment"), `* METADATA INBOX ("/private/comment" "hi")`)
		b.ok(`SETMETADATA proj (/shared/comment "of all")`)
		a.ok(`SETMETADATA INBOX (/shared/comment "of alice")`)
		lines := a.ok(`GETMETADATA (INBOX "Other Users/bob/proj") /shared/comment`)
		has(t, lines, `...INBOX..."of alice"...`)
		has(t, lines, `...Other Users/bob/proj..."of all"...`)
		has(t, a.ok(`LIST "" "*" RETURN (METADATA (/shared/comment))`), `* METADATA ...Other Users/bob/proj..."of all"...`)
		has(t, a.ok("GETMETADATA INBOX /shared/vendor/cmu/cyrus-imapd/server"), `..."be1.rig.test")`)
	})
	t.Run("a backend process that dies of a command costs that command", func(t *testing.T) {
		// Cyrus 3.6.1: the first annotation of a shared mailbox fails an assertion.
		var r imapline.Reply
		var err error
		within(t, time.Second, "its end", func() { r, err = admin.Conn.Do(`SETMETADATA shared (/shared/comment "of all")`) })
		if err != nil || r.Status != "OK" && !like("[UNAVAILABLE]...", r.Text) {
			t.Errorf("%+v %v", r, err)
		}
		admin.ok("STATUS shared (MESSAGES)")
	})
	t.Run("81 dots in names", func(t *testing.T) {
		admin.ok("CREATE user/john.smith")
		has(t, admin.ok(`LIST "" "user/john*"`), "* LIST ... user/john.smith")
		at(t, "john.smith").ok("SELECT INBOX")
	})
	t.Run("84 names that are taken", func(t *testing.T) {
		d := direct(t, world.Be1, "alice")
		for _, name := range []string{"Other Users", "inbox", "Shared Folders"} {
			name := imapline.Quote("Alt Folders/" + name)
			d.ok("CREATE %s", name)
			has(t, same(t, a, d, `LIST "" %s`, name), "* LIST ... "+name)
			a.ok("SELECT %s", name)
			a.ok("UNSELECT")
			a.ok("DELETE %s", name)
		}
	})
	t.Run("80 names", func(t *testing.T) {
		for _, name := range []string{"a b", "Entw&APw-rfe", "q\"uote", "back\\slash", "R&-D", "100% sure"} {
			if strings.Contains(name, "%") {
				continue // Cyrus: not among the octets of a name
			}
			r, err := a.Conn.Do("CREATE %s", imapline.Quote(name))
			d, err2 := direct(t, world.Be1, "erin").Conn.Do("CREATE %s", imapline.Quote(name))
			if err != nil || err2 != nil || r.Status != d.Status {
				t.Errorf("%q: %+v %v, at the backend %+v %v", name, r, err, d, err2)
			}
			if r.Status != "OK" {
				continue
			}
			found, err := a.List(name)
			if err != nil || len(found) != 1 || found[0] != name {
				t.Errorf("%q: %q %v", name, found, err)
			}
			a.ok("SELECT %s", imapline.Quote(name))
			a.ok("UNSELECT")
			a.ok("DELETE %s", imapline.Quote(name))
		}
	})
}

func TestListing(t *testing.T) {
	a := at(t, "alice")
	t.Run("72 LIST STATUS", func(t *testing.T) {
		var want []string // the order of the map, and behind each what it would say alone
		for _, l := range a.ok(`LIST "" "*"`) {
			want = append(want, l)
			_, name, _ := strings.Cut(l, ` "/" `)
			r, err := a.Conn.Do("STATUS %s (MESSAGES UNSEEN)", name)
			if err != nil || r.Status != "OK" && !like("[NOPERM]...", r.Text) { // as one that may be seen and not read
				t.Fatalf("%s: %+v %v", name, r, err)
			}
			want = append(want, r.Lines...)
		}
		if got := a.ok(`LIST "" "*" RETURN (STATUS (MESSAGES UNSEEN))`); !slices.Equal(got, want) {
			t.Errorf("\n%s\none by one:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	})
	t.Run("73 special use", func(t *testing.T) {
		a.ok(`CREATE Gesendet (USE (\Sent))`)
		has(t, a.ok(`LIST (SPECIAL-USE) "" "*"`), `* LIST (...\Sent) "/" Gesendet`)
		has(t, a.ok(`LIST "" "*" RETURN (SPECIAL-USE)`), `* LIST (...\Sent) "/" Gesendet`)
		has(t, a.ok(`XLIST "" "*"`), `* XLIST (...\Sent) "/" Gesendet`)
	})
	t.Run("74 75 76 77 79 subscriptions", func(t *testing.T) {
		a.ok(`SUBSCRIBE "Shared Folders/shared"`)
		has(t, a.ok(`LSUB "" "*"`), `* LSUB ... "Shared Folders/shared"`)
		has(t, a.ok(`LIST (SUBSCRIBED) "" "*"`), `* LIST (...\Subscribed...) ... "Shared Folders/shared"`)
		has(t, a.ok(`LIST "" "*" RETURN (SUBSCRIBED)`), `* LIST (...\Subscribed...) ... "Shared Folders/shared"`)
		has(t, a.ok(`LIST (SUBSCRIBED) "Shared Folders/" "*"`), `* LIST ... "Shared Folders/shared"`)
		has(t, a.ok(`LIST (SUBSCRIBED RECURSIVEMATCH) "" "%%"`), `* LIST ... "Shared Folders" ("CHILDINFO" ("SUBSCRIBED"))`)
		a.do("NO [NONEXISTENT]...", "SUBSCRIBE nosuch")
		a.ok("CREATE Passing")
		a.ok("SUBSCRIBE Passing")
		a.ok("DELETE Passing")
		has(t, a.ok(`LSUB "" "*"`), `* LSUB (\Noselect...) ... Passing`)
		has(t, a.ok(`LIST (SUBSCRIBED) "" "*"`), `* LIST (\NonExistent...) ... Passing`)
		a.ok("UNSUBSCRIBE Passing")
	})
	t.Run("67 the separator", func(t *testing.T) {
		has(t, same(t, a, direct(t, world.Be1, "alice"), `LIST "" ""`), `* LIST (\Noselect) "/" ""`)
	})
	t.Run("68 69 70 levels", func(t *testing.T) {
		has(t, a.ok(`LIST "" "Other Users/%%"`), `* LIST (\Noselect \HasChildren) "/" "Other Users/bob"`)
		lines := a.ok(`LIST "" "%%"`)
		has(t, lines, `* LIST ... INBOX`)
		has(t, lines, `* LIST (\Noselect \HasChildren) "/" "Shared Folders"`)
		all := at(t, "cyrus").ok(`LIST "" "user/%%"`)
		has(t, all, "* LIST ... user/alice")
		has(t, all, "* LIST ... user/bob")
	})
}
