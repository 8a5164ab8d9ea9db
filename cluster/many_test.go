//go:build unix

package cluster

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"murder/cluster/admin"
	"murder/internal/mbox"
)

// learnersVar makes this test program a host of learners: "COUNT TOKEN".
const learnersVar = "MURDER_TEST_LEARNERS"

func init() {
	if order := os.Getenv(learnersVar); order != "" {
		if err := hostLearners(order, os.Stdin, os.Stdout); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// hostLearners runs learners until its input ends. For each index that it reads, it says "done" when all of
// them have come as far and have answered a linearizable read.
func hostLearners(order string, in io.Reader, out io.Writer) error {
	number, token, _ := strings.Cut(order, " ")
	count, err := strconv.Atoi(number)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "learners")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	nodes := make([]*Node, count)
	each := func(f func(ctx context.Context, i int) error) error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		errs := make(chan error, count)
		for i := range nodes {
			go func() { errs <- f(ctx, i) }()
		}
		var failed error
		for range nodes {
			if err := <-errs; err != nil {
				failed = err
			}
		}
		return failed
	}
	err = each(func(ctx context.Context, i int) (err error) {
		id := fmt.Sprint("f", i+1)
		nodes[i], err = Open(Config{NodeID: id, DataDir: dir + "/" + id, Role: Frontend, Listen: "127.0.0.1:0",
			Logger: slog.New(slog.DiscardHandler), BinaryVersion: "test"})
		if err == nil {
			err = nodes[i].Join(ctx, token)
		}
		return err
	})
	lines := bufio.NewScanner(in)
	for err == nil {
		fmt.Fprintln(out, "done")
		if !lines.Scan() {
			break
		}
		var index uint64
		if index, err = strconv.ParseUint(lines.Text(), 10, 64); err != nil {
			break
		}
		err = each(func(ctx context.Context, i int) error {
			if err := nodes[i].replica.wait(ctx, index); err != nil {
				return fmt.Errorf("f%d does not follow: %w", i+1, err)
			}
			_, err := nodes[i].Barrier(ctx)
			return err
		})
	}
	for _, n := range nodes {
		if n != nil {
			n.kill()
		}
	}
	return err
}

// crew is learners in a process of their own, so that what this process uses is the leader's cost.
type crew struct {
	tell io.WriteCloser
	said *bufio.Reader
	cmd  *exec.Cmd
}

// startCrew lets a leader that is alone feed so many learners.
func startCrew(t testing.TB, l *Node, count int) *crew {
	t.Helper()
	tok, err := l.CreateToken(testContext(t), admin.TokenRequest{Role: string(Frontend), Uses: count})
	if err != nil {
		t.Fatal(err)
	}
	c := &crew{cmd: exec.Command(os.Args[0])}
	c.cmd.Env = append(os.Environ(), fmt.Sprint(learnersVar, "=", count, " ", tok.Token))
	c.cmd.Stderr = os.Stderr
	out, err := c.cmd.StdoutPipe()
	if err == nil {
		c.tell, err = c.cmd.StdinPipe()
	}
	if err == nil {
		err = c.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	c.said = bufio.NewReader(out)
	t.Cleanup(func() {
		c.tell.Close()
		io.Copy(io.Discard, c.said)
		c.cmd.Wait()
	})
	c.done(t)
	return c
}

func (c *crew) done(t testing.TB) {
	t.Helper()
	if line, err := c.said.ReadString('\n'); line != "done\n" {
		t.Fatalf("learners: %q, %v", line, err)
	}
}

// follow waits until all learners have come as far as the leader.
func (c *crew) follow(t testing.TB, l *Node) {
	t.Helper()
	fmt.Fprintln(c.tell, l.State().Index())
	c.done(t)
}

// Fifty learners follow one leader, and all their copies are equal. What they cost the leader is in the log;
// no other test runs beside this one.
func TestManyLearners(t *testing.T) {
	const learners = 50
	r := startRig(t, 1, 0)
	l := r.nodes["c1"]
	c := startCrew(t, l, learners)
	for i := range 20 {
		write(t, l, activate(fmt.Sprint("user.many", i)))
	}
	c.follow(t, l)
	r.equalDigests()
	s := l.Status(testContext(t))
	if len(s.Nodes) != learners+1 || s.Problem != "" {
		t.Errorf("%d nodes, problem %q", len(s.Nodes), s.Problem)
	}
	for _, load := range feedLoads {
		t.Logf("%d learners, %s: the leader uses %.1f %% of a core", learners, load.name, load.cost(t, l, time.Second))
	}
	c.follow(t, l)
	r.equalDigests()
}

// What does it cost the leader, in percent of a core, that learners follow it: while nothing happens, at 200
// lone writes a second, and at 20 entries a second of 100 writes? The line of no learners is what the writes
// cost by themselves. Decides how many may be fed by raft.
func BenchmarkLearners(b *testing.B) {
	for _, learners := range []int{0, 10, 50, 100} {
		for _, load := range feedLoads {
			b.Run(fmt.Sprintf("learners=%d/%s", learners, load.name), func(b *testing.B) {
				r := newRig(b)
				r.configure = func(c *Config) { c.Timing = "lan" }
				r.grow(1, 0)
				l := r.nodes["c1"]
				if learners > 0 {
					startCrew(b, l, learners).follow(b, l)
				}
				b.ResetTimer()
				percent := load.cost(b, l, time.Duration(b.N)*time.Second)
				b.ReportMetric(percent, "%core")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

// feedLoad is so many entries a second of so many writes each.
type feedLoad struct {
	name          string
	entries, size int
}

var feedLoads = []feedLoad{{"idle", 0, 0}, {"writes=200x1", 200, 1}, {"writes=20x100", 20, 100}}

// cost puts the load on a leader for a while and returns the percentage of a core that this process uses.
func (f feedLoad) cost(t testing.TB, l *Node, d time.Duration) float64 {
	used, begun := processorTime(), time.Now()
	var wg sync.WaitGroup
	for i := 0; f.entries > 0; i++ {
		at := time.Duration(i) * time.Second / time.Duration(f.entries)
		if at >= d {
			break
		}
		ws := make([]mbox.Write, f.size)
		for j := range ws {
			ws[j] = activate(fmt.Sprintf("user.load%d", j))
			ws[j].By.ID, ws[j].ACL = "feed", mbox.ACL(fmt.Sprintf("u%d\tlrs\t", i))
		}
		time.Sleep(time.Until(begun.Add(at)))
		wg.Go(func() {
			if _, err := l.Write(context.Background(), ws); err != nil {
				t.Error(err)
			}
		})
	}
	time.Sleep(time.Until(begun.Add(d)))
	wg.Wait()
	return 100 * float64(processorTime()-used) / float64(time.Since(begun))
}

// processorTime is what this process has used.
func processorTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
