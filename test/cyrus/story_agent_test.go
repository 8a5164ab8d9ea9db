//go:build cyrus

package cyrus

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// An agent beside a backend: the backend's mupdate_server is on its own host, and the loss of any
// coordinator, the leader too, is the agent's to survive. All of the backend's commands go on.
func TestAgentBesideABackend(t *testing.T) {
	t.Parallel()
	m := newMurder(t, Options{Backends: 1})
	c := m.ours(t)
	be1 := m.Node("be1")
	host := m.options.Net.Host(81)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.Join(ctx, "a1", "agent", host, fmt.Sprintf("[mupdate]\nlisten = [\"%s:3905\"]\n"+
		"[mupdate.identities.murder]\nrole = \"backend\"\nservers = [%q]\npassword = %q\n"+
		"[mupdate.identities.cyrus]\nrole = \"admin\"\npassword = %q\n", host, be1.Server, m.Password(), m.Password())); err != nil {
		t.Fatal(err)
	}
	m.nodes = append(m.nodes, host+":3905")
	if err := be1.SetMupdate(host + ":3905"); err != nil {
		t.Fatal(err)
	}
	if err := be1.Restart(); err != nil {
		t.Fatal(err)
	}
	admin := signOn(t, be1, m.Admin())
	ok(t, admin, "CREATE user.u1")
	m.lives(t, "user.u1", be1)
	nodes := m.nodes
	for i, id := range c.Coordinators() {
		if err := c.Kill(id); err != nil {
			t.Fatal(err)
		}
		m.nodes = nil
		for _, addr := range nodes {
			if addr != c.Addr(id, "mupdate") {
				m.nodes = append(m.nodes, addr)
			}
		}
		// Not even the first command after the loss is refused.
		name := fmt.Sprintf("user.u1.f%d", i)
		began := time.Now()
		ok(t, admin, "CREATE %s", name)
		t.Logf("without %s: the first CREATE took %s", id, time.Since(began).Round(time.Millisecond))
		ok(t, admin, "SETACL %s u2 lrs", name)
		ok(t, admin, "RENAME %s %s-renamed", name, name)
		m.gone(t, name)
		m.lives(t, name+"-renamed", be1)
		if err := c.Start(id); err != nil {
			t.Fatal(err)
		}
		m.nodes = nodes
	}
	// The backend restarts beside its agent while the leader is away.
	leader := leaderOf(t, c)
	if err := c.Kill(leader); err != nil {
		t.Fatal(err)
	}
	if err := be1.Restart(); err != nil {
		t.Error(err)
	}
	if err := c.Start(leader); err != nil {
		t.Fatal(err)
	}
	// And the agent itself comes back with its copy.
	if err := c.Kill("a1"); err != nil {
		t.Fatal(err)
	}
	if err := c.Start("a1"); err != nil {
		t.Fatal(err)
	}
	m.lives(t, "user.u1", be1)
	m.push(t, be1)
}
