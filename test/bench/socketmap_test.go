package bench

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"murder/internal/mbox"
)

// How many look-ups a second does a frontend answer that are sent ahead of the answers, and what do they
// cost it?
func BenchmarkSocketmap(b *testing.B) {
	w := start(b)
	const batch = 100
	request, answer := []byte(strings.Repeat("10:mailbox u1,", batch)), int64(batch*len("5:OK u1,"))
	for _, conns := range []int{1, 4} {
		b.Run(fmt.Sprintf("ahead=%d/conns=%d", batch, conns), func(b *testing.B) {
			busy := w.cpu("f1")
			measure(b, conns, dialTCP(w.cluster.Addr("f1", "socketmap")), shutTCP, func(c *tcp, _ int) error {
				c.Write(request)
				_, err := io.CopyN(io.Discard, c.r, answer)
				return err
			})
			cost := w.cpu("f1") - busy
			b.ReportMetric(float64(b.N*batch)/b.Elapsed().Seconds(), "lookups/s")
			b.ReportMetric(float64(cost.Nanoseconds())/float64(b.N*batch), "cpu-ns/lookup")
		})
	}
}

// How long does a look-up take at 20 000 a second on four connections, with nothing else to do, and while
// a Cyrus frontend reads a large map again and again and a backend writes?
func BenchmarkSocketmapLatency(b *testing.B) {
	const rate = 20000
	w := start(b)
	if err := load(w.cluster.Addr("c1", "mupdate"), records()); err != nil {
		b.Fatal(err)
	}
	for _, beside := range []string{"nothing", "resync"} {
		b.Run(fmt.Sprintf("rate=%d/beside=%s", rate, beside), func(b *testing.B) {
			ctx, cancel := context.WithCancel(b.Context())
			rounds := 0
			var work sync.WaitGroup
			if beside == "resync" {
				work.Go(func() { rounds = w.resync(ctx, b) })
				work.Go(func() { w.write(ctx, b) })
			}
			var mu sync.Mutex
			var took []time.Duration
			collect := func(c *tcp) {
				mu.Lock()
				took = append(took, c.took...)
				mu.Unlock()
				c.Close()
			}
			began := time.Now()
			measure(b, 4, dialTCP(w.cluster.Addr("f1", "socketmap")), collect, func(c *tcp, n int) error {
				time.Sleep(time.Until(began.Add(time.Duration(n) * time.Second / rate)))
				sent := time.Now()
				io.WriteString(c, "10:mailbox u1,")
				_, err := io.CopyN(io.Discard, c.r, int64(len("5:OK u1,")))
				c.took = append(c.took, time.Since(sent))
				return err
			})
			cancel()
			work.Wait()
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
			b.ReportMetric(float64(rounds), "resyncs")
		})
	}
}

// tcp is a connection with its reader, and how long answers took.
type tcp struct {
	net.Conn
	r    *bufio.Reader
	took []time.Duration
}

func dialTCP(addr string) func(int) (*tcp, error) {
	return func(int) (*tcp, error) {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return nil, err
		}
		return &tcp{Conn: c, r: bufio.NewReader(c)}, nil
	}
}

func shutTCP(c *tcp) { c.Close() }

// resync reads the whole map from the frontend, as a Cyrus frontend does at its start, until ctx ends.
func (w *world) resync(ctx context.Context, b *testing.B) (rounds int) {
	c, err := dialMupdate(w.cluster.Addr("f1", "mupdate"))
	if err != nil {
		b.Error(err)
		return 0
	}
	defer c.Close()
	for ; ctx.Err() == nil; rounds++ {
		if err := c.List(ctx, "", func(mbox.Entry) error { return nil }); err != nil && ctx.Err() == nil {
			b.Error(err)
		}
	}
	return rounds
}

// write makes mailboxes until ctx ends.
func (w *world) write(ctx context.Context, b *testing.B) {
	c, err := dialMupdate(w.cluster.Addr("c1", "mupdate"))
	if err != nil {
		b.Error(err)
		return
	}
	defer c.Close()
	for ctx.Err() == nil {
		if err := makeMailbox(c); err != nil {
			b.Error(err)
			return
		}
	}
}
