package fsm

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"runtime"
	"sync"
	"testing"
	"time"

	"murder/internal/mbox"
)

var mailboxes = flag.Int("mailboxes", 1_000_000, "size of the map in benchmarks")

var folders = [...]string{"", ".Sent", ".Drafts", ".Trash", ".Junk", ".Archive", ".Archive.2025", ".Projects.Proposal draft",
	".Lists.golang-nuts", ".Receipts"}

// nth returns a mailbox of a site with ten mailboxes for each user on eight backends. Users come in
// scattered order, the mailboxes of one together.
func nth(i int) (mbox.Name, mbox.Location, mbox.ACL) {
	user := fmt.Sprintf("u%07d", i/len(folders)*7919%10_000_019)
	n := mbox.Name("user." + user + folders[i%len(folders)])
	return n, mbox.At(mbox.Server(fmt.Sprintf("imap%d.example.org", i/10%8)), fmt.Sprintf("part%d", i/80%4)),
		mbox.ACL(user + "\tlrswipkxtecda\tanyone\tp\t")
}

// fill applies the first registrations of a site, as backends would at their first synchronisation.
// With views, somebody asks for a view after every batch.
func fill(tb testing.TB, n int, views bool) *Machine {
	m := New()
	index := uint64(0)
	for i := 0; i < n; {
		var batch []Envelope
		for ; i < n && len(batch) < 256; i++ {
			name, location, acl := nth(i)
			w := mbox.Write{Kind: mbox.Activate, Name: name, Location: location, ACL: acl,
				By: mbox.Session{ID: "c1-17-9", Identity: "backend", Peer: "192.0.2.9", Servers: []mbox.Server{location.Server()}}}
			batch = append(batch, Envelope{Command: MailboxWrite{Write: w, At: 1700000000}})
		}
		index++
		if _, err := m.Apply(index, AppendBatch(nil, index, batch)); err != nil {
			tb.Fatal(err)
		}
		if views {
			m.View()
		}
	}
	return m
}

var filled = sync.OnceValue(func() *Machine { return fill(&testing.B{}, *mailboxes, true) })

func liveBytes() float64 {
	runtime.GC()
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return float64(s.HeapAlloc)
}

// What does a map of -mailboxes need of a node: how long does it take to apply the first registrations of all, to keep
// a snapshot, and to read it back, and how much memory does it take, applied and read back, all tables included?
func BenchmarkMap(b *testing.B) {
	for b.Loop() {
		empty := liveBytes()
		each := func() float64 { return (liveBytes() - empty) / float64(*mailboxes) }
		begun := time.Now()
		lap := func() float64 { d := time.Since(begun); begun = time.Now(); return d.Seconds() }

		m := fill(b, *mailboxes, true)
		b.ReportMetric(lap(), "load-s")
		b.ReportMetric(each(), "B/mailbox")
		var s bytes.Buffer
		lap()
		if _, err := m.Snapshot().WriteTo(&s); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(lap(), "snapshot-s")
		b.ReportMetric(float64(s.Len())/float64(*mailboxes), "snapshot-B/mailbox")
		want := m.Digest()
		m = nil
		empty = liveBytes() // with the snapshot
		lap()
		restored, err := ReadSnapshot(&s)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(lap(), "restore-s")
		empty -= float64(s.Cap()) // it is read, and may be gone
		s = bytes.Buffer{}
		b.ReportMetric(each(), "restored-B/mailbox")
		if restored.Digest() != want {
			b.Fatal("another map was read back")
		}
	}
	b.ReportMetric(0, "ns/op")
}

// Can one core apply what a resynchronisation of backends brings? Commands per second against a full
// map, by batch size, with a view asked for after every batch.
func BenchmarkApply(b *testing.B) {
	m := filled()
	for _, size := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("batch=%d", size), func(b *testing.B) {
			index, next := m.Index(), 0
			for b.Loop() {
				b.StopTimer()
				batch := make([]Envelope, size)
				for i := range batch {
					next += 104_729
					name, location, acl := nth(next % *mailboxes)
					w := mbox.Write{Kind: mbox.Activate, Name: name, Location: location, ACL: acl + mbox.ACL(fmt.Sprintf("x%d\tl\t", next%1000)),
						By: mbox.Session{ID: "s", Identity: "backend"}}
					batch[i] = Envelope{Command: MailboxWrite{Write: w}}
				}
				entry := AppendBatch(nil, index, batch)
				index++
				b.StartTimer()
				if _, err := m.Apply(index, entry); err != nil {
					b.Fatal(err)
				}
				m.View()
			}
			b.ReportMetric(float64(b.N*size)/b.Elapsed().Seconds(), "commands/s")
		})
	}
}

// What does routing one message cost?
func BenchmarkGet(b *testing.B) {
	v := filled().View()
	i := 0
	for b.Loop() {
		i += 104_729
		name, _, _ := nth(i % *mailboxes)
		if _, ok := v.Get(name); !ok {
			b.Fatal(name)
		}
	}
}

// How long does a LIST or the dump of an UPDATE take at least?
func BenchmarkWalk(b *testing.B) {
	v := filled().View()
	for b.Loop() {
		n := 0
		v.Ascend("", func(mbox.Entry) bool { n++; return true })
	}
}

// How long does ctl_mboxlist wait for the records of one of eight servers?
func BenchmarkWalkOneServer(b *testing.B) {
	v := filled().View()
	for b.Loop() {
		n := 0
		v.AscendAt("imap3.example.org!", func(mbox.Entry) bool { n++; return true })
		if n == 0 {
			b.Fatal("no records")
		}
	}
}

// How long is a node busy with a snapshot, and how large is it?
func BenchmarkSnapshot(b *testing.B) {
	m := filled()
	for b.Loop() {
		n, err := m.Snapshot().WriteTo(io.Discard)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(n)/float64(*mailboxes), "B/mailbox")
	}
}

// How long until a new frontend can serve, once it has the snapshot?
func BenchmarkRestore(b *testing.B) {
	s := snapshotBytes(b, filled())
	for b.Loop() {
		if _, err := ReadSnapshot(bytes.NewReader(s)); err != nil {
			b.Fatal(err)
		}
	}
}
