package mupdate

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"testing"

	"murder/internal/mbox"
)

func filled(n int) *memory {
	dir := newMemory()
	entries := make([]mbox.Entry, n)
	for i := range entries {
		entries[i] = mbox.Entry{
			Name: mbox.Name(fmt.Sprintf("user.u%06d.folder-%d", i/10, i%10)), State: mbox.Active,
			Location: "backend1.example.org!default", ACL: mbox.ACL(fmt.Sprintf("u%06d\tlrswipkxtecdan\tanyone\tp\t", i/10)),
		}
	}
	dir.have(entries...)
	return dir
}

// frozen serves one view, as the real directory does at no cost.
type frozen struct {
	*memory
	view mbox.View
}

func (f *frozen) View() mbox.View { return f.view }

// How long does a resync of a backend with 100 000 mailboxes take on the server's side?
func BenchmarkList100k(b *testing.B) {
	for _, order := range []mbox.Order{mbox.OrderDB, mbox.OrderOctet} {
		b.Run(order.String(), func(b *testing.B) {
			dir := filled(100_000)
			cfg := testConfig(b, &frozen{dir, dir.View()})
			cfg.Logger = slog.New(slog.DiscardHandler)
			cfg.Identities["ro"] = Identity{Order: order}
			s := startServer(b, cfg)
			d := loggedIn(b, s, "ro")
			b.ReportAllocs()
			b.ResetTimer()
			for b.Loop() {
				d.send("X1 LIST\r\n")
				if err := skip(d.nc, "X1 OK"); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(100_000*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}

// skip reads fast until the end of an answer.
func skip(nc net.Conn, last string) error {
	buf := make([]byte, 64<<10)
	for tail := ""; ; {
		n, err := nc.Read(buf)
		if err != nil {
			return err
		}
		tail += string(buf[max(0, n-100):n])
		if i := max(0, len(tail)-100); containsLine(tail[i:], last) {
			return nil
		}
		tail = tail[max(0, len(tail)-100):]
	}
}

func containsLine(s, prefix string) bool {
	for i := 0; i+len(prefix) < len(s); i++ {
		if s[i] == '\n' && s[i+1:i+1+len(prefix)] == prefix {
			return true
		}
	}
	return false
}

// How many writes a second does one session get through, apart from replication?
func BenchmarkBatch(b *testing.B) {
	cfg := testConfig(b, &accepting{newMemory()})
	cfg.Logger = slog.New(slog.DiscardHandler)
	s := startServer(b, cfg)
	c := dialClient(b, s, "be-a")
	writes := make([]mbox.Write, 1024)
	for i := range writes {
		writes[i] = mbox.Write{Kind: mbox.Activate, Name: mbox.Name(fmt.Sprint("user.u", i)), Location: "a.example!p", ACL: "u\tlrs\t"}
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Batch(context.Background(), writes); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(writes)*b.N)/b.Elapsed().Seconds(), "writes/s")
}

type accepting struct{ *memory }

func (a *accepting) Write(_ context.Context, w []mbox.Write) ([]mbox.Verdict, error) {
	return make([]mbox.Verdict, len(w)), nil
}

// What does one connection cost from connect to logout? Backends make one for every operation.
func BenchmarkSession(b *testing.B) {
	cfg := testConfig(b, newMemory())
	cfg.Logger = slog.New(slog.DiscardHandler)
	s := startServer(b, cfg)
	for b.Loop() {
		c, err := Dial(context.Background(), ClientConfig{Addresses: []string{s.addr}, SASL: Password("be-a", testPassword)})
		if err != nil {
			b.Fatal(err)
		}
		if err := c.Logout(context.Background()); err != nil && err != io.EOF {
			b.Fatal(err)
		}
	}
}
