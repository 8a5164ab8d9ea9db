// Package upgrade takes a cluster of real processes from one version of murderd to the next and back,
// under writes.
//
// The version before is built from this tree with the tag "previous": it takes part in cluster versions up
// to the one before the newest, knows no command of the newest, and ends when it meets one.
package upgrade

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"murder/cluster/admin"
	"murder/fsm"
	"murder/test/harness"
	"murder/test/ledger"
)

const (
	older, newer = "1.0.0-test", "2.0.0-test"
	user, pass   = "cyrus", "labpass"
	writers      = 4
	patience     = 30 * time.Second
	// retryBudget is how long a node tries to get a write through before it refuses it.
	retryBudget = 10 * time.Second
	tooOld      = 78 // exit code
	trailing    = 16 // entries that stay in the log behind a snapshot
)

// programs are the directories of both versions.
type programs struct{ older, newer string }

func build(t *testing.T) programs {
	return programs{older: harness.Build(t, older, "previous"), newer: harness.Build(t, newer)}
}

// start starts a cluster of the version before. Snapshots are taken all the time and hardly any log is
// kept, so that a node that was away gets its copy from a snapshot of whoever leads.
func (p programs) start(t *testing.T) *harness.Cluster {
	return harness.Start(t, harness.Options{Bin: p.older, Args: []string{"--demo-backends", "0",
		"--set", "cluster.auto_finalize=never", "--set", "log.level=debug", "--set", "cluster.snapshot_interval=200ms",
		"--set", "cluster.snapshot_threshold=32", "--set", fmt.Sprint("cluster.trailing_logs=", trailing)}})
}

// orders are all of the three voters, with the learner in between.
var orders = []string{"c1 f1 c2 c3", "c1 c3 f1 c2", "f1 c2 c1 c3", "c2 c3 c1 f1", "c3 c1 f1 c2", "c3 f1 c2 c1"}

// The nodes are upgraded in one order and taken back in the next, under writes. In every state on the way,
// from one node of the new version to all, one of them is killed: in turn each, and the leader. A short run
// goes through every order once, three times up and three times down; a long one both ways.
func TestEveryOrder(t *testing.T) {
	p := build(t)
	c := p.start(t)
	l := ledger.Start(writers, c.Addrs("mupdate"), user, pass)
	defer l.Stop()
	goOn(t, l, 50)
	rounds := orders
	if os.Getenv("MURDER_CHAOS") != "" { // each that went up goes down, and the other way round
		rounds = append(append(append([]string{}, orders...), orders[1:]...), orders[0])
	}
	var crossed [2]int // snapshots that a first node of the new version got from the old ones, and the reverse
	for round, order := range rounds {
		ids, bin, version := strings.Fields(order), p.newer, newer
		if round%2 == 1 {
			bin, version = p.older, older
		}
		for state, id := range ids {
			if err := c.Stop(id); err != nil {
				t.Fatal(err)
			}
			goOn(t, l, 40)
			if state == 0 {
				forget(t, c, l)
			}
			installed := installs(c, id)
			c.Use(id, bin)
			if err := c.Start(id); err != nil {
				t.Fatal(err)
			}
			await(t, c, id, version)
			if state == 0 { // all others are of the other version
				crossed[round%2] += installs(c, id) - installed
			}
			victim := ids[(round+state)%len(ids)]
			if state == 1 {
				victim = leaderOf(t, c)
			}
			if err := c.Kill(victim); err != nil {
				t.Fatal(err)
			}
			goOn(t, l, 20)
			if err := c.Start(victim); err != nil {
				t.Fatal(err)
			}
			whole(t, c)
			if state == 1 { // two of each version
				mustRefuse(t, c)
			}
		}
		c.AwaitEqual(t)
	}
	if s := status(t, c); s.Version != fsm.MaxVersion-1 {
		t.Errorf("cluster version %d although nobody has raised it", s.Version)
	}
	settle(t, c, l)
	t.Logf("%d snapshots went from the old version to the new, %d from the new to the old", crossed[0], crossed[1])
	if crossed[0] == 0 || crossed[1] == 0 {
		t.Error("in one direction no snapshot was tried")
	}
}

// forget writes until the leader has dropped from its log what a node lacks that has just stopped.
func forget(t *testing.T, c *harness.Cluster, l *ledger.Ledger) {
	t.Helper()
	at := func() (last, snapshot uint64) {
		leader := leaderOf(t, c)
		m, err := c.Metrics(t.Context(), leader)
		if err != nil {
			t.Fatal(err)
		}
		return uint64(m["murder_last_index"]), uint64(m["murder_snapshot_index"])
	}
	last, _ := at()
	for end := time.Now().Add(patience); time.Now().Before(end); goOn(t, l, 10) {
		if _, snapshot := at(); snapshot > last+2*trailing {
			return
		}
	}
	t.Fatal("no snapshot was taken")
}

// installs counts the snapshots that a node has got from a leader.
func installs(c *harness.Cluster, id string) int {
	data, _ := os.ReadFile(filepath.Join(c.Dir, id+".out"))
	return strings.Count(string(data), "Installed remote snapshot")
}

func leaderOf(t *testing.T, c *harness.Cluster) string {
	t.Helper()
	id, err := c.Leader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// whole waits until every node follows closely again: the next loss must not be one too many.
func whole(t *testing.T, c *harness.Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := c.AwaitWhole(ctx); err != nil {
		t.Fatal(err)
	}
}

// One command upgrades everything. It stops when a node does not come back, and goes on when it is given
// again. After the end is declared, the version before cannot take part any more.
func TestCommand(t *testing.T) {
	p := build(t)
	c := p.start(t)
	l := ledger.Start(writers, c.Addrs("mupdate"), user, pass)
	defer l.Stop()
	goOn(t, l, 20)

	var shown struct {
		To    string
		Waves []struct {
			Kind  string
			Nodes []string
		}
	}
	leader := leaderOf(t, c)
	if err := json.Unmarshal(murderctl(t, p, c, "cluster", "upgrade", "--plan", "-o", "json"), &shown); err != nil {
		t.Fatal(err)
	}
	if w := shown.Waves; shown.To != newer || len(w) != 4 || w[0].Kind != "learners" || w[0].Nodes[0] != "f1" || w[3].Kind != "leader" || w[3].Nodes[0] != leader {
		t.Errorf("plan: %+v", shown)
	}

	// The second node does not come back from the restart.
	o := newOperator(t, p, c)
	o.fail = 2
	if err := o.upgrade(t); err == nil || !strings.Contains(o.last, "stops here") {
		t.Fatalf("the failure was not seen: %v, %s", err, o.last)
	}
	if len(o.restarted) != 2 {
		t.Fatalf("it went on: %v", o.restarted)
	}
	goOn(t, l, 20)
	broken := o.restarted[1]
	if err := c.Start(broken); err != nil { // with the version before: this node's turn comes again
		t.Fatal(err)
	}
	o.fail = 0
	if err := o.upgrade(t, "--finalize"); err != nil {
		t.Fatalf("%v: %s", err, o.last)
	}
	if len(o.restarted) != 5 || o.restarted[2] != broken {
		t.Errorf("restarted %v", o.restarted)
	}
	if s := status(t, c); s.Version != fsm.MaxVersion || s.VersionPossible != fsm.MaxVersion {
		t.Errorf("cluster version: %+v", s)
	}
	goOn(t, l, 20)

	// Now the new command is used, and who does not know it cannot come back.
	client, err := c.Admin("c1")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	promote := func(ctx context.Context, node string) error { return client.Promote(ctx, node, false) }
	for _, change := range []func(context.Context, string) error{client.Demote, promote} {
		var err error
		for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			if err = change(t.Context(), "c2"); err == nil {
				break // before that it leads, or has not caught up
			}
			client.Transfer(t.Context(), "c1")
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []string{broken, "f1"} {
		if err := c.Stop(id); err != nil {
			t.Fatal(err)
		}
		c.Use(id, p.older)
		if err := c.Launch(id); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		code, err := c.Ended(ctx, id)
		cancel()
		if err != nil || code != tooOld {
			t.Errorf("%s with the version before: exit %d, %v", id, code, err)
		}
		c.Use(id, p.newer)
		if err := c.Start(id); err != nil {
			t.Fatal(err)
		}
	}
	if out := c.Logs(1 << 20); !strings.Contains(out, "install that version or a newer one") {
		t.Error("nobody says what to do")
	}
	settle(t, c, l)
}

// operator is who restarts the nodes: --exec leaves a file, and the test does the work.
type operator struct {
	p         programs
	c         *harness.Cluster
	dir       string
	fail      int // this restart of a run does not succeed
	restarted []string
	last      string // what the command said last
}

func newOperator(t *testing.T, p programs, c *harness.Cluster) *operator {
	return &operator{p: p, c: c, dir: t.TempDir()}
}

func (o *operator) upgrade(t *testing.T, args ...string) error {
	t.Helper()
	asked, answer := filepath.Join(o.dir, "asked"), filepath.Join(o.dir, "answer")
	for _, path := range []string{asked, answer} {
		os.Remove(path)
		if out, err := exec.Command("mkfifo", path).CombinedOutput(); err != nil {
			t.Skipf("no fifos here: %s", out)
		}
	}
	args = append([]string{"--addr", o.c.Env("C1_ADMIN"), "cluster", "upgrade", "--stable", "1s", "-o", "json",
		"--exec", fmt.Sprintf("echo {node} >%s; exit $(cat %s)", asked, answer)}, args...)
	cmd := exec.CommandContext(t.Context(), filepath.Join(o.p.newer, "murderctl"), args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	var problem strings.Builder
	cmd.Stderr = &problem
	if err := cmd.Start(); err != nil {
		return err
	}
	turn := 0
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var e struct{ Node, Step, Detail string }
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return fmt.Errorf("progress %q: %w", lines.Text(), err)
		}
		t.Logf("%-3s %-9s %s", e.Node, e.Step, e.Detail)
		if e.Step != "exec" {
			continue
		}
		turn++
		if _, err := os.ReadFile(asked); err != nil {
			return err
		}
		code := "0"
		o.restarted = append(o.restarted, e.Node)
		if err := o.c.Stop(e.Node); err != nil {
			return err
		}
		if turn == o.fail {
			code = "1"
		} else {
			o.c.Use(e.Node, o.p.newer)
			if err := o.c.Launch(e.Node); err != nil {
				return err
			}
		}
		if err := os.WriteFile(answer, []byte(code+"\n"), 0); err != nil {
			return err
		}
	}
	err = cmd.Wait()
	o.last = problem.String()
	return err
}

func murderctl(t *testing.T, p programs, c *harness.Cluster, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(p.newer, "murderctl"), append([]string{"--addr", c.Env("C1_ADMIN")}, args...)...)
	out, err := cmd.Output()
	if err != nil {
		var failed *exec.ExitError
		errors.As(err, &failed)
		t.Fatalf("murderctl %v: %v: %s", args, err, failed.Stderr)
	}
	return out
}

// mustRefuse asks for the end of the upgrade while some nodes are of the version before.
func mustRefuse(t *testing.T, c *harness.Cluster) {
	t.Helper()
	client, err := c.Admin("c1")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := client.Finalize(ctx); err == nil || !strings.Contains(err.Error(), older) {
		t.Errorf("finalized with nodes of both versions: %v", err)
	}
}

func status(t *testing.T, c *harness.Cluster) admin.Status {
	t.Helper()
	s, err := c.Status(t.Context(), "c1")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// await waits until the registry knows a node in its new version, as the next stop must not take the
// quorum.
func await(t *testing.T, c *harness.Cluster, id, version string) {
	t.Helper()
	var s admin.Status
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		s = status(t, c)
		for _, n := range s.Nodes {
			if n.ID == id && n.Version == version && n.State == "active" && s.VotersUp == s.Voters && s.Leader != "" {
				return
			}
		}
	}
	t.Fatalf("%s does not come up with version %s: %+v", id, version, s)
}

func goOn(t *testing.T, l *ledger.Ledger, writes int) {
	t.Helper()
	l.GoOn(t, writes, patience)
}

// settle ends the writers: nothing that was acknowledged is lost, all copies are equal, and at no time
// were writes refused.
func settle(t *testing.T, c *harness.Cluster, l *ledger.Ledger) {
	t.Helper()
	l.Stop()
	acked, unknown, gap := l.Summary()
	t.Logf("%d writes acknowledged, %d without an answer, longest pause %s", acked, unknown, gap.Round(time.Millisecond))
	if gap > retryBudget {
		t.Errorf("no write for %s", gap)
	}
	refused, first, slowest := l.Refused()
	if refused > 0 {
		t.Errorf("%d writes were refused, the first: %s", refused, first)
	}
	if slowest > retryBudget {
		t.Errorf("one write took %s", slowest)
	}
	for _, addr := range c.Addrs("mupdate") {
		if err := l.Check(t.Context(), addr); err != nil {
			t.Error(err)
		}
	}
	c.AwaitEqual(t)
}
