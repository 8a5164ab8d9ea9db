//go:build unix

package cluster

import (
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Fifty learners follow one leader.
func TestManyLearners(t *testing.T) {
	t.Parallel()
	r := startRig(t, 1, 50)
	l := r.nodes["c1"]
	for i := range 20 {
		write(t, l, activate(fmt.Sprint("user.many", i)))
	}
	index := l.State().Index()
	var wg sync.WaitGroup
	for id, n := range r.nodes {
		wg.Go(func() {
			if err := n.replica.wait(testContext(t), index); err != nil {
				t.Errorf("%s does not follow: %v", id, err)
				return
			}
			if _, err := n.Barrier(testContext(t)); err != nil {
				t.Errorf("%s: %v", id, err)
			}
		})
	}
	wg.Wait()
	r.equalDigests()
}

// What does it cost, in processor time of leader and learners together, that more learners follow one
// second of a quiet cluster, and one second of 20 writes? Decides how many may be fed by raft.
func BenchmarkLearners(b *testing.B) {
	for _, learners := range []int{1, 10, 50} {
		for _, writes := range []int{0, 20} {
			b.Run(fmt.Sprintf("learners=%d/writes=%d", learners, writes), func(b *testing.B) {
				r := startRig(b, 1, learners)
				used := processorTime()
				b.ResetTimer()
				begun := time.Now()
				for i := range b.N {
					for j := range writes {
						write(b, r.nodes["c1"], activate(fmt.Sprintf("user.u%d-%d", i, j)))
						time.Sleep(time.Second / time.Duration(writes+1))
					}
					time.Sleep(time.Until(begun.Add(time.Duration(i+1) * time.Second)))
				}
				b.ReportMetric(100*float64(processorTime()-used)/float64(time.Since(begun)), "%cpu")
			})
		}
	}
}

// processorTime is what this process has used.
func processorTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
