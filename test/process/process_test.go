// Package process tells what whole clusters of real murderd processes do when some of them end,
// with backends of our own. It needs Go only.
package process

import (
	"net"
	"strings"
	"testing"
	"time"

	"murder/test/harness"
	"murder/test/ledger"
)

const (
	admin, password = "cyrus", "labpass"
	// patience bounds how long a cluster may take to go on after a loss.
	patience = 30 * time.Second
	writers  = 4
)

func TestMain(m *testing.M) { harness.Main(m) }

// The tour that newcomers are shown keeps every promise that it makes.
func TestTour(t *testing.T) {
	if err := harness.Tour(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// Each node in turn is killed and started again while writes go on; none that was acknowledged is
// lost, and every copy ends the same.
func TestKillEveryNode(t *testing.T) {
	c := harness.Start(t, harness.Options{})
	l := ledger.Start(writers, c.Addrs("mupdate"), admin, password)
	defer l.Stop()
	goOn(t, l, 20)
	for _, id := range c.Nodes() {
		if err := c.Kill(id); err != nil {
			t.Fatal(err)
		}
		goOn(t, l, 20)
		if err := c.Start(id); err != nil {
			t.Fatal(err)
		}
		goOn(t, l, 20)
	}
	settle(t, c, l)
}

// A node whose configuration cannot be used ends and says why, and who waits for it to join hears that at once.
func TestJoinOfANodeThatEnds(t *testing.T) {
	c := harness.Start(t, harness.Options{Coordinators: 1})
	host, _, err := net.SplitHostPort(c.Addr("f1", "http"))
	if err != nil {
		t.Fatal(err)
	}
	err = c.Join(t.Context(), "f9", "frontend", host, "")
	if err == nil || !strings.Contains(err.Error(), "has ended") || !strings.Contains(err.Error(), "users.file") {
		t.Errorf("joined: %v", err)
	}
}

// All nodes are killed at once, as by a loss of power, and started again.
func TestKillAllNodes(t *testing.T) {
	c := harness.Start(t, harness.Options{})
	l := ledger.Start(writers, c.Addrs("mupdate"), admin, password)
	defer l.Stop()
	goOn(t, l, 50)
	for _, id := range c.Nodes() {
		if err := c.Kill(id); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.StartAll(c.Nodes()); err != nil {
		t.Fatal(err)
	}
	goOn(t, l, 20)
	settle(t, c, l)
}

// The leader stops without ending, as a machine that swaps or a virtual machine that is moved. The
// others go on; when it wakes it answers nothing from its old copy.
func TestPausedLeader(t *testing.T) {
	c := harness.Start(t, harness.Options{})
	leader, err := c.Leader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l := ledger.Start(writers, c.Addrs("mupdate"), admin, password)
	defer l.Stop()
	goOn(t, l, 20)
	if err := c.Pause(leader); err != nil {
		t.Fatal(err)
	}
	goOn(t, l, 50)
	if err := c.Resume(leader); err != nil {
		t.Fatal(err)
	}
	goOn(t, l, 50)
	l.Stop()
	// LIST is no older than its arrival, also on the node that slept.
	if err := l.Check(t.Context(), c.Addr(leader, "mupdate")); err != nil {
		t.Error(err)
	}
	settle(t, c, l)
}

// goOn waits for writes.
func goOn(t *testing.T, l *ledger.Ledger, writes int) {
	t.Helper()
	l.GoOn(t, writes, patience)
}

// settle ends the writers and compares every node with what they were promised, and with each other.
func settle(t *testing.T, c *harness.Cluster, l *ledger.Ledger) {
	t.Helper()
	l.Stop()
	acked, unknown, gap := l.Summary()
	t.Logf("%d writes acknowledged, %d without an answer, longest pause %s", acked, unknown, gap.Round(time.Millisecond))
	for _, addr := range c.Addrs("mupdate") {
		if err := l.Check(t.Context(), addr); err != nil {
			t.Error(err)
		}
	}
	c.AwaitEqual(t)
}
