//go:build cyrus

package cyrus

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"murder/test/dialogue"
	"murder/test/loopback"
)

// What Cyrus 3.6 to 3.12 really do, where its source left a doubt. These tests have Cyrus on both ends:
// they pin the facts that our server is built on, and will tell when a newer package changes one.

// listened starts a rig with Cyrus's own master behind a relay that keeps what is said.
func listened(t *testing.T, o Options) (*Rig, *dialogue.Relay) {
	t.Helper()
	Require(t)
	n, err := loopback.Claim()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Release() })
	relay, err := dialogue.Listen(n.Host(9)+":0", n.Host(10)+":3905")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(relay.Close)
	o.Net, o.Master, o.Mupdate = n, true, relay.Addr()
	r := Start(t, o)
	relay.Take()
	return r, relay
}

// said is what the clients of a relay sent since the last time, LOGOUT aside: a Cyrus backend has
// read the answer to its last command before it answers its own client, but does not wait for that.
func said(relay *dialogue.Relay) []string {
	var lines []string
	for _, l := range relay.Take() {
		if l.Client && l.Text != "Q01 LOGOUT" {
			lines = append(lines, l.Text)
		}
	}
	return lines
}

func contains(lines []string, part string) bool {
	return slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, part) })
}

// A rename deletes the old name first, then reserves and activates the new one, with a location
// that has an empty partition; ctl_mboxlist -m puts the full location in its place.
func TestRenameLosesThePartition(t *testing.T) {
	t.Parallel()
	r, relay := listened(t, Options{Backends: 1})
	be1 := r.Node("be1")
	admin := signOn(t, be1, r.Admin())
	ok(t, admin, "CREATE user.u1")
	ok(t, admin, "CREATE user.u1.old")
	if lines := said(relay); !contains(lines, "be1.rig.test!default") {
		t.Errorf("CREATE has no full location: %q", lines)
	}
	ok(t, admin, "RENAME user.u1.old user.u1.new")
	var commands []string
	lines := said(relay)
	for _, l := range lines {
		if f := strings.Fields(l); len(f) > 1 && strings.HasPrefix(f[0], "X") {
			commands = append(commands, f[1])
		}
	}
	if want := []string{"DELETE", "RESERVE", "ACTIVATE"}; !slices.Equal(commands, want) {
		t.Errorf("RENAME sends %q, want %q", commands, want)
	}
	if !contains(lines, "be1.rig.test!") || contains(lines, "be1.rig.test!default") {
		t.Errorf("RENAME does not send an empty partition: %q", lines)
	}
	if out, err := be1.Exec("ctl_mboxlist", "-m"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if lines := said(relay); !contains(lines, "ACTIVATE") || !contains(lines, "be1.rig.test!default") {
		t.Errorf("ctl_mboxlist -m does not send the full location: %q", lines)
	}
}

// With delete_mode immediate the MUPDATE server hears nothing: the name stays active there until
// ctl_mboxlist -m.
func TestImmediateDeleteIsNotTold(t *testing.T) {
	t.Parallel()
	r, relay := listened(t, Options{Backends: 1, Conf: map[string][]string{"": {"delete_mode: immediate"}}})
	be1 := r.Node("be1")
	admin := signOn(t, be1, r.Admin())
	ok(t, admin, "CREATE user.u1")
	ok(t, admin, "CREATE user.u1.gone")
	ok(t, admin, "SETACL user.u1.gone %s lrswipkxtecda", r.Admin()) // administrators have no right x of themselves
	said(relay)
	ok(t, admin, "DELETE user.u1.gone")
	if lines := said(relay); len(lines) != 0 {
		t.Errorf("DELETE in immediate mode says %q", lines)
	}
	if _, err := be1.Exec("ctl_mboxlist", "-m"); err != nil {
		t.Fatal(err)
	}
	if lines := said(relay); !contains(lines, "DELETE") {
		t.Errorf("ctl_mboxlist -m does not delete the phantom: %q", lines)
	}
}

// A mailbox that is renamed between the LIST of ctl_mboxlist -m and its turn is wiped: FIND shows it at
// the server itself, but without a partition, which is taken for elsewhere.
func TestPushWipesWhatIsRenamed(t *testing.T) {
	t.Parallel()
	r, relay := listened(t, Options{Backends: 1})
	be1 := r.Node("be1")
	admin := signOn(t, be1, r.Admin())
	ok(t, admin, "CREATE user.u1")
	ok(t, admin, "CREATE user.u1.a")
	relay.Decide(answered("LIST", once(func() { ok(t, admin, "RENAME user.u1.a user.u1.b") })))
	if out, err := be1.Exec("ctl_mboxlist", "-m"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if reply, err := signOn(t, be1, "u1").Do("SELECT INBOX.b"); err != nil || reply.Status == "OK" {
		t.Errorf("the mailbox is still there (%v): refusing FIND for names of one's own is no longer needed for it", err)
	}
}

// The MUPDATE client of Cyrus never turns compression on, whatever proxy_compress says.
func TestCyrusNeverCompresses(t *testing.T) {
	t.Parallel()
	r, relay := listened(t, Options{Backends: 1, Conf: map[string][]string{"": {"proxy_compress: yes"}}})
	ok(t, signOn(t, r.Node("be1"), r.Admin()), "CREATE user.u1")
	if lines := said(relay); contains(lines, "COMPRESS") || !contains(lines, "ACTIVATE") {
		t.Errorf("said: %q", lines)
	}
}

// Cyrus's master dies of a DELETE of a name that it does not have, with all its sessions.
func TestCyrusMasterDiesOfAnUnknownDelete(t *testing.T) {
	t.Parallel()
	r := Start(t, Options{Backends: 1, Master: true})
	m := r.Node("mupdate")
	m.ExecInput("X1 DELETE \"user.nobody\"\r\n", "mupdatetest", "-m", "PLAIN", "-a", "murder", "-u", "murder",
		"-w", r.Password(), "-p", "3905", m.Host) // its status depends on how the connection ends
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	line, err := m.WaitLog(ctx, "signaled to death by")
	if err != nil {
		t.Fatal(err)
	}
	t.Log(line)
}

// Names of other domains sort among those without one, by the octets of the domain: ctl_mboxlist
// -m walks LIST and its own database in step and would end with an error otherwise.
func TestOrderWithVirtualDomains(t *testing.T) {
	t.Parallel()
	r := Start(t, Options{Backends: 1, Master: true, Conf: map[string][]string{"": {"virtdomains: userid", "defaultdomain: rig.test"}}})
	be1 := r.Node("be1")
	admin := signOn(t, be1, r.Admin())
	for _, name := range []string{"user.u1", "user.u1@zeta.test", "user.u1@alpha.test", "zebra", "user.u1.a", "user.u1.a-b", "user.u1.a.b",
		"user.u1.a c", "user.u2@alpha.test", "user.u1.b@alpha.test"} {
		ok(t, admin, "CREATE %q", name)
	}
	for range 2 {
		if out, err := be1.Exec("ctl_mboxlist", "-m"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	inStep(t, be1)
	out, err := r.Node("mupdate").Exec("ctl_mboxlist", "-d")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range strings.Split(out, "\n") {
		if name, _, ok := strings.Cut(strings.TrimSpace(l), ": {"); ok {
			names = append(names, strings.Trim(name, `"`))
		}
	}
	want := []string{"alpha.test!user.u1", "alpha.test!user.u1.b", "alpha.test!user.u2", "user.u1", "user.u1.a", "user.u1.a.b",
		"user.u1.a c", "user.u1.a-b", "zebra", "zeta.test!user.u1"}
	if !slices.Equal(names, want) {
		t.Errorf("Cyrus's order is\n%q, want\n%q", names, want)
	}
}

// The slave compares a dump with its own list by plain octets, though both are in database order:
// a name that went while it was away can take a good name with it.
func TestSlaveLosesAGoodName(t *testing.T) {
	t.Parallel()
	r := Start(t, Options{Backends: 1, Frontends: 1, Master: true, Conf: map[string][]string{"": {"delete_mode: immediate"}}})
	be1, fe := r.Node("be1"), r.Node("fe1")
	admin := signOn(t, be1, r.Admin())
	for _, name := range []string{"user.u1", "user.u1.a", "user.u1.a.b", "user.u1.a-b"} {
		ok(t, admin, "CREATE %q", name)
	}
	names := func() []string {
		c, err := fe.IMAP(r.Admin())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		list, err := c.List("user.*")
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	eventually(t, func() error {
		if l := names(); len(l) != 4 {
			return &errNames{l}
		}
		return nil
	})
	if err := fe.Stop(); err != nil {
		t.Fatal(err)
	}
	ok(t, admin, "SETACL user.u1.a.b %s lrswipkxtecda", r.Admin())
	ok(t, admin, "DELETE user.u1.a.b")
	if out, err := be1.Exec("ctl_mboxlist", "-m"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := fe.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if l := names(); slices.Contains(l, "user.u1.a.b") {
			return &errNames{l}
		}
		return nil
	})
	if l := names(); slices.Contains(l, "user.u1.a-b") {
		t.Errorf("the slave merges rightly now (%q): repeating suspect rows after a dump is no longer needed for it", l)
	}
}

// In a unified Murder Cyrus's slave writes what it hears of its own server's mailboxes over the server's own
// entries, without their unique ids, and the mailboxes can no longer be opened. It does so whoever the master is.
// An imapd of 3.12 that tries to open one dies of it.
func TestUnifiedSlaveSpoilsItsOwnEntries(t *testing.T) {
	t.Parallel()
	r := Start(t, Options{Master: true, Unified: true, Backends: 1})
	be1 := r.Node("be1")
	ok(t, signOn(t, be1, r.Admin()), "CREATE user.u1")
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	u1 := signOn(t, be1, "u1")
	eventually(t, func() error {
		r, err := u1.Do("SELECT INBOX")
		if err == nil && r.Status == "OK" {
			return errors.New("the mailbox can be opened: unified servers may follow us now")
		}
		if err != nil && !atLeast(t, 3, 12) {
			t.Fatal(err)
		}
		if err != nil {
			_, err = be1.WaitLog(ctx, "signaled to death by signal 11")
		}
		return err
	})
	if _, err := be1.WaitLog(ctx, "mbentry has no uniqueid"); err != nil {
		t.Error(err)
	}
}

type errNames struct{ names []string }

func (e *errNames) Error() string { return "names are " + strings.Join(e.names, ", ") }
