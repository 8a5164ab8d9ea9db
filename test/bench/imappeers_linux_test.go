package bench

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"murder/test/cyrus"
	"murder/test/imapline"
	"murder/test/loopback"
)

// operation is something that users do all day, on a connection that is kept, or (session) on a new one
// each time.
type operation[C io.Closer] struct {
	name  string
	conns int
	open  func(addr string) (C, error) // nil: do makes its own connection
	do    func(c C, addr string) error
	size  int64 // octets that come with each, 0 if that is not the point
}

type imapOperation = operation[*imapline.Conn]

const (
	bulkMessages, bulkSize = 200, 100 << 10
	pipelined              = 50 // commands in one piece
)

func operations() (list []imapOperation) {
	inbox := func(user, mailbox string) func(string) (*imapline.Conn, error) {
		return func(addr string) (*imapline.Conn, error) {
			c, err := imapline.Login(addr, user, password)
			if err == nil {
				_, err = c.OK("SELECT %s", mailbox)
			}
			return c, err
		}
	}
	session := func(_ *imapline.Conn, addr string) error {
		c, err := inbox("u1", "INBOX")(addr)
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.OK("LOGOUT")
		return err
	}
	one := func(format string, args ...any) func(*imapline.Conn, string) error {
		return func(c *imapline.Conn, _ string) error {
			_, err := c.OK(format, args...)
			return err
		}
	}
	many := func(command string) func(*imapline.Conn, string) error {
		return func(c *imapline.Conn, _ string) error { return c.Pipeline(pipelined, command) }
	}
	m := message()
	for _, conns := range []int{1, 8} {
		list = append(list,
			imapOperation{name: "login+select+logout", conns: conns, do: session},
			imapOperation{name: "NOOP", conns: conns, open: inbox("u1", "INBOX"), do: one("NOOP")},
			imapOperation{name: "FETCH 2 kB", conns: conns, open: inbox("u1", "INBOX"), do: one("FETCH 1 BODY.PEEK[]")},
			imapOperation{name: "50 NOOP at once", conns: conns, open: inbox("u1", "INBOX"), do: many("NOOP")},
			imapOperation{name: "50 FETCH at once", conns: conns, open: inbox("u1", "INBOX"), do: many("FETCH 1 (UID FLAGS)")},
			imapOperation{name: "APPEND 2 kB", conns: conns, open: inbox("u3", "INBOX"), do: one("APPEND INBOX {%d+}\r\n%s", len(m), m)})
	}
	return append(list, imapOperation{name: "FETCH 20 MB", conns: 1, size: bulkMessages * bulkSize,
		open: inbox("u1", "INBOX.bulk"), do: func(c *imapline.Conn, _ string) error { return c.Drain("FETCH 1:* BODY.PEEK[]") }})
}

// sample is what one target did in one round.
type sample struct {
	rate     float64 // operations a second
	p50, p99 time.Duration
	cpu      time.Duration // of the target's processes, for each operation
	behind   time.Duration // of the backend's
}

// measureFor runs an operation on a target for a while.
func measureFor[C io.Closer](t target, op operation[C], span time.Duration) (s sample, err error) {
	conns := make([]C, op.conns)
	if op.open != nil {
		for i := range conns {
			if conns[i], err = op.open(t.addr); err != nil {
				return s, err
			}
			defer conns[i].Close()
		}
	}
	times := make([][]time.Duration, op.conns)
	var failed atomic.Value
	var wg sync.WaitGroup
	used, behind, began := cpuOf(t.pid), cpuOf(t.behind), time.Now()
	for i, c := range conns {
		wg.Go(func() {
			for time.Since(began) < span && failed.Load() == nil {
				start := time.Now()
				if err := op.do(c, t.addr); err != nil {
					failed.Store(err)
					return
				}
				times[i] = append(times[i], time.Since(start))
			}
		})
	}
	wg.Wait()
	took := time.Since(began)
	behind = cpuOf(t.behind) - behind
	used = cpuOf(t.pid) - used - time.Duration(t.idle*float64(took))
	if err, ok := failed.Load().(error); ok {
		return s, err
	}
	all := slices.Sorted(slices.Values(slices.Concat(times...)))
	n := len(all)
	return sample{rate: float64(n) / took.Seconds(), p50: all[n/2], p99: all[n*99/100], cpu: used / time.Duration(n), behind: behind / time.Duration(n)}, nil
}

// measureIdle finds out what targets use of a processor when nobody asks them anything, as a share of one:
// a frontend also hears from its cluster.
func measureIdle(targets []target) {
	const span = 3 * time.Second
	used := make([]time.Duration, len(targets))
	for i, t := range targets {
		used[i] = cpuOf(t.pid)
	}
	time.Sleep(span)
	for i := range targets {
		targets[i].idle = float64(cpuOf(targets[i].pid)-used[i]) / float64(span)
		if targets[i].idle > 0.001 {
			fmt.Printf("# %s uses %.1f %% of a processor when idle, which is not counted below\n", targets[i].name, 100*targets[i].idle)
		}
	}
}

// number reads a parameter of the benchmarks from the environment.
func number(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil && n > 0 {
		return n
	}
	return otherwise
}

// How does the frontend compare with what a site could use instead, in front of the same Cyrus backend,
// in the same run? For each operation all targets take turns, MURDER_BENCH_ROUNDS times for
// MURDER_BENCH_MS milliseconds each; a ratio is that to the mean of direct in the same round, and
// the table has the median and the range. A relay shows what a Go program pays that only copies octets. Lines begin
// with "#".
func BenchmarkIMAPPeers(b *testing.B) {
	w := start(b)
	if w.rig == nil {
		b.Skip("needs real Cyrus")
	}
	n, err := loopback.Claim()
	if err != nil {
		b.Fatal(err)
	}
	defer n.Release()
	direct := target{name: "direct", addr: w.backendIMAP(0)}
	targets := []target{direct, {name: "ours", addr: w.cluster.Addr("f1", "imap"), pid: w.cluster.PID("f1")},
		{name: "ours-passthrough", addr: w.cluster.Addr("f2", "imap"), pid: w.cluster.PID("f2")}}
	others, stop, err := runPeers(imapPeers, direct.addr, "* OK", func(i int) string { return n.Host(10 + i) })
	defer stop()
	if err != nil {
		b.Fatal(err)
	}
	relay, stopRelay, err := startRelay(n.Host(9)+":1143", direct.addr)
	defer stopRelay()
	if err != nil {
		b.Fatal(err)
	}
	targets = append(append(targets, others...), relay)
	fe := w.rig.Node("fe1")
	if !fe.Running() {
		if err := fe.Start(); err != nil {
			b.Fatal(err)
		}
		defer fe.Stop() // it follows the map, which others measure
	}
	targets = append(targets, target{name: "cyrus-fe", addr: fe.Addr(cyrus.IMAPPort), pid: fe.PID()})
	for i := range targets {
		targets[i].behind = w.rig.Backends()[0].PID()
	}
	if err := w.fillBulk(); err != nil {
		b.Fatal(err)
	}
	measureIdle(targets)
	rounds, span := number("MURDER_BENCH_ROUNDS", 3), time.Duration(number("MURDER_BENCH_MS", 1000))*time.Millisecond
	fmt.Printf("# %d rounds of %v for each, %s; ours is process %d\n", rounds, span, load1(), targets[1].pid)
	for b.Loop() {
		for _, op := range operations() {
			comparison(op, targets, rounds, span).print(op.title(), op.size, targets)
		}
	}
	fmt.Printf("# %s at the end\n", load1())
}

// wanted reports whether a name is among the words of a variable of the environment, which are separated by
// commas; without it all are.
func wanted(variable, name string) bool {
	words := os.Getenv(variable)
	return words == "" || slices.Contains(strings.Split(words, ","), name)
}

// results are the samples of each target by name; a target that failed has none.
type results map[string][]sample

func comparison[C io.Closer](op operation[C], targets []target, rounds int, span time.Duration) results {
	all := results{}
	if !wanted("MURDER_BENCH_OPS", op.name) {
		return all
	}
	targets = slices.DeleteFunc(slices.Clone(targets), func(t target) bool { return t.name != "direct" && !wanted("MURDER_BENCH_TARGETS", t.name) })
	broken := map[string]bool{}
	for range rounds {
		for _, t := range append(slices.Clone(targets), targets[0]) { // direct first and last
			if broken[t.name] {
				continue
			}
			s, err := measureFor(t, op, span)
			if err != nil {
				fmt.Printf("# %s fails at %s: %v\n", t.name, op.name, err)
				broken[t.name] = true
				continue
			}
			all[t.name] = append(all[t.name], s)
		}
	}
	return all
}

func (op operation[C]) title() string { return fmt.Sprintf("%s (%d)", op.name, op.conns) }

func (r results) print(what string, size int64, targets []target) {
	base := r["direct"]
	for _, t := range targets {
		samples := r[t.name]
		if len(samples) == 0 {
			continue
		}
		middle := func(value func(sample) float64) float64 {
			list := make([]float64, len(samples))
			for i, s := range samples {
				list[i] = value(s)
			}
			slices.Sort(list)
			return list[len(list)/2]
		}
		rate := fmt.Sprintf("%.0f/s", middle(func(s sample) float64 { return s.rate }))
		if size > 0 {
			rate = fmt.Sprintf("%.0f MB/s", middle(func(s sample) float64 { return s.rate * float64(size) / 1e6 }))
		}
		behind := func(s sample) float64 { return float64(s.behind.Microseconds()) / 1000 }
		p50 := middle(func(s sample) float64 { return float64(s.p50.Microseconds()) / 1000 })
		if t.name == "direct" {
			fmt.Printf("# %-24s %-15s %10s  p50 %.2f ms  backend %.3f ms\n", what, t.name, rate, p50, middle(behind))
			continue
		}
		ratios := make([]float64, len(samples))
		for i, s := range samples {
			ratios[i] = s.rate / ((base[2*i].rate + base[2*i+1].rate) / 2)
		}
		slices.Sort(ratios)
		fmt.Printf("# %-24s %-15s %10s  p50 %.2f ms  %.2f of direct (%.2f-%.2f)  cpu %.3f ms, backend %.3f ms\n", what, t.name, rate, p50,
			ratios[len(ratios)/2], ratios[0], ratios[len(ratios)-1], middle(func(s sample) float64 { return float64(s.cpu.Microseconds()) / 1000 }), middle(behind))
	}
}

// fillBulk gives u1 a folder of 20 MB.
func (w *world) fillBulk() error {
	c, err := imapline.Login(w.backendIMAP(0), "u1", password)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.OK("CREATE INBOX.bulk"); err != nil {
		return err
	}
	head := "From: a@example.org\r\nSubject: bulk\r\n\r\n"
	body := head + strings.Repeat(strings.Repeat("x", 76)+"\r\n", (bulkSize-len(head))/78)
	for range bulkMessages {
		if err := c.Append("INBOX.bulk", body); err != nil {
			return err
		}
	}
	return nil
}
