package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"murder/test/harness"
	"murder/test/ledger"
	"murder/test/seed"
)

// storm is a cluster on which one fault after the other falls, drawn by a seed, while a crowd reads and writes
// and a ledger remembers what was promised.
type storm struct {
	t   *testing.T
	ctx context.Context
	rnd *rand.Rand
	c   *harness.Cluster
	l   *ledger.Ledger

	begun                         time.Time
	windows, undecided, compared  int
	reads, writes, open           int
	faults                        map[string]*tally
	violations                    []string
	ledgerAcked, ledgerUnanswered int
}

// tally is what one kind of fault has done.
type tally struct {
	count   int
	longest time.Duration // without an acknowledged write
}

// fault is one way to break things and to put them right again. It returns what went wrong that should not.
type fault struct {
	kind string
	do   func(s *storm) error
}

const (
	stormDefault = 90 * time.Second
	window       = 5 // faults between two judgements of the crowd's history
	settleLimit  = time.Minute
)

// stormTime is how long it lasts: MURDER_SOAK.
func stormTime(t *testing.T) time.Duration {
	text := os.Getenv("MURDER_SOAK")
	if text == "" {
		return stormDefault
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("MURDER_SOAK: %v", err)
	}
	return d
}

func newStorm(t *testing.T, c *harness.Cluster, rnd *rand.Rand) *storm {
	var addrs []string
	for _, id := range c.Nodes() {
		addrs = append(addrs, c.Addr(id, "mupdate"))
	}
	s := &storm{t: t, ctx: t.Context(), rnd: rnd, c: c, begun: time.Now(), faults: map[string]*tally{}, l: ledger.StartAtEach(addrs, admin, password)}
	s.l.Pace(20 * time.Millisecond)
	t.Cleanup(s.l.Stop)
	return s
}

// run lets faults fall until the time is over, and tells what came of it.
func (s *storm) run(d time.Duration, faults []fault) {
	defer s.tell()
	end := s.begun.Add(d)
	for time.Now().Before(end) {
		k := begin(s.t, s.c, s.rnd.Uint64())
		for range window {
			f := faults[s.rnd.IntN(len(faults))]
			s.t.Logf("%7.1f s: %s", time.Since(s.begun).Seconds(), f.kind)
			if !s.strike(f) {
				k.judge()
				return
			}
			if time.Now().After(end) {
				break
			}
		}
		s.judge(k)
	}
	s.finish()
}

// strike is one fault. It is over when everybody follows again and writes go on; false means that they do not.
func (s *storm) strike(f fault) bool {
	n := s.faults[f.kind]
	if n == nil {
		n = &tally{}
		s.faults[f.kind] = n
	}
	n.count++
	s.l.TakeGap()
	err := f.do(s)
	if err == nil {
		err = s.settle()
	}
	gap := s.l.TakeGap()
	n.longest = max(n.longest, gap)
	if gap > time.Second {
		s.t.Logf("%7.1f s: no write for %s", time.Since(s.begun).Seconds(), gap.Round(time.Millisecond))
	}
	if err != nil {
		s.violation("%s: %v", f.kind, err)
		return false
	}
	return true
}

func (s *storm) count(kind string) int {
	if n := s.faults[kind]; n != nil {
		return n.count
	}
	return 0
}

func (s *storm) settle() error {
	ctx, cancel := context.WithTimeout(s.ctx, settleLimit)
	defer cancel()
	if err := s.c.AwaitWhole(ctx); err != nil {
		return fmt.Errorf("the cluster does not come back: %w", err)
	}
	return s.goOn(20)
}

// goOn waits for writes.
func (s *storm) goOn(writes int) error {
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	return s.l.Await(ctx, writes)
}

// judge ends a crowd and looks at what it saw.
func (s *storm) judge(k *crowd) {
	err := k.judge()
	reads, writes, open := k.hist.Count()
	s.windows, s.reads, s.writes, s.open = s.windows+1, s.reads+reads, s.writes+writes, s.open+open
	switch {
	case undecided(err):
		s.undecided++
		s.t.Log(err)
	case err != nil:
		s.violation("%v", err)
	}
	s.compare()
}

func (s *storm) compare() {
	s.compared++
	if err := s.c.Equal(); err != nil {
		s.violation("copies: %v", err)
	}
}

// finish compares every node's map with what the ledger was promised.
func (s *storm) finish() {
	s.l.Stop()
	s.ledgerAcked, s.ledgerUnanswered, _ = s.l.Summary()
	for _, id := range s.c.Nodes() {
		if err := s.l.Check(s.ctx, s.c.Addr(id, "mupdate")); err != nil {
			s.violation("%s: %v", id, err)
		}
	}
	s.compare()
}

func (s *storm) violation(format string, args ...any) {
	s.t.Helper()
	v := fmt.Sprintf(format, args...)
	s.t.Errorf("violation after %s: %s", time.Since(s.begun).Round(time.Second), v)
	if len(v) > 200 {
		v = v[:200] + " ..."
	}
	s.violations = append(s.violations, v)
}

// tell writes the result, for people.
func (s *storm) tell() {
	var b strings.Builder
	fmt.Fprintf(&b, "# storm of %s on %d coordinators and %d frontends\n", time.Since(s.begun).Round(time.Second), len(s.c.Coordinators()), len(s.c.Nodes())-len(s.c.Coordinators()))
	fmt.Fprintf(&b, "#   recorded: %d reads, %d writes, %d writes without an answer; %d histories judged, %d of them undecided\n", s.reads, s.writes, s.open, s.windows, s.undecided)
	fmt.Fprintf(&b, "#   promised: %d writes acknowledged, %d without an answer, and compared on every node\n", s.ledgerAcked, s.ledgerUnanswered)
	fmt.Fprintf(&b, "#   copies compared %d times\n", s.compared)
	total := 0
	kinds := make([]string, 0, len(s.faults))
	for kind, n := range s.faults {
		kinds = append(kinds, kind)
		total += n.count
	}
	sort.Strings(kinds)
	fmt.Fprintf(&b, "#   %d faults; behind each kind the longest time in which no write was acknowledged\n", total)
	for _, kind := range kinds {
		fmt.Fprintf(&b, "#   %5d  %-45s %8s\n", s.faults[kind].count, kind, s.faults[kind].longest.Round(time.Millisecond))
	}
	fmt.Fprintf(&b, "#   violations: %d\n", len(s.violations))
	for _, v := range s.violations {
		fmt.Fprintf(&b, "#     %s\n", v)
	}
	os.Stdout.WriteString(b.String())
}

// Nodes, by chance.

func (s *storm) leader() (string, error) { return s.c.Leader(s.ctx) }

func (s *storm) follower() (string, error) {
	l, err := s.leader()
	others := slices.DeleteFunc(s.c.Coordinators(), func(id string) bool { return id == l })
	return others[s.rnd.IntN(len(others))], err
}

func (s *storm) learner() (string, error) {
	ids := slices.DeleteFunc(s.c.Nodes(), func(id string) bool { return id[0] == 'c' })
	return ids[s.rnd.IntN(len(ids))], nil
}

func (s *storm) anyone() (string, error) {
	ids := s.c.Nodes()
	return ids[s.rnd.IntN(len(ids))], nil
}

// between is a time by chance.
func (s *storm) between(least, most time.Duration) time.Duration {
	return least + time.Duration(s.rnd.Int64N(int64(most-least)))
}

// ctl runs the operator's tool at a coordinator that runs.
func (s *storm) ctl(args ...string) error {
	l, err := s.leader()
	if err == nil {
		_, err = s.c.Murderctl(s.ctx, l, args...)
	}
	return err
}

// retry repeats what may fail while the cluster changes.
func (s *storm) retry(f func() error) error {
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if err = f(); err == nil {
			return nil
		}
	}
	return err
}

// processFaults need no rights: they fall on processes.
func processFaults() []fault {
	kill := func(kind string, who func(*storm) (string, error)) fault {
		return fault{"kill -9 of " + kind, func(s *storm) error {
			id, err := who(s)
			if err == nil {
				err = s.c.Kill(id)
			}
			if err == nil {
				err = s.goOn(30)
			}
			if err == nil {
				err = s.c.Start(id)
			}
			return err
		}}
	}
	pause := func(kind string, who func(*storm) (string, error)) fault {
		return fault{"SIGSTOP of " + kind, func(s *storm) error {
			id, err := who(s)
			if err != nil {
				return err
			}
			if err := s.c.Pause(id); err != nil {
				return err
			}
			time.Sleep(s.between(100*time.Millisecond, 5*time.Second))
			return s.c.Resume(id)
		}}
	}
	return []fault{
		kill("the leader", (*storm).leader), kill("the leader", (*storm).leader), kill("a follower", (*storm).follower), kill("a learner", (*storm).learner),
		pause("the leader", (*storm).leader), pause("the leader", (*storm).leader), pause("a follower", (*storm).follower), pause("a learner", (*storm).learner),
		{"leaders killed one after the other", func(s *storm) error {
			for range 3 {
				id, err := s.leader()
				if err == nil {
					err = s.c.Kill(id)
				}
				if err == nil {
					err = s.c.Start(id)
				}
				if err != nil {
					return err
				}
			}
			return nil
		}},
		{"all killed at once", func(s *storm) error {
			for _, id := range s.c.Nodes() {
				if err := s.c.Kill(id); err != nil {
					return err
				}
			}
			return s.c.StartAll(s.c.Nodes())
		}},
		{"leader stopped in order", func(s *storm) error {
			id, err := s.leader()
			if err == nil {
				err = s.c.Stop(id)
			}
			if err == nil {
				err = s.c.Start(id)
			}
			return err
		}},
		{"lead handed over", func(s *storm) error { return s.retry(func() error { return s.ctl("cluster", "transfer") }) }},
		{"node drained and taken back", func(s *storm) error {
			id, _ := s.anyone()
			if err := s.retry(func() error { return s.ctl("node", "drain", id) }); err != nil {
				return err
			}
			if err := s.goOn(20); err != nil {
				return err
			}
			return s.retry(func() error { return s.ctl("node", "undrain", id) })
		}},
		{"voter made a learner and a voter again", func(s *storm) error {
			id, err := s.follower()
			if err != nil {
				return err
			}
			if err := s.retry(func() error { return s.ctl("member", "demote", id, "--yes") }); err != nil {
				return err
			}
			if err := s.goOn(20); err != nil {
				return err
			}
			return s.retry(func() error { return s.ctl("member", "promote", id, "--yes") })
		}},
		{"backup saved and checked", func(s *storm) error {
			file := s.c.Dir + "/storm.snapshot"
			defer os.Remove(file)
			id, _ := s.anyone()
			if _, err := s.c.Murderctl(s.ctx, id, "backup", "save", file, "--timeout", "1m"); err != nil {
				return err
			}
			_, err := s.c.Murderctl(s.ctx, id, "backup", "verify", file)
			return err
		}},
		{"bits changed in the log of a stopped voter", changedBits},
		{"voter that has lost its disk", lostDisk},
		{"learner set back to an older copy", oldCopy},
		{"clock of a node moved", movedClock},
	}
}

// A storm of faults that need no rights.
func TestStorm(t *testing.T) {
	long(t)
	rnd := seed.Rand(t)
	if os.Geteuid() == 0 {
		t.Skip("TestStormInNetworks has these faults, and more")
	}
	c := harness.Start(t, stormOptions(harness.Build(t, "chaos", "skew")))
	c.Spawn = withSkew(c)
	newStorm(t, c, rnd).run(stormTime(t), processFaults())
}

// stormOptions let voters that have lost their disk vote again soon, and snapshots be taken often.
func stormOptions(bin string) harness.Options {
	return harness.Options{Bin: bin, Frontends: 2, Args: []string{"--demo-backends", "0", "--set", "cluster.promote_after=1s",
		"--set", "cluster.snapshot_interval=5s", "--set", "cluster.snapshot_threshold=1000", "--set", "cluster.trailing_logs=2000"}}
}
