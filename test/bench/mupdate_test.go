package bench

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"murder/internal/mbox"
	"murder/mupdate"
)

var connections = []int{1, 8, 64}

// records is the size of the map for LIST and FIND: $MURDER_BENCH_RECORDS, by default 100 000.
func records() int {
	if n, err := strconv.Atoi(os.Getenv("MURDER_BENCH_RECORDS")); err == nil && n > 0 {
		return n
	}
	return 100_000
}

// serial makes names that no round of a benchmark has used before.
var serial atomic.Int64

// on runs a benchmark on every MUPDATE server and number of connections.
func on(b *testing.B, conns []int, run func(b *testing.B, addr string, conns int)) {
	w := start(b)
	for _, n := range conns {
		for _, s := range w.mupdateServers() {
			b.Run(fmt.Sprintf("conns=%d/server=%s", n, s.name), func(b *testing.B) { run(b, s.addr, n) })
		}
	}
}

func open(addr string) func(int) (*mupdate.Client, error) {
	return func(int) (*mupdate.Client, error) { return dialMupdate(addr) }
}

func shut(c *mupdate.Client) { c.Close() }

// How many look-ups by name does a server answer in a map of 1000 names?
func BenchmarkFind(b *testing.B) {
	on(b, connections, func(b *testing.B, addr string, conns int) {
		if err := load(addr, 1000); err != nil {
			b.Fatal(err)
		}
		measure(b, conns, open(addr), shut, func(c *mupdate.Client, n int) error {
			_, ok, err := c.Find(context.Background(), record(n%1000))
			if err == nil && !ok {
				err = fmt.Errorf("%s was not found", record(n%1000))
			}
			return err
		})
	})
}

// How many mailboxes can be made, RESERVE then ACTIVATE, on sessions that stay open?
func BenchmarkReserveActivate(b *testing.B) {
	on(b, connections, func(b *testing.B, addr string, conns int) {
		measure(b, conns, open(addr), shut, func(c *mupdate.Client, _ int) error { return makeMailbox(c) })
	})
}

// How many mailboxes can be made the way a Cyrus backend does it: connect, sign on, RESERVE,
// ACTIVATE, leave?
func BenchmarkSession(b *testing.B) {
	on(b, []int{1, 8, 32}, func(b *testing.B, addr string, conns int) {
		none := func(int) (string, error) { return addr, nil }
		measure(b, conns, none, func(string) {}, func(addr string, _ int) error {
			c, err := dialMupdate(addr)
			if err != nil {
				return err
			}
			defer c.Close()
			if err := makeMailbox(c); err != nil {
				return err
			}
			return c.Logout(context.Background())
		})
	})
}

func makeMailbox(c *mupdate.Client) error {
	name := mbox.Name(fmt.Sprintf("user.new.n%d", serial.Add(1)))
	at := mbox.At("new.test", "default")
	if err := c.Reserve(context.Background(), name, at); err != nil {
		return err
	}
	return c.Activate(context.Background(), name, at, "owner\tlrswipkxtecdan\t")
}

// How long does the slowest write take while the whole map is being listed? Each operation is a LIST; beside it one
// session changes an ACL over and over.
func BenchmarkWriteDuringList(b *testing.B) {
	count := records()
	w := start(b)
	for _, s := range w.mupdateServers() {
		b.Run(fmt.Sprintf("records=%d/server=%s", count, s.name), func(b *testing.B) {
			if err := load(s.addr, count); err != nil {
				b.Fatal(err)
			}
			reader, err := dialMupdate(s.addr)
			if err != nil {
				b.Fatal(err)
			}
			defer reader.Close()
			listing, stop := context.WithCancel(context.Background())
			wrote := make(chan []time.Duration)
			go func() { wrote <- changes(b, s.addr, listing) }()
			for b.Loop() {
				if err := reader.List(context.Background(), "load.test!", func(mbox.Entry) error { return nil }); err != nil {
					b.Fatal(err)
				}
			}
			stop()
			quantiles(b, <-wrote, "write")
		})
	}
}

// changes makes changes without a pause until ctx ends, and returns how long each took.
func changes(b *testing.B, addr string, ctx context.Context) (times []time.Duration) {
	c, err := dialMupdate(addr)
	if err != nil {
		b.Error(err)
		return nil
	}
	defer c.Close()
	for ctx.Err() == nil {
		begun := time.Now()
		acl := mbox.ACL(fmt.Sprintf("u\tl\tn%d\tl\t", serial.Add(1)))
		if err := c.Activate(context.Background(), "during", mbox.At("during.test", "p"), acl); err != nil {
			b.Error(err)
			return times
		}
		times = append(times, time.Since(begun))
	}
	return times
}

// quantiles reports the median, the 99th percentile and the longest of some times.
func quantiles(b *testing.B, times []time.Duration, what string) {
	b.Helper()
	if len(times) == 0 {
		b.Fatal("nothing was measured")
	}
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2].Microseconds()), "p50-"+what+"-µs")
	b.ReportMetric(float64(times[len(times)*99/100].Microseconds()), "p99-"+what+"-µs")
	b.ReportMetric(float64(times[len(times)-1].Microseconds()), "max-"+what+"-µs")
}

// How soon is a change that one node has confirmed in a stream of another, with nothing else going on? Of Cyrus it
// is the master's own stream, which brings what has changed every few seconds.
func BenchmarkChangeToStream(b *testing.B) {
	w := start(b)
	c1 := w.cluster.Addr("c1", "mupdate")
	for _, s := range append([]target{{name: "another-coordinator", addr: w.cluster.Addr("c2", "mupdate")}}, w.mupdateServers()[1:]...) {
		b.Run("server="+s.name, func(b *testing.B) {
			at := c1
			if s.name == "cyrus" {
				at = s.addr
			}
			writer, err := dialMupdate(at)
			if err != nil {
				b.Fatal(err)
			}
			defer writer.Close()
			follower, err := dialMupdate(s.addr)
			if err != nil {
				b.Fatal(err)
			}
			defer follower.Close()
			ctx, cancel := context.WithCancel(context.Background())
			rows, synced, ended := make(chan arrival, 16), make(chan struct{}), make(chan struct{})
			go func() {
				defer close(ended)
				follower.Update(ctx, nil, mupdate.Events{
					Row: func(e mbox.Entry) error {
						if e.Name == "streamed" {
							rows <- arrival{e.ACL, time.Now()}
						}
						return nil
					},
					Synced: func() error { close(synced); return nil },
				})
			}()
			defer func() { cancel(); follower.Close(); <-ended }()
			<-synced
			var after []time.Duration
			for b.Loop() {
				acl := mbox.ACL(fmt.Sprintf("u\tl\tn%d\tl\t", serial.Add(1)))
				if err := writer.Activate(ctx, "streamed", mbox.At("streamed.test", "p"), acl); err != nil {
					b.Fatal(err)
				}
				done := time.Now()
				for r := range rows {
					if r.acl == acl {
						after = append(after, max(0, r.at.Sub(done)))
						break
					}
				}
			}
			quantiles(b, after, "after-OK")
		})
	}
}

// How long does a backend or frontend wait for the whole list at its start?
func BenchmarkList(b *testing.B) {
	count := records()
	w := start(b)
	for _, s := range w.mupdateServers() {
		b.Run(fmt.Sprintf("records=%d/server=%s", count, s.name), func(b *testing.B) {
			if err := load(s.addr, count); err != nil {
				b.Fatal(err)
			}
			measure(b, 1, open(s.addr), shut, func(c *mupdate.Client, _ int) error {
				rows := 0
				err := c.List(context.Background(), "load.test!", func(mbox.Entry) error { rows++; return nil })
				if err == nil && rows != count {
					err = fmt.Errorf("LIST brought %d rows, want %d", rows, count)
				}
				return err
			})
		})
	}
}

type arrival struct {
	acl mbox.ACL
	at  time.Time
}
