package bench

import (
	"fmt"
	"testing"
	"time"

	"murder/internal/mbox"
	"murder/test/harness"
	"murder/test/imapline"
	"murder/test/loopback"
)

// stubWorld is a frontend of ours, and the peers that are here, in front of a backend that costs nothing.
type stubWorld struct {
	targets []target // the first is the stub itself
}

const stubUsers = 50

// newStubWorld starts one. Its users u1 .. have their mailbox at the stub.
func newStubWorld(b *testing.B, args ...string) *stubWorld {
	b.Helper()
	n, err := loopback.Claim()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { n.Release() })
	w := &stubWorld{}
	at := n.Host(11) + ":1143"
	stub, err := startStub(at)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { stub.Process.Kill(); stub.Wait() })
	args = append([]string{"--demo-backends", "0", "--backend", "stub.test=" + n.Host(11) + ",imap=1143",
		"--set", "namespace.altnamespace=false", "--set", "namespace.unixhierarchysep=false", "--set", "imap.max_connections=50000"}, args...)
	for i := range stubUsers {
		args = append(args, "--user", fmt.Sprintf("u%d:%s", i+1, password))
	}
	cluster := harness.Start(b, harness.Options{Net: n, Coordinators: 1, Args: args})
	m, err := dialMupdate(cluster.Addr("c1", "mupdate"))
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	for i := range stubUsers {
		user := fmt.Sprintf("u%d", i+1)
		name, where := mbox.Name("user."+user), mbox.At("stub.test", "default")
		if err := m.Reserve(b.Context(), name, where); err != nil {
			b.Fatal(err)
		}
		if err := m.Activate(b.Context(), name, where, mbox.ACL(user+"\tlrswipkxtecda\t")); err != nil {
			b.Fatal(err)
		}
	}
	others, stop, err := runPeers(imapPeers, at, "* OK", func(i int) string { return n.Host(50 + i) })
	b.Cleanup(stop)
	if err != nil {
		b.Fatal(err)
	}
	w.targets = append([]target{{name: "direct", addr: at, pid: stub.Process.Pid},
		{name: "ours", addr: cluster.Addr("f1", "imap"), tls: cluster.Addr("f1", "imaps"), pid: cluster.PID("f1")}}, others...)
	return w
}

// What does each proxy cost, in processor time, for one command, when the backend costs nothing? The
// rate to direct is how far each is from not being there, with a backend that no real one reaches.
func BenchmarkIMAPCost(b *testing.B) {
	w := newStubWorld(b)
	open := func(addr string) (*imapline.Conn, error) {
		c, err := imapline.Login(addr, "u1", password)
		if err == nil {
			_, err = c.OK("SELECT INBOX")
		}
		return c, err
	}
	m := message()
	list := []imapOperation{
		{name: "login+select+logout", conns: 8, do: func(_ *imapline.Conn, addr string) error {
			c, err := open(addr)
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.OK("LOGOUT")
			return err
		}},
		{name: "NOOP", conns: 8, open: open, do: func(c *imapline.Conn, _ string) error { return c.Drain("NOOP") }},
		{name: "FETCH 2 kB", conns: 8, open: open, do: func(c *imapline.Conn, _ string) error { return c.Drain("FETCH 2048 1 4096") }},
		{name: "APPEND 2 kB", conns: 8, open: open, do: func(c *imapline.Conn, _ string) error { return c.Drain("APPEND INBOX {%d+}\r\n%s", len(m), m) }},
		{name: "FETCH 20 MB in 4 kB", conns: 1, open: open, size: 20 << 20, do: func(c *imapline.Conn, _ string) error { return c.Drain("FETCH 102400 200 4096") }},
		{name: "FETCH 20 MB at once", conns: 1, open: open, size: 20 << 20, do: func(c *imapline.Conn, _ string) error { return c.Drain("FETCH 20971520 1 1048576") }},
	}
	measureIdle(w.targets)
	rounds, span := number("MURDER_BENCH_ROUNDS", 3), time.Duration(number("MURDER_BENCH_MS", 1000))*time.Millisecond
	fmt.Printf("# backend without cost, %d rounds of %v for each, %s; ours is process %d\n", rounds, span, load1(), w.targets[1].pid)
	for b.Loop() {
		for _, op := range list {
			comparison(op, w.targets, rounds, span).print(op.title(), op.size, w.targets)
		}
	}
	fmt.Printf("# %s at the end\n", load1())
}
