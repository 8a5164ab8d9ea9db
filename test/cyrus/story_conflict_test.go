//go:build cyrus

package cyrus

import (
	"context"
	"fmt"
	"strings"
	"testing"

	operator "murder/cluster/admin"
	"murder/test/mupdateline"
)

// One name on two backends. The second to CREATE it is refused and keeps nothing.
func TestSecondCreateIsRefused(t *testing.T) {
	t.Parallel()
	m := newMurder(t, Options{})
	be1, be2 := m.Node("be1"), m.Node("be2")
	ok(t, signOn(t, be1, m.Admin()), "CREATE user.u1")
	admin2 := signOn(t, be2, m.Admin())
	refusedCreate(t, be2, "user.u1")
	m.lives(t, "user.u1", be1)
	if names, err := admin2.List("user.*"); err != nil || len(names) != 0 {
		t.Errorf("be2 kept %q (%v)", names, err)
	}
	// A rename onto the name is refused as well, and the old name comes back.
	ok(t, admin2, "CREATE user.u2")
	refused(t, admin2, "RENAME user.u2 user.u1")
	m.lives(t, "user.u1", be1)
	m.lives(t, "user.u2", be2)
}

// M2. Two backends hold one name because one of them was cut off while it was made. At the first contact,
// the ctl_mboxlist -m of its start, nobody knows of the conflict yet: the second neither takes the
// name over nor destroys its own copy. It says what is wrong, and an operator decides.
func TestTwoHoldersOfOneName(t *testing.T) {
	t.Parallel()
	m := newMurder(t, Options{})
	m.ours(t)
	be1, be2 := m.Node("be1"), m.Node("be2")
	// be2 makes the mailbox while it belongs to no Murder.
	if err := be2.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := be2.SetMupdate(""); err != nil {
		t.Fatal(err)
	}
	if err := be2.Start(); err != nil {
		t.Fatal(err)
	}
	ok(t, signOn(t, be2, m.Admin()), "CREATE user.u1")
	u1 := signOn(t, be2, "u1")
	if err := u1.Append("INBOX", "Subject: precious\r\n\r\nhello\r\n"); err != nil {
		t.Fatal(err)
	}
	u1.Close()
	if err := be2.Stop(); err != nil {
		t.Fatal(err)
	}
	ok(t, signOn(t, be1, m.Admin()), "CREATE user.u1")
	if err := be2.SetMupdate(m.rigMupdate()); err != nil {
		t.Fatal(err)
	}
	if err := be2.Start(); err != nil {
		t.Fatal(err)
	}
	m.lives(t, "user.u1", be1)
	holds(t, be2, "u1", 1)
	if log := m.cluster.Logs(1000); !strings.Contains(log, "a backend has a mailbox that is held by another") || !strings.Contains(log, "backend="+be2.Server) {
		t.Error("no coordinator says that be2 has a mailbox of be1's")
	}

	// What the administrator of be2 sees by hand, before and after.
	out, err := be2.Exec("ctl_mboxlist", "-m", "-w")
	if err != nil || strings.TrimSpace(out) != "Force Activate: user.u1" {
		t.Errorf("ctl_mboxlist -mw on be2: %v\n%s", err, out)
	}
	out, err = be2.Exec("ctl_mboxlist", "-m")
	if err != nil || !strings.Contains(out, "user.u1") {
		t.Errorf("ctl_mboxlist -m on be2: %v\n%s", err, out)
	}
	if r := refused(t, signOn(t, be2, m.Admin()), "SETACL user.u1 u3 lrs"); !strings.Contains(r.Text, "mupdate operation failed") {
		t.Errorf("SETACL on be2 is answered %q", r.Text)
	}
	// Cyrus keeps our words to itself unless it logs for debugging; the coordinators' log has them.
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := be2.WaitLog(ctx, "can't update mailbox entry for 'user.u1'"); err != nil {
		t.Error(err)
	}
	m.lives(t, "user.u1", be1)
	holds(t, be2, "u1", 1)
	holds(t, be1, "u1", 0)
	var conflicts []operator.Conflict
	if err := m.cluster.MurderctlJSON(t.Context(), "c1", &conflicts, "mailbox", "conflicts"); err != nil {
		t.Error(err)
	}
	if len(conflicts) != 1 || conflicts[0].Name != "user.u1" || conflicts[0].Holder != be1.Server || conflicts[0].Claimant != be2.Server {
		t.Errorf("murderctl mailbox conflicts: %+v", conflicts)
	}

	// ctl_mboxlist -ma, which asks for nothing and takes all, takes only what is free.
	ok(t, signOn(t, be2, m.Admin()), "CREATE user.u2")
	out, err = be2.Exec("ctl_mboxlist", "-m", "-a")
	t.Logf("ctl_mboxlist -ma: %v %s", err, out)
	m.lives(t, "user.u1", be1)
	m.lives(t, "user.u2", be2)
	holds(t, be2, "u1", 1)

	// The operator decides for the copy with the mail in it. be1 then puts its own away, and says so
	// in its next push.
	m.doctor(t, "user.u1", "conflict")
	m.repair(t, "resolve", "user.u1", "--holder", be2.Server)
	m.lives(t, "user.u1", be2)
	m.push(t, be2)
	m.push(t, be1)
	m.push(t, be1)
	if names, err := signOn(t, be1, m.Admin()).List("user.u1"); err != nil || len(names) != 0 {
		t.Errorf("be1 still has %q (%v)", names, err)
	}
	m.arrives(t, "u1", "decided")
	holds(t, be2, "u1", 2)
	ok(t, signOn(t, be2, m.Admin()), "SETACL user.u1 u3 lrs")
	if err := m.ctl(&conflicts, "mailbox", "conflicts"); err != nil || len(conflicts) != 0 {
		t.Errorf("after the decision: %+v %v", conflicts, err)
	}
}

// The planned failover of a backend: its replica, under another name, takes its mailboxes over by
// ctl_mboxlist -ma, because its login may.
func TestTakeover(t *testing.T) {
	t.Parallel()
	m := newMurder(t, Options{NoPush: true}, "--set", "mupdate.identities.murder.takeover=true")
	m.ours(t)
	be1, be2 := m.Node("be1"), m.Node("be2")
	ok(t, signOn(t, be1, m.Admin()), "CREATE user.u1")
	if err := be2.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := be2.SetMupdate(""); err != nil { // the replica belongs to no Murder while it is filled
		t.Fatal(err)
	}
	if err := be2.Start(); err != nil {
		t.Fatal(err)
	}
	ok(t, signOn(t, be2, m.Admin()), "CREATE user.u1")
	if err := be2.SetMupdate(m.rigMupdate()); err != nil {
		t.Fatal(err)
	}
	if err := be2.Restart(); err != nil {
		t.Fatal(err)
	}
	m.lives(t, "user.u1", be1)
	be1.Kill()
	if out, err := be2.Exec("ctl_mboxlist", "-m", "-a"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	m.lives(t, "user.u1", be2)
	m.history(t, "user.u1", "takeover")
	eventually(t, func() error {
		if r := m.deliver(t, "u1", "after the failover"); r.Code != 250 {
			return fmt.Errorf("mail for u1: %s", r)
		}
		return nil
	})
	holds(t, be2, "u1", 1)
}

// An identity that is bound to one server cannot touch what another one holds.
func TestBoundIdentity(t *testing.T) {
	t.Parallel()
	m := newMurder(t, Options{}, "--mupdate-backend", "only2:labpass=be2.rig.test", "--mupdate-reader", "reader:labpass")
	m.ours(t)
	be1 := m.Node("be1")
	ok(t, signOn(t, be1, m.Admin()), "CREATE user.u1")
	for identity, commands := range map[string][][]string{
		"only2": {
			{"ACTIVATE", "user.u1", "be2.rig.test!default", "u1\tlrs\t"},
			{"RESERVE", "user.u1", "be2.rig.test!default"},
			{"DEACTIVATE", "user.u1", "be2.rig.test!default"},
			{"DELETE", "user.u1"},
			{"ACTIVATE", "user.u5", "be1.rig.test!default", "u5\tlrs\t"},
		},
		"reader": {
			{"ACTIVATE", "user.u5", "be1.rig.test!default", "u5\tlrs\t"},
			{"DELETE", "user.u1"},
		},
	} {
		for _, addr := range m.nodes {
			c, err := mupdateline.Login(addr, identity, "labpass")
			if err != nil {
				t.Fatalf("%s at %s: %v", identity, addr, err)
			}
			for _, cmd := range commands {
				if _, err := c.Do(cmd[0], cmd[1:]...); err == nil || !strings.Contains(err.Error(), cmd[0]) {
					t.Errorf("%s at %s: %q is answered %v", identity, addr, cmd, err)
				}
			}
			c.Close()
		}
	}
	m.lives(t, "user.u1", be1)
	m.gone(t, "user.u5")
}
