package bench

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"murder/mupdate"
	"murder/test/harness"
)

// How long does nobody get a write through when the lead is moved on purpose, as before each restart of a
// leader? Run with -benchtime 50x for percentiles that mean something.
func BenchmarkPlannedLeaderChange(b *testing.B) {
	gaps(b, func(c *harness.Cluster, leader string) error {
		client, err := c.Admin(leader)
		if err != nil {
			return err
		}
		defer client.Close()
		return client.Transfer(context.Background(), "")
	}, nil)
}

// And when the leader is killed, with the default timing? Run with -benchtime 20x.
func BenchmarkKilledLeader(b *testing.B) {
	gaps(b, func(c *harness.Cluster, leader string) error { return c.Kill(leader) },
		func(c *harness.Cluster, leader string) error { return c.Start(leader) })
}

const (
	quiet = 300 * time.Millisecond // of writes before and after each event
	again = 30 * time.Second
)

// gaps measures the longest time between two acknowledged writes of one client of a frontend around an
// event, once for each iteration.
func gaps(b *testing.B, event, repair func(c *harness.Cluster, leader string) error) {
	c := harness.Start(b, harness.Options{Args: []string{"--demo-backends", "0"}})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var acked atomic.Int64
	ended := make(chan error, 1)
	longest := make(chan chan time.Duration)
	client, err := mupdate.Dial(ctx, mupdate.ClientConfig{Addresses: []string{c.Addr("f1", "mupdate")}, Timeout: again, SASL: mupdate.Password(admin, password)})
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	go func() {
		last, gap := time.Now(), time.Duration(0)
		for ctx.Err() == nil {
			if err := client.Activate(context.Background(), record(int(serial.Add(1))), "be1.bench!default", "anyone\tlrs\t"); err != nil {
				ended <- err
				return
			}
			now := time.Now()
			gap, last = max(gap, now.Sub(last)), now
			acked.Add(1)
			select {
			case ch := <-longest:
				ch <- gap
				gap = 0
			default:
			}
		}
		ended <- nil
	}()
	takeGap := func() time.Duration {
		ch := make(chan time.Duration, 1)
		select {
		case longest <- ch:
			return <-ch
		case err := <-ended:
			b.Fatal(err)
		case <-time.After(again):
			b.Fatalf("no write for %s", again)
		}
		return 0
	}
	var all []time.Duration
	b.ResetTimer()
	for range b.N {
		leader, err := c.Leader(ctx)
		if err != nil {
			b.Fatal(err)
		}
		time.Sleep(quiet)
		takeGap()
		if err := event(c, leader); err != nil {
			b.Fatal(err)
		}
		time.Sleep(quiet)
		all = append(all, takeGap())
		if repair != nil {
			if err := repair(c, leader); err != nil {
				b.Fatal(err)
			}
			time.Sleep(2 * time.Second) // until the others have heard of it
		}
	}
	b.StopTimer()
	cancel()
	<-ended
	slices.Sort(all)
	milliseconds := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	b.ReportMetric(milliseconds(all[len(all)/2]), "p50-gap-ms")
	b.ReportMetric(milliseconds(all[len(all)*99/100]), "p99-gap-ms")
	b.ReportMetric(milliseconds(all[len(all)-1]), "max-gap-ms")
	b.ReportMetric(0, "ns/op")
	fmt.Printf("# %s: %s\n", strings.TrimPrefix(b.Name(), "Benchmark"), histogram(all))
}

// histogram is one line: how many were below each bound.
func histogram(sorted []time.Duration) string {
	bounds := []time.Duration{5, 10, 20, 30, 50, 100, 200, 500, 700, 1000, 1500, 3000, 1 << 30}
	var parts []string
	low := time.Duration(0)
	for _, high := range bounds {
		n := 0
		for _, d := range sorted {
			if d >= low*time.Millisecond && d < high*time.Millisecond {
				n++
			}
		}
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d-%d ms: %d", low, high, n))
		}
		low = high
	}
	return strings.Join(parts, ", ")
}
