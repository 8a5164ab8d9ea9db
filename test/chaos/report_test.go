package chaos

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"murder/test/harness"
	"murder/test/history"
	"murder/test/ledger"
	"murder/test/seed"
)

// report is what came of one test: one line, shown when all have run.
type report struct {
	t                      *testing.T
	seed                   uint64
	begun                  time.Time
	reads, writes, unknown int
	faults                 map[string]int
	violations             int
	foundOut               bool // a broken build was to be, and violations are what it was broken for
}

// reportsVar names the file that the lines of all tests go to, those in namespaces of their own included.
const reportsVar = "MURDER_CHAOS_REPORTS"

func TestMain(m *testing.M) {
	if os.Getenv(reportsVar) != "" {
		harness.Main(m)
	}
	f, err := os.CreateTemp("", "chaos")
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	f.Close()
	os.Setenv(reportsVar, f.Name())
	code := m.Run()
	if lines, err := os.ReadFile(f.Name()); err == nil {
		os.Stdout.Write(lines)
	}
	os.Remove(f.Name())
	harness.Exit(code)
}

func newReport(t *testing.T) *report {
	r := &report{t: t, seed: seed.Take(t), begun: time.Now(), faults: map[string]int{}}
	t.Cleanup(r.tell)
	return r
}

// rand is where the test takes its chance from.
func (r *report) rand() *rand.Rand { return seed.From(r.seed) }

// fault notes that something was broken.
func (r *report) fault(kind string) { r.faults[kind]++ }

// recorded adds what a crowd did.
func (r *report) recorded(h *history.History) {
	reads, writes, open := h.Count()
	r.reads, r.writes, r.unknown = r.reads+reads, r.writes+writes, r.unknown+open
}

// promised adds what a ledger was promised.
func (r *report) promised(l *ledger.Ledger) {
	acked, unknown, _ := l.Summary()
	r.writes, r.unknown = r.writes+acked, r.unknown+unknown
}

// violation is something that must not be, whatever was broken.
func (r *report) violation(format string, args ...any) {
	r.t.Helper()
	r.violations++
	r.t.Errorf("violation after %s: %s", time.Since(r.begun).Round(time.Second), fmt.Sprintf(format, args...))
}

// check takes an error for a violation.
func (r *report) check(err error) {
	r.t.Helper()
	if err != nil {
		r.violation("%v", err)
	}
}

func (r *report) tell() {
	total, kinds := 0, make([]string, 0, len(r.faults))
	for _, kind := range slices.Sorted(maps.Keys(r.faults)) {
		total += r.faults[kind]
		kinds = append(kinds, fmt.Sprintf("%s %d", kind, r.faults[kind]))
	}
	verdict := fmt.Sprintf("violations: %d", r.violations)
	switch {
	case r.foundOut:
		verdict = "broken on purpose, and found out"
	case r.violations == 0 && r.t.Failed():
		verdict = "FAILED"
	}
	line := fmt.Sprintf("# %s, %s: %d reads, %d writes, %d of unknown outcome; %d faults: %s; %s; MURDER_SEED=%d\n", r.t.Name(),
		time.Since(r.begun).Round(time.Second), r.reads, r.writes, r.unknown, total, strings.Join(kinds, ", "), verdict, r.seed)
	f, err := os.OpenFile(os.Getenv(reportsVar), os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(line)
		f.Close()
	}
	if err != nil {
		r.t.Logf("%s%v", line, err)
	}
}
