//go:build cyrus

package cyrus

import "testing"

// Virtual domains: names of other domains carry them in front, those of the default domain do not. What is made,
// shared, renamed, moved and deleted on a backend is in the map, in an order in which ctl_mboxlist -m finds it.
func TestVirtualDomains(t *testing.T) {
	t.Parallel()
	m := newMurder(t, Options{Conf: map[string][]string{"": {"virtdomains: userid", "defaultdomain: rig.test"}}})
	m.ours(t)
	be1, be2 := m.Node("be1"), m.Node("be2")
	admin := signOn(t, be1, m.Admin())
	for _, name := range []string{"user.u1", "user.u1@alpha.test", "user.u1.a-b@alpha.test", "user.u1.a@alpha.test", "user.u1.a.b@alpha.test",
		"user.u1@zeta.test", "user.u1.sub@zeta.test", "user.u2@rig.test", "office@alpha.test", "office"} {
		ok(t, admin, "CREATE %q", name)
	}
	for _, name := range []string{"user.u1", "user.u2", "office", "alpha.test!user.u1", "alpha.test!user.u1.a.b", "alpha.test!user.u1.a-b",
		"zeta.test!user.u1", "zeta.test!user.u1.sub", "alpha.test!office"} {
		m.lives(t, name, be1)
	}
	m.push(t, be1)
	inStep(t, be1)

	ok(t, admin, "SETACL user.u1.a@alpha.test u2@alpha.test lrs")
	if row := m.lives(t, "alpha.test!user.u1.a", be1); !contains([]string{row.ACL}, "u2@alpha.test\tlrs\t") {
		t.Errorf("SETACL: %+v", row)
	}
	ok(t, admin, "RENAME user.u1.a@alpha.test user.u1.c@alpha.test")
	m.gone(t, "alpha.test!user.u1.a")
	m.lives(t, "alpha.test!user.u1.c", be1)
	m.lives(t, "alpha.test!user.u1.c.b", be1)
	m.remove(t, admin, "user.u1.sub@zeta.test")
	m.gone(t, "zeta.test!user.u1.sub")
	m.lives(t, "user.u1", be1) // the same user of another domain
	ok(t, admin, "XFER user.u1@alpha.test %s", be2.Server)
	for _, name := range []string{"alpha.test!user.u1", "alpha.test!user.u1.c", "alpha.test!user.u1.c.b", "alpha.test!user.u1.a-b"} {
		m.lives(t, name, be2)
	}
	m.lives(t, "user.u1", be1)
	m.lives(t, "zeta.test!user.u1", be1)
	m.lives(t, "alpha.test!office", be1)
	for _, n := range []*Node{be1, be2, be1} {
		m.push(t, n)
	}
}
