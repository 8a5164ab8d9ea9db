package bench

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// measure runs b.N operations on conns connections and reports the median and the 99th percentile
// beside the mean. open makes what one connection needs; its close is not measured.
func measure[S any](b *testing.B, conns int, open func(i int) (S, error), shut func(S), op func(s S, n int) error) {
	b.Helper()
	sessions := make([]S, conns)
	for i := range sessions {
		s, err := open(i)
		if err != nil {
			b.Fatal(err)
		}
		defer shut(s)
		sessions[i] = s
	}
	var next atomic.Int64
	var failed atomic.Value
	times := make([][]time.Duration, conns)
	var wg sync.WaitGroup
	b.ResetTimer()
	for i, s := range sessions {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				n := int(next.Add(1)) - 1
				if n >= b.N || failed.Load() != nil {
					return
				}
				began := time.Now()
				if err := op(s, n); err != nil {
					failed.Store(err)
					return
				}
				times[i] = append(times[i], time.Since(began))
			}
		}()
	}
	wg.Wait()
	b.StopTimer()
	if err, ok := failed.Load().(error); ok {
		b.Fatal(err)
	}
	all := slices.Concat(times...)
	slices.Sort(all)
	b.ReportMetric(float64(all[len(all)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(all[len(all)*99/100].Microseconds()), "p99-µs")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
	note(b.Name(), b.Elapsed()/time.Duration(b.N))
}

// samples are the times per operation of every benchmark, in the order of the first run of each.
var samples struct {
	mu    sync.Mutex
	order []string
	last  map[string]time.Duration
}

// note keeps one measurement. The testing package calls a benchmark with growing b.N: the last call
// is the one that counts.
func note(name string, d time.Duration) {
	samples.mu.Lock()
	defer samples.mu.Unlock()
	if samples.last == nil {
		samples.last = map[string]time.Duration{}
	}
	if _, ok := samples.last[name]; !ok {
		samples.order = append(samples.order, name)
	}
	samples.last[name] = d
}

// writeRatios writes, for every benchmark that was run on several servers or paths, how they compare.
func writeRatios(out io.Writer) {
	for _, base := range []struct{ key, value string }{{"server=", "cyrus"}, {"server=", "echo"}, {"path=", "direct"}} {
		for _, name := range samples.order {
			for _, other := range samples.order {
				if !strings.Contains(name, base.key+base.value) || other == name || !sameBut(name, other, base.key) {
					continue
				}
				them, us := samples.last[name], samples.last[other]
				fmt.Fprintf(out, "# %s: %.2f of the rate of %s (%s against %s)\n", strings.TrimPrefix(other, "Benchmark"),
					float64(them)/float64(us), base.value, us.Round(time.Microsecond), them.Round(time.Microsecond))
			}
		}
	}
}

// sameBut reports whether two names differ only in the value of key.
func sameBut(a, b, key string) bool {
	cut := func(s string) string {
		parts := strings.Split(s, "/")
		for i, p := range parts {
			if strings.HasPrefix(p, key) {
				parts[i] = key
			}
		}
		return strings.Join(parts, "/")
	}
	return cut(a) == cut(b)
}
