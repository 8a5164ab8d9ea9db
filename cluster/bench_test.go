package cluster

import (
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
