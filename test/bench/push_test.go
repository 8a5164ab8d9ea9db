package bench

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"murder/internal/mbox"
	"murder/test/cyrus"
)

// pushed is how many mailboxes the backend of BenchmarkPush has: $MURDER_BENCH_PUSHED, by default 20 000.
func pushed() int {
	if n, err := strconv.Atoi(os.Getenv("MURDER_BENCH_PUSHED")); err == nil && n > 0 {
		return n
	}
	return 20_000
}

// How long does a real backend take to tell its whole list to a server that knows nothing of it (ctl_mboxlist -m), and
// how long to find that all is told? The mailboxes are in its list only, which is all that the tool looks at.
func BenchmarkPush(b *testing.B) {
	w := start(b)
	if w.rig == nil {
		b.Skip("needs a real backend")
	}
	count := pushed()
	rig, err := cyrus.New(cyrus.Options{Backends: 1, Domain: "push.test", NoPush: true, Mupdate: w.cluster.Addr("c1", "mupdate")})
	if err != nil {
		b.Fatal(err)
	}
	defer rig.Close()
	be := rig.Node("be1")
	var list strings.Builder
	for i := range count {
		fmt.Fprintf(&list, "user.push%06d.folder%d\t0 default owner\tlrswipkxtecdan\t\n", i/10, i%10)
	}
	if out, err := be.ExecInput(list.String(), "ctl_mboxlist", "-u", "-L"); err != nil {
		b.Fatalf("%v\n%.500s", err, out)
	}
	for _, s := range w.mupdateServers() {
		if s.name == "frontend" {
			continue
		}
		if err := be.SetMupdate(s.addr); err != nil {
			b.Fatal(err)
		}
		push := func(b *testing.B) {
			if out, err := be.Exec("ctl_mboxlist", "-m"); err != nil {
				b.Fatalf("%v\n%.500s", err, out)
			}
		}
		b.Run(fmt.Sprintf("what=first/mailboxes=%d/server=%s", count, s.name), func(b *testing.B) {
			for b.Loop() {
				push(b)
				b.StopTimer()
				if got, err := forget(s.addr, be.Server); err != nil || got != count {
					b.Fatalf("%s had %d of %d mailboxes: %v", s.name, got, count, err)
				}
				b.StartTimer()
			}
			note(b.Name(), b.Elapsed()/time.Duration(b.N))
		})
		push(b)
		b.Run(fmt.Sprintf("what=again/mailboxes=%d/server=%s", count, s.name), func(b *testing.B) {
			for b.Loop() {
				push(b)
			}
			note(b.Name(), b.Elapsed()/time.Duration(b.N))
		})
	}
}

// forget deletes all that a server's map has of a backend.
func forget(addr, backend string) (count int, err error) {
	c, err := dialMupdate(addr)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	var writes []mbox.Write
	err = c.List(context.Background(), backend+"!", func(e mbox.Entry) error {
		writes = append(writes, mbox.Write{Kind: mbox.Delete, Name: e.Name})
		return nil
	})
	if err != nil {
		return 0, err
	}
	_, err = c.Batch(context.Background(), writes)
	return len(writes), err
}
