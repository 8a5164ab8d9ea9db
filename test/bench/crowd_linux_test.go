package bench

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"murder/internal/mbox"
	"murder/mupdate"
	"murder/test/harness"
)

// crowd are the sessions that a node holds at a time, and how many of them follow the map.
const (
	crowd   = 5000
	follows = 500
)

// With 5000 sessions connected to one node, 500 of which follow the map: how much memory does a session
// need, and how soon does a change that was made through another node reach a follower? The times are
// from the OK of the change, and from when it was sent, to its row at one of the followers; the
// changes come without a pause. Resident memory is measured from outside, so it has everything in it.
func BenchmarkCrowd(b *testing.B) {
	if testing.Short() {
		b.Skip("opens 5000 connections")
	}
	c := harness.Start(b, harness.Options{Args: []string{"--demo-backends", "0", "--set", "mupdate.max_connections=6000"}})
	addr, pid := c.Addr("f1", "mupdate"), c.PID("f1")
	if err := load(c.Addr("c1", "mupdate"), 1000); err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	before := resident(b, pid)
	var idle []*mupdate.Client
	for range crowd - follows {
		idle = append(idle, dialed(b, addr))
	}
	defer func() {
		for _, c := range idle {
			c.Close()
		}
	}()
	quiet := resident(b, pid)
	rows := make(chan arrival, 1<<16)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	for i := range follows {
		f := dialed(b, addr)
		synced := make(chan struct{})
		all.Go(func() {
			defer f.Close()
			f.Update(ctx, nil, mupdate.Events{
				Row: func(e mbox.Entry) error {
					if i == 0 && strings.HasPrefix(string(e.Name), "crowd") {
						rows <- arrival{e.ACL, time.Now()}
					}
					return nil
				},
				Synced: func() error { close(synced); return nil },
			})
		})
		<-synced
	}
	streaming := resident(b, pid)

	for _, what := range []struct {
		name  string
		pause time.Duration
	}{{"steady", 0}, {"one at a time", 20 * time.Millisecond}} {
		b.Run(what.name, func(b *testing.B) {
			w := dialed(b, c.Addr("c1", "mupdate"))
			defer w.Close()
			var committed, sent []time.Duration
			for i := 0; b.Loop(); i++ {
				acl := mbox.ACL(fmt.Sprintf("u\tl\tn%d\tl\t", serial.Add(1)))
				begun := time.Now()
				if err := w.Activate(ctx, mbox.Name(fmt.Sprint("crowd", i%100)), "crowd.test!p", acl); err != nil {
					b.Fatal(err)
				}
				done := time.Now()
				for {
					r := <-rows
					if r.acl != acl {
						continue
					}
					committed = append(committed, max(0, r.at.Sub(done)))
					sent = append(sent, r.at.Sub(begun))
					break
				}
				time.Sleep(what.pause) // part of what is asked, not a wait for anything
			}
			quantile := func(times []time.Duration, p int) float64 {
				slices.Sort(times)
				return float64(times[len(times)*p/100].Microseconds())
			}
			b.ReportMetric(quantile(committed, 50), "p50-µs-after-OK")
			b.ReportMetric(quantile(committed, 99), "p99-µs-after-OK")
			b.ReportMetric(quantile(sent, 50), "p50-µs-in-all")
			b.ReportMetric(quantile(sent, 99), "p99-µs-in-all")
			b.ReportMetric((quiet-before)/(crowd-follows), "B/idle-session")
			b.ReportMetric((streaming-quiet)/follows, "B/follower")
			b.ReportMetric(streaming/(1<<20), "MB-in-all")
		})
	}
}

func dialed(b *testing.B, addr string) *mupdate.Client {
	b.Helper()
	c, err := dialMupdate(addr)
	if err != nil {
		b.Fatal(err)
	}
	return c
}

// resident is the memory of a process that is in use, in octets.
func resident(b *testing.B, pid int) float64 {
	b.Helper()
	time.Sleep(2 * time.Second) // garbage is collected by and by
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		b.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(data))[1])
	if err != nil {
		b.Fatal(err)
	}
	return float64(pages * os.Getpagesize())
}
