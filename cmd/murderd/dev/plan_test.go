package dev

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"murder/internal/config"
)

func options(t *testing.T) Options {
	t.Helper()
	return Options{
		Program: "murderd", Dir: t.TempDir(), Out: io.Discard, Coordinators: 3, Frontends: 1, DemoBackends: 2, Net: "127.91.9",
		Admins: []Account{{"cyrus", "pw"}}, Proxy: Account{"murder", "pw"}, Users: []Account{{"u1", "pw"}},
		MUPDATEBackends: []Bound{{Account{"only1", "pw"}, []string{"be1"}}}, MUPDATEReaders: []Account{{"reader", "pw"}},
	}
}

func TestParseBackend(t *testing.T) {
	got, err := ParseBackend("be1.example.org=10.0.0.1,imap=1143,sieve=4191")
	want := Backend{Name: "be1.example.org", Host: "10.0.0.1", IMAP: 1143, LMTP: 2003, POP3: 110, Sieve: 4191}
	if err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	for _, bad := range []string{"", "be1", "=h", "be1=", "be1=h,imap", "be1=h,imap=0", "be1=h,ftp=21"} {
		if _, err := ParseBackend(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

// Every node's file can be read by murderd, and says what the flags said.
func TestConfigurations(t *testing.T) {
	o := options(t)
	o.Set = []string{"cluster.timing=wan", "c2/log.level=debug"}
	p, err := newPlan(&o)
	if err != nil {
		t.Fatal(err)
	}
	if p.remove {
		defer os.RemoveAll(p.sockets)
	}
	if err := p.write(); err != nil {
		t.Fatal(err)
	}
	for _, n := range p.nodes {
		if n.role == "" {
			continue
		}
		c, err := config.Load(n.config)
		if err != nil {
			t.Fatal(err)
		}
		if c.Cluster.Timing != "wan" || (c.Log.Level == "debug") != (n.id == "c2") {
			t.Errorf("%s: timing %s, level %s", n.id, c.Cluster.Timing, c.Log.Level)
		}
		if id := c.MUPDATE.Identities["only1"]; id.Role != "backend" || !cmp.Equal(id.Servers, []string{"be1"}) {
			t.Errorf("%s: only1 is %+v", n.id, id)
		}
		if b := c.Backends.Servers["b2"]; b.Host != "127.91.9.42" && b.Host != "127.0.0.1" {
			t.Errorf("%s: b2 is %+v", n.id, b)
		}
	}
	env := string(p.shell(map[string]int{"c1": 7, "f1": 8}))
	for _, want := range []string{"C1_PID='7'\n", "C1_MUPDATE='", "C1_HTTP='", "C1_CONFIG='" + filepath.Join(o.Dir, "c1", "murderd.toml"), "C1_ADMIN='",
		"F1_PID='8'\n", "F1_IMAP='", "F1_IMAPS='", "F1_LMTP='", "F1_POP3='", "F1_SIEVE='", "F1_SOCKETMAP='", "B2_LMTP='"} {
		if !strings.Contains(env, want) {
			t.Errorf("env has no %s in\n%s", want, env)
		}
	}
}

// With one loopback address every listener still gets a port of its own.
func TestOneAddress(t *testing.T) {
	a := &addresses{single: true}
	var services []string
	for s := range ports {
		services = append(services, s)
	}
	seen := map[string]string{}
	for i := range 3 * maxNodes {
		for s, addr := range a.next(i, services) {
			if old, taken := seen[addr]; taken {
				t.Fatalf("%s is both %s and %s", addr, old, s)
			}
			seen[addr] = s
		}
	}
}
