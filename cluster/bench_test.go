package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"murder/internal/mbox"
)

// How many writes per second do three voters take from many sessions, and what does forwarding cost?
// Decides whether a resync of a backend takes minutes or hours.
func BenchmarkWrite(b *testing.B) {
	for _, via := range []string{"leader", "learner"} {
		for _, sessions := range []int{1, 256} {
			b.Run(fmt.Sprintf("%s/sessions=%d", via, sessions), func(b *testing.B) {
				r := startRig(b, 3, 1)
				n := r.nodes["f1"]
				if via == "leader" {
					n = r.waitLeader()
				}
				var next atomic.Int64
				var wg sync.WaitGroup
				b.ResetTimer()
				for s := range sessions {
					wg.Go(func() {
						for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
							w := activate(fmt.Sprint("user.u", i))
							w.By.ID = fmt.Sprint("s", s)
							write(b, n, []mbox.Write{w}...)
						}
					})
				}
				wg.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "writes/s")
			})
		}
	}
}

// How many linearizable reads per second does a learner give to 64 callers? Decides whether FIND may
// wait for one.
func BenchmarkBarrier(b *testing.B) {
	r := startRig(b, 3, 1)
	b.SetParallelism(32)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := r.nodes["f1"].Barrier(testContext(b)); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// How long does a backend with a million mailboxes take to push its list again, 256 writes at a time
// from a few sessions, while 500 streams follow? Decides whether a resync is minutes or hours.
func BenchmarkImport(b *testing.B) {
	for _, streams := range []int{0, 500} {
		b.Run(fmt.Sprintf("streams=%d", streams), func(b *testing.B) {
			r := startRig(b, 3, 1)
			n := r.nodes["f1"]
			ctx, cancel := context.WithCancel(context.Background())
			var followers, writers sync.WaitGroup
			defer followers.Wait()
			defer cancel()
			for range streams {
				followers.Go(func() {
					for after := n.View().Index(); ; {
						_, to, err := n.Changes(ctx, after)
						switch {
						case errors.Is(err, mbox.ErrLagged):
							to = n.View().Index()
						case err != nil:
							return
						}
						after = to
					}
				})
			}
			const sessions = 8
			var next atomic.Int64
			b.ResetTimer()
			for s := range sessions {
				writers.Go(func() {
					ws := make([]mbox.Write, 0, maxUnit)
					for {
						first := next.Add(maxUnit) - maxUnit
						if first >= int64(b.N) {
							return
						}
						ws = ws[:0]
						for i := first; i < min(first+maxUnit, int64(b.N)); i++ {
							w := activate(fmt.Sprintf("user.u%d.folder%d", i/8, i%8))
							w.By.ID = fmt.Sprint("s", s)
							ws = append(ws, w)
						}
						write(b, n, ws...)
					}
				})
			}
			writers.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "writes/s")
		})
	}
}
