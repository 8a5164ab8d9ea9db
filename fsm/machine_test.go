package fsm

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"murder/internal/mbox"
)

func TestCheckpoint(t *testing.T) {
	r := newRig(t)
	r.write(activate("x", "a.example!p", acl, by("1", srvA)))
	at, digest := r.m.Index(), r.m.Digest()
	r.write(activate("y", "a.example!p", acl, by("1", srvA)))
	r.do(Checkpoint{Index: at, Digest: digest})
	agrees := Comparison{Index: at, Own: digest, Leader: digest}
	if c := r.m.Compared(); c != agrees {
		t.Errorf("compared: %+v", c)
	}
	r.do(Checkpoint{}) // of a leader that had nothing yet
	if c := r.m.Compared(); c != agrees {
		t.Errorf("compared: %+v", c)
	}
	back := restored(t, r.m)
	r.do(Checkpoint{Index: at, Digest: Digest{1}})
	if c := r.m.Compared(); c.Index != at || c.Own != digest || c.Leader != (Digest{1}) {
		t.Errorf("compared: %+v", c)
	}
	// What was before the snapshot cannot be compared; the snapshot itself can.
	if _, err := back.Apply(r.index, r.log[r.index-1]); err != nil || back.Compared() != (Comparison{}) {
		t.Errorf("%v, compared %+v", err, back.Compared())
	}
	wantSame(t, r.m, back) // what was compared is not part of the state
	back = restored(t, r.m)
	entry := AppendBatch(nil, 0, []Envelope{{Command: Checkpoint{Index: r.index, Digest: Digest{1}}}})
	if _, err := back.Apply(r.index+1, entry); err != nil || back.Compared().Index != r.index {
		t.Errorf("%v, compared %+v", err, back.Compared())
	}
}

func TestOneViewPerEntry(t *testing.T) {
	r := newRig(t)
	if r.m.View() != r.m.View() {
		t.Error("two views of one state")
	}
	before := r.m.View()
	r.write(activate("x", "a.example!p", acl, by("1", srvA)))
	if before.Len() != 0 || before.Index() != 0 || r.m.View().Len() != 1 || r.m.View().Index() != 1 {
		t.Error("a view changed, or did not follow")
	}
}

// Views are read, and snapshots written, while the machine goes on. Run with -race.
func TestConcurrentReaders(t *testing.T) {
	r := everything(t)
	var current atomic.Pointer[View]
	current.Store(r.m.View())
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for !stop.Load() {
				v := current.Load()
				n := 0
				v.Ascend("", func(e mbox.Entry) bool {
					n++
					if got, ok := v.Get(e.Name); !ok || got != e {
						t.Errorf("%+v and %+v", got, e)
					}
					return true
				})
				if n != v.Len() {
					t.Errorf("walked %d of %d", n, v.Len())
				}
				v.Events(0, func(e Event) bool {
					v.History(e.Name, func(Event) bool { return true })
					return n%7 == 0
				})
				v.Conflict("big")
				v.Tombstones(func(Tombstone) bool { return true })
			}
		})
	}
	for i := range 200 {
		n := mbox.Name(fmt.Sprintf("user.w%d", i))
		r.write(activate(n, "a.example!p", acl, by("1", srvA)))
		current.Store(r.m.View())
		if i%20 == 0 {
			s, want := r.m.Snapshot(), r.m.Digest()
			wg.Go(func() {
				m, err := ReadSnapshot(pipe(s))
				if err != nil || m.Digest() != want {
					t.Errorf("snapshot beside writes: %v", err)
				}
			})
		}
		r.write(remove(n, by("1", srvA)))
	}
	stop.Store(true)
	wg.Wait()
}

func TestAscendAt(t *testing.T) {
	r := newRig(t)
	for i, at := range []mbox.Location{"a.example!p", "a.example!q", "a.example.org!p", "b.example!p", "a.example!p", "a.example"} {
		r.write(activate(mbox.Name(string(rune('a'+i))), at, acl, by("1", srvA)))
	}
	for prefix, want := range map[string]string{"a.example!": "abe", "a.example!p": "ae", "a.example": "abcef", "": "abcdef", "c": ""} {
		got := ""
		r.m.View().AscendAt(prefix, func(e mbox.Entry) bool { got += string(e.Name); return true })
		if got != want {
			t.Errorf("%q: got %q, want %q", prefix, got, want)
		}
	}
	n := 0
	r.m.View().AscendAt("a.example!", func(mbox.Entry) bool { n++; return n < 2 })
	if n != 2 {
		t.Errorf("%d after being told to stop", n)
	}
}

func TestDeletedNames(t *testing.T) {
	r := newRig(t)
	for _, n := range []mbox.Name{"kept", "gone", "again"} {
		r.write(activate(n, "a.example!p", acl, by("1", srvA)))
	}
	r.write(remove("gone", by("1", srvA)))
	r.write(remove("again", by("1", srvA)))
	r.write(activate("again", "a.example!p", acl, by("1", srvA)))
	var got []mbox.Name
	if all := r.m.View().DeletedNames(func(n mbox.Name) bool { got = append(got, n); return true }); !all || len(got) != 1 || got[0] != "gone" {
		t.Errorf("got %v, all of them: %v", got, all)
	}
}
