package conformance

import (
	"bytes"
	"fmt"
	"runtime"
	"sync"
	"testing"

	"murder/internal/mbox"
	"murder/mupdate"
)

// How many look-ups does one node answer, each confirmed with the log, to clients that wait for every
// answer and to clients that keep a window of them open?
func BenchmarkFind(b *testing.B) {
	const names = 1000
	for _, voters := range []int{1, 3} {
		b.Run(fmt.Sprintf("voters=%d", voters), func(b *testing.B) { benchmarkFind(b, newSite(b, voters), names) })
	}
}

func benchmarkFind(b *testing.B, s *site, names int) {
	addr := s.serve(b, "c1")
	writes := make([]mbox.Write, names)
	for i := range writes {
		writes[i] = mbox.Write{Kind: mbox.Activate, Name: mbox.Name(fmt.Sprint("user.u", i)), Location: "a!p", ACL: "u\tlrswipkxtecdan\t"}
	}
	if _, err := dial(b, addr, "any").Batch(b.Context(), writes); err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct{ conns, window int }{{1, 1}, {64, 1}, {64, 32}} {
		b.Run(fmt.Sprintf("conns=%d/window=%d", c.conns, c.window), func(b *testing.B) {
			var clients []*talk
			for range c.conns {
				t := connect(b, addr)
				if err := t.login("ro"); err != nil {
					b.Fatal(err)
				}
				clients = append(clients, t)
			}
			var command bytes.Buffer
			for i := range c.window {
				fmt.Fprintf(&command, "X%d FIND \"user.u%d\"\r\n", i, i*7)
			}
			rounds := b.N/(c.conns*c.window) + 1
			var all sync.WaitGroup
			b.ReportAllocs()
			b.ResetTimer()
			for _, t := range clients {
				all.Go(func() {
					for range rounds {
						t.Write(command.Bytes())
						for range 2 * c.window {
							if _, err := t.r.ReadSlice('\n'); err != nil {
								b.Error(err)
								return
							}
						}
					}
				})
			}
			all.Wait()
			b.ReportMetric(float64(rounds*c.conns*c.window)/b.Elapsed().Seconds(), "finds/s")
		})
	}
}

// How many rows a second does a resynchronisation bring, of a backend and of a frontend?
func BenchmarkDump(b *testing.B) {
	const records, servers = 100_000, 8
	addr := newSite(b, 1).serve(b, "c1")
	writes := make([]mbox.Write, records)
	for i := range writes {
		user := fmt.Sprintf("u%06d", i/10)
		writes[i] = mbox.Write{Kind: mbox.Activate, Name: mbox.Name(fmt.Sprintf("user.%s.folder%d", user, i%10)),
			Location: mbox.At(mbox.Server(fmt.Sprintf("imap%d.example.org", i/10%servers)), "default"),
			ACL:      mbox.ACL(user + "\tlrswipkxtecdan\tanyone\tp\t")}
	}
	if _, err := dial(b, addr, "any").Batch(b.Context(), writes); err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct {
		what, command, last string
		rows                int
	}{
		{"LIST", "X1 LIST\r\n", "\nX1 OK", records},
		{"LIST of one server", "X1 LIST \"imap3.example.org!\"\r\n", "\nX1 OK", records / servers},
		{"UPDATE", "U01 UPDATE\r\n", "\nU01 OK", records},
	} {
		b.Run(c.what, func(b *testing.B) {
			b.ReportAllocs()
			buf := make([]byte, 256<<10)
			for b.Loop() {
				t := connect(b, addr)
				if err := t.login("ro"); err != nil {
					b.Fatal(err)
				}
				t.send(c.command)
				for have := 0; ; {
					n, err := t.r.Read(buf[have:])
					if err != nil {
						b.Fatal(err)
					}
					if have += n; bytes.Contains(buf[:have], []byte(c.last)) {
						break
					}
					have = copy(buf, buf[max(0, have-len(c.last)):have])
				}
				t.Close()
			}
			b.ReportMetric(float64(c.rows*b.N)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}

// How much memory does a node need for sessions that do nothing? Heap and stacks, both ends of every
// connection; the client's is some 1 KB.
func BenchmarkIdle(b *testing.B) {
	const sessions = 2000
	for _, c := range []struct{ what, command, last string }{
		{"session", "X1 FIND \"n\"\r\n", "X1 OK"},
		{"stream", "U01 UPDATE\r\n", "U01 OK"},
	} {
		b.Run(c.what, func(b *testing.B) {
			addr := newSite(b, 1).serve(b, "c1", func(cfg *mupdate.Config) { cfg.MaxConnections = 2 * sessions })
			for b.Loop() {
				before := inUse()
				var clients []*talk
				for range sessions {
					t := connect(b, addr)
					if err := t.login("ro"); err != nil {
						b.Fatal(err)
					}
					t.send(c.command)
					if got, err := t.line(); err != nil || got[:len(c.last)] != c.last {
						b.Fatalf("got %q, %v", got, err)
					}
					t.r = nil
					clients = append(clients, t)
				}
				b.ReportMetric((inUse()-before)/sessions, "B/session")
				for _, t := range clients {
					t.Close()
				}
			}
		})
	}
}

func inUse() float64 {
	runtime.GC()
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return float64(s.HeapAlloc + s.StackInuse)
}
