package chaos

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"murder/test/harness"
	"murder/test/ledger"
)

// storm is a cluster on which one fault after the other falls, drawn by a seed, while a crowd reads and writes
// and a ledger remembers what was promised.
type storm struct {
	*report
	ctx context.Context
	rnd *rand.Rand
	c   *harness.Cluster
	l   *ledger.Ledger

	windows, undecided, compared int
	longest                      map[string]time.Duration // without an acknowledged write, by kind of fault
}

// fault is one way to break things and to put them right again. It returns what went wrong that should not.
type fault struct {
	kind string
	do   func(s *storm) error
}

const (
	window      = 5 // faults between two judgements of the crowd's history
	settleLimit = time.Minute
)

// deal returns what gives the next fault, nil at the end: each kind once in an order by chance, or with MURDER_SOAK
// any of them, again and again, for so long.
func deal(t *testing.T, rnd *rand.Rand, faults []fault) func() *fault {
	if text := os.Getenv("MURDER_SOAK"); text != "" {
		d, err := time.ParseDuration(text)
		if err != nil {
			t.Fatalf("MURDER_SOAK: %v", err)
		}
		end := time.Now().Add(d)
		return func() *fault {
			if time.Now().After(end) {
				return nil
			}
			return &faults[rnd.IntN(len(faults))]
		}
	}
	seen := map[string]bool{}
	faults = slices.DeleteFunc(faults, func(f fault) bool {
		again := seen[f.kind]
		seen[f.kind] = true
		return again
	})
	rnd.Shuffle(len(faults), func(i, j int) { faults[i], faults[j] = faults[j], faults[i] })
	return func() *fault {
		if len(faults) == 0 {
			return nil
		}
		f := faults[0]
		faults = faults[1:]
		return &f
	}
}

func newStorm(r *report, c *harness.Cluster, rnd *rand.Rand) *storm {
	s := &storm{report: r, ctx: r.t.Context(), rnd: rnd, c: c, longest: map[string]time.Duration{}, l: ledger.StartAtEach(c.Addrs("mupdate"), admin, password)}
	s.l.Pace(20 * time.Millisecond)
	r.t.Cleanup(s.l.Stop)
	return s
}

// run lets faults fall, and tells what came of it.
func (s *storm) run(faults []fault) {
	defer s.details()
	draw := deal(s.t, s.rnd, faults)
	for f := draw(); f != nil; {
		k := begin(s.report, s.c, s.rnd.Uint64())
		for i := 0; i < window && f != nil; i++ {
			s.t.Logf("%7.1f s: %s", time.Since(s.begun).Seconds(), f.kind)
			if !s.strike(*f) {
				k.judge()
				return
			}
			f = draw()
		}
		s.judge(k)
	}
	s.finish()
}

// strike is one fault. It is over when everybody follows again and writes go on; false means that they do not.
func (s *storm) strike(f fault) bool {
	s.fault(f.kind)
	s.l.TakeGap()
	err := f.do(s)
	if err == nil {
		err = s.settle()
	}
	gap := s.l.TakeGap()
	s.longest[f.kind] = max(s.longest[f.kind], gap)
	if gap > time.Second {
		s.t.Logf("%7.1f s: no write for %s", time.Since(s.begun).Seconds(), gap.Round(time.Millisecond))
	}
	if err != nil {
		s.violation("%s: %v", f.kind, err)
		return false
	}
	return true
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
	s.windows++
	if err := k.judge(); undecided(err) {
		s.undecided++
		s.t.Log(err)
	} else {
		s.check(err)
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
	s.promised(s.l)
	for _, id := range s.c.Nodes() {
		if err := s.l.Check(s.ctx, s.c.Addr(id, "mupdate")); err != nil {
			s.violation("%s: %v", id, err)
		}
	}
	s.compare()
}

// details writes what the one line does not say.
func (s *storm) details() {
	var b strings.Builder
	acked, unanswered, _ := s.l.Summary()
	fmt.Fprintf(&b, "# storm of %s on %d coordinators and %d frontends\n", time.Since(s.begun).Round(time.Second), len(s.c.Coordinators()), len(s.c.Nodes())-len(s.c.Coordinators()))
	fmt.Fprintf(&b, "#   %d histories judged, %d of them undecided; copies compared %d times\n", s.windows, s.undecided, s.compared)
	fmt.Fprintf(&b, "#   %d writes acknowledged, %d without an answer, and compared on every node\n", acked, unanswered)
	fmt.Fprintf(&b, "#   how often each fault, and the longest time in which no write was acknowledged\n")
	for _, kind := range slices.Sorted(maps.Keys(s.faults)) {
		fmt.Fprintf(&b, "#   %5d  %-45s %8s\n", s.faults[kind], kind, s.longest[kind].Round(time.Millisecond))
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
	if os.Geteuid() == 0 {
		t.Skip("TestStormInNetworks has these faults, and more")
	}
	r := newReport(t)
	c := harness.Start(t, stormOptions(harness.Build(t, "chaos", "skew")))
	c.Spawn = withSkew(c)
	newStorm(r, c, r.rand()).run(processFaults())
}

// stormOptions let voters that have lost their disk vote again soon, and snapshots be taken often.
func stormOptions(bin string) harness.Options {
	return harness.Options{Bin: bin, Frontends: 2, Args: []string{"--demo-backends", "0", "--set", "cluster.promote_after=1s",
		"--set", "cluster.snapshot_interval=5s", "--set", "cluster.snapshot_threshold=1000", "--set", "cluster.trailing_logs=2000"}}
}
