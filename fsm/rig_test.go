package fsm

import (
	"bytes"
	"io"
	"slices"
	"testing"

	"murder/internal/mbox"
)

// rig drives one machine as a leader would.
type rig struct {
	t     testing.TB
	m     *Machine
	index uint64
	clock uint64
	log   [][]byte // every entry so far
	last  Applied
}

func newRig(t testing.TB) *rig { return &rig{t: t, m: New()} }

// batch applies envelopes as one entry.
func (r *rig) batch(envelopes ...Envelope) []Result {
	r.t.Helper()
	entry := AppendBatch(nil, r.clock, envelopes)
	r.index++
	applied, err := r.m.Apply(r.index, entry)
	if err != nil {
		r.t.Fatalf("entry %d: %v", r.index, err)
	}
	r.log = append(r.log, entry)
	r.last = applied
	return applied.Results
}

func (r *rig) do(c Command) Result {
	r.t.Helper()
	return r.batch(Envelope{Command: c})[0]
}

// write applies a write and returns the outcome.
func (r *rig) write(w mbox.Write) mbox.Outcome {
	r.t.Helper()
	return r.do(MailboxWrite{Write: w, At: 1000}).Outcome
}

func (r *rig) pass(ms uint64) { r.clock += ms }

func (r *rig) get(n mbox.Name) mbox.Entry {
	e, _ := r.m.View().Get(n)
	return e
}

// want fails unless a write has the outcome and leaves the record (name, index aside) as given; a
// change must have been reported exactly if changed.
func (r *rig) want(w mbox.Write, outcome mbox.Outcome, rec mbox.Entry, changed bool) {
	r.t.Helper()
	if got := r.write(w); got != outcome {
		r.t.Errorf("%v %s %s: got %v, want %v", w.Kind, w.Name, w.Location, got, outcome)
	}
	got := r.get(w.Name)
	if changed && rec.State != mbox.Absent && got.Index != r.index {
		r.t.Errorf("%v %s: record has index %d, want %d", w.Kind, w.Name, got.Index, r.index)
	}
	got.Name, got.Index = "", 0
	if got != rec {
		r.t.Errorf("%v %s %s: record is %+v, want %+v", w.Kind, w.Name, w.Location, got, rec)
	}
	if (len(r.last.Changes) > 0) != changed {
		r.t.Errorf("%v %s %s: changes %+v, want some: %v", w.Kind, w.Name, w.Location, r.last.Changes, changed)
	}
}

func (r *rig) history(n mbox.Name) []EventKind {
	var kinds []EventKind
	r.m.View().History(n, func(e Event) bool {
		kinds = append(kinds, e.Kind)
		return true
	})
	return kinds
}

func (r *rig) wantHistory(n mbox.Name, want ...EventKind) {
	r.t.Helper()
	if got := r.history(n); !slices.Equal(got, want) {
		r.t.Errorf("history of %s: got %v, want %v", n, got, want)
	}
}

func snapshotBytes(t testing.TB, m *Machine) []byte {
	t.Helper()
	var b bytes.Buffer
	n, err := m.Snapshot().WriteTo(&b)
	if err != nil || n != int64(b.Len()) {
		t.Fatalf("snapshot: wrote %d of %d octets: %v", n, b.Len(), err)
	}
	return b.Bytes()
}

// wantSame fails unless two machines are equal in all that is replicated.
func wantSame(t testing.TB, a, b *Machine) {
	t.Helper()
	if a.Index() != b.Index() || a.Digest() != b.Digest() {
		t.Fatalf("index %d and %d, digest %v and %v", a.Index(), b.Index(), a.Digest(), b.Digest())
	}
	if !bytes.Equal(snapshotBytes(t, a), snapshotBytes(t, b)) {
		t.Fatalf("snapshots at index %d differ", a.Index())
	}
}

func restored(t testing.TB, m *Machine) *Machine {
	t.Helper()
	back, err := ReadSnapshot(bytes.NewReader(snapshotBytes(t, m)))
	if err != nil {
		t.Fatal(err)
	}
	wantSame(t, m, back)
	return back
}

const (
	srvA, srvB = mbox.Server("a.example"), mbox.Server("b.example")
	acl        = mbox.ACL("u\tlrswipkxtecda\tanyone\tp\t")
)

// Sessions of two backends, one command each.
func by(id string, s mbox.Server, flags ...mbox.SessionFlags) mbox.Session {
	session := mbox.Session{ID: id, Identity: "be-" + string(s[:1]), Peer: "192.0.2.1"}
	if s != "" {
		session.Servers = []mbox.Server{s}
	}
	for _, f := range flags {
		session.Flags |= f
	}
	return session
}

func reserve(n mbox.Name, at mbox.Location, s mbox.Session) mbox.Write {
	return mbox.Write{Kind: mbox.Reserve, Name: n, Location: at, By: s}
}

func activate(n mbox.Name, at mbox.Location, a mbox.ACL, s mbox.Session) mbox.Write {
	return mbox.Write{Kind: mbox.Activate, Name: n, Location: at, ACL: a, By: s}
}

func deactivate(n mbox.Name, at mbox.Location, s mbox.Session) mbox.Write {
	return mbox.Write{Kind: mbox.Deactivate, Name: n, Location: at, By: s}
}

func remove(n mbox.Name, s mbox.Session) mbox.Write {
	return mbox.Write{Kind: mbox.Delete, Name: n, By: s}
}

func endSession(id string) mbox.Write {
	return mbox.Write{Kind: mbox.EndSession, By: mbox.Session{ID: id}}
}

// pipe writes a snapshot in another goroutine, and returns the end to read from.
func pipe(s *Snapshot) io.Reader {
	r, w := io.Pipe()
	go func() {
		_, err := s.WriteTo(w)
		w.CloseWithError(err)
	}()
	return r
}
