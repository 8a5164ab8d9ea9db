package bench

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
	"testing"

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
