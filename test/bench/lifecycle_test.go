package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"murder/mupdate"
	"murder/test/harness"
)

const (
	plannedChanges = 50
	kills          = 25
	around         = 50 // writes before and after each event
	changePatience = 30 * time.Second
)

// How long does nobody get a write through when the lead is moved on purpose, as before each restart of a
// leader? One operation is fifty changes, the histogram is of their gaps.
func BenchmarkPlannedLeaderChange(b *testing.B) {
	gaps(b, plannedChanges, func(ctx context.Context, c *harness.Cluster, leader string) error {
		client, err := c.Admin(leader)
		if err != nil {
			return err
		}
		defer client.Close()
		return client.Transfer(ctx, "")
	}, nil)
}

// And when the leader is stopped in order, as by systemctl?
func BenchmarkStoppedLeader(b *testing.B) {
	gaps(b, kills, func(_ context.Context, c *harness.Cluster, leader string) error { return c.Stop(leader) }, startAgain)
}

// And when the leader is killed, with the default timing?
func BenchmarkKilledLeader(b *testing.B) {
	gaps(b, kills, func(_ context.Context, c *harness.Cluster, leader string) error { return c.Kill(leader) }, startAgain)
}

// And when the leader hangs, so that nothing tells that it is gone? Then raft's own time is needed.
func BenchmarkPausedLeader(b *testing.B) {
	gaps(b, kills, func(_ context.Context, c *harness.Cluster, leader string) error { return c.Pause(leader) },
		func(ctx context.Context, c *harness.Cluster, leader string) error {
			if err := c.Resume(leader); err != nil {
				return err
			}
			return c.AwaitWhole(ctx)
		})
}

func startAgain(ctx context.Context, c *harness.Cluster, id string) error {
	if err := c.Start(id); err != nil {
		return err
	}
	return c.AwaitWhole(ctx)
}

// gaps measures, for each event, the longest time between two writes of one client of a frontend that were
// acknowledged one after the other.
func gaps(b *testing.B, events int, event, repair func(ctx context.Context, c *harness.Cluster, leader string) error) {
	c := harness.Start(b, harness.Options{Args: []string{"--demo-backends", "0"}})
	p, err := startPulse(c.Addr("f1", "mupdate"))
	if err != nil {
		b.Fatal(err)
	}
	defer p.stop()
	ctx := context.Background()
	var all []time.Duration
	once := func() error {
		leader, err := c.Leader(ctx)
		if err != nil {
			return err
		}
		if err = p.await(around); err == nil {
			p.takeGap()
			err = event(ctx, c, leader)
		}
		if err == nil {
			err = p.await(around)
		}
		if err != nil {
			return err
		}
		all = append(all, p.takeGap())
		if repair == nil {
			return nil
		}
		ctx, cancel := context.WithTimeout(ctx, changePatience)
		defer cancel()
		return repair(ctx, c, leader)
	}
	b.ResetTimer()
	for range b.N * events {
		if err := once(); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	slices.Sort(all)
	milliseconds := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	b.ReportMetric(milliseconds(all[len(all)/2]), "p50-gap-ms")
	b.ReportMetric(milliseconds(all[len(all)*99/100]), "p99-gap-ms")
	b.ReportMetric(milliseconds(all[len(all)-1]), "max-gap-ms")
	b.ReportMetric(0, "ns/op")
	fmt.Printf("# %s: %d times: %s\n", strings.TrimPrefix(b.Name(), "Benchmark"), len(all), histogram(all))
}

// pulse is one client that writes without pause.
type pulse struct {
	cancel context.CancelFunc
	ended  chan struct{}

	mu    sync.Mutex
	last  time.Time     // acknowledged
	gap   time.Duration // the longest since takeGap
	count int
	moved chan struct{} // closed and replaced at every acknowledged write
	err   error
}

func startPulse(addr string) (*pulse, error) {
	ctx, cancel := context.WithCancel(context.Background())
	client, err := mupdate.Dial(ctx, mupdate.ClientConfig{Addresses: []string{addr}, Timeout: changePatience, SASL: mupdate.Password(admin, password)})
	if err != nil {
		cancel()
		return nil, err
	}
	p := &pulse{cancel: cancel, ended: make(chan struct{}), last: time.Now(), moved: make(chan struct{})}
	go func() {
		defer close(p.ended)
		defer client.Close()
		for ctx.Err() == nil {
			err := client.Activate(context.Background(), record(int(serial.Add(1))), "be1.bench!default", "anyone\tlrs\t")
			p.beat(err)
			if err != nil {
				return
			}
		}
	}()
	return p, nil
}

func (p *pulse) beat(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.gap, p.last, p.err = max(p.gap, now.Sub(p.last)), now, err
	p.count++
	close(p.moved)
	p.moved = make(chan struct{})
}

// await waits for so many more writes.
func (p *pulse) await(writes int) error {
	limit := time.After(changePatience)
	p.mu.Lock()
	want := p.count + writes
	for {
		count, err, moved := p.count, p.err, p.moved
		p.mu.Unlock()
		if count >= want || err != nil {
			return err
		}
		select {
		case <-moved:
		case <-limit:
			return errors.New("no writes for too long")
		}
		p.mu.Lock()
	}
}

// takeGap returns the longest gap since it was last asked, the one that is still open included.
func (p *pulse) takeGap() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	gap := max(p.gap, time.Since(p.last))
	p.gap = 0
	return gap
}

func (p *pulse) stop() {
	p.cancel()
	<-p.ended
}

// histogram is one line: how many were below each bound.
func histogram(sorted []time.Duration) string {
	bounds := []time.Duration{5, 10, 20, 30, 50, 100, 200, 300, 500, 700, 1000, 1500, 3000, 1 << 30}
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
