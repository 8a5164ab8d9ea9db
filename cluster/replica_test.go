package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"murder/fsm"
	"murder/internal/mbox"
)

type memorySink struct {
	bytes.Buffer
	cancelled bool
}

func (s *memorySink) ID() string    { return "test" }
func (s *memorySink) Close() error  { return nil }
func (s *memorySink) Cancel() error { s.cancelled = true; return nil }

func quietReplica(t *testing.T) *replica {
	return newReplica(slog.New(slog.DiscardHandler), func(code int, reason string) { t.Errorf("exit %d: %s", code, reason) })
}

func entryOf(names ...string) []byte {
	var envs []fsm.Envelope
	for _, n := range names {
		envs = append(envs, fsm.Envelope{Command: fsm.MailboxWrite{Write: activate(n)}})
	}
	return fsm.AppendBatch(nil, 0, envs)
}

func (r *replica) put(index uint64, names ...string) {
	r.Apply(&raft.Log{Index: index, Type: raft.LogCommand, Data: entryOf(names...)})
}

func TestReplicaChanges(t *testing.T) {
	t.Parallel()
	r := quietReplica(t)
	r.put(3, "user.a", "user.b")
	r.put(5, "user.c")
	got, to, err := r.since(testContext(t), 0)
	if err != nil || to != 5 || len(got) != 3 {
		t.Fatalf("got %v %d %v", got, to, err)
	}
	got, to, err = r.since(testContext(t), 3)
	if err != nil || to != 5 || len(got) != 1 || got[0].Name != "user.c" {
		t.Fatalf("got %v %d %v", got, to, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, _, err := r.since(ctx, 5); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	arrived := make(chan int)
	go func() {
		got, _, _ := r.since(testContext(t), 5)
		arrived <- len(got)
	}()
	r.put(6, "user.d")
	if n := <-arrived; n != 1 {
		t.Fatalf("%d changes", n)
	}
}

// The feed is bounded, forgets whole indexes, and says so.
func TestReplicaLagged(t *testing.T) {
	t.Parallel()
	r := quietReplica(t)
	index := uint64(0)
	for n := 0; n <= 2*maxChanges; n += 500 {
		names := make([]string, 500)
		for i := range names {
			names[i] = fmt.Sprint("user.u", n+i)
		}
		index++
		r.put(index, names...)
	}
	if _, _, err := r.since(testContext(t), 1); !errors.Is(err, mbox.ErrLagged) {
		t.Fatalf("got %v", err)
	}
	after, total := r.floor, 0
	for after < index {
		got, to, err := r.since(testContext(t), after)
		if err != nil || to <= after {
			t.Fatalf("after %d: %d %v", after, to, err)
		}
		if len(got) > changesAtATime+500 {
			t.Fatalf("%d changes at a time", len(got))
		}
		total += len(got)
		after = to
	}
	if want := int(index-r.floor) * 500; total != want {
		t.Errorf("%d changes, want %d", total, want)
	}
}

// A few long ACLs count for many changes.
func TestReplicaLaggedByOctets(t *testing.T) {
	t.Parallel()
	r := quietReplica(t)
	long := strings.Repeat("u\tl\t", mbox.MaxACLLen/5)
	index := uint64(0)
	for sent := 0; sent <= 2*maxChangeOctets; sent += 3 * len(long) {
		var envs []fsm.Envelope
		for i := range 3 {
			w := activate(fmt.Sprint("user.u", i))
			w.ACL = mbox.ACL(fmt.Sprint(index, long[10:]))
			envs = append(envs, fsm.Envelope{Command: fsm.MailboxWrite{Write: w}})
		}
		index++
		r.Apply(&raft.Log{Index: index, Type: raft.LogCommand, Data: fsm.AppendBatch(nil, 0, envs)})
	}
	if _, _, err := r.since(testContext(t), 1); !errors.Is(err, mbox.ErrLagged) {
		t.Fatalf("got %v", err)
	}
	if r.octets > maxChangeOctets || len(r.changes)%3 != 0 || len(r.changes) == 0 {
		t.Errorf("%d changes of %d octets are kept", len(r.changes), r.octets)
	}
	for after := r.floor; after < index; {
		got, to, err := r.since(testContext(t), after)
		if err != nil || to <= after || len(got)%3 != 0 || len(got)*len(long) > changeOctetsOnce+3*len(long) {
			t.Fatalf("after %d: %d changes up to %d, %v", after, len(got), to, err)
		}
		after = to
	}
}

func TestReplicaRestore(t *testing.T) {
	t.Parallel()
	src, dst := quietReplica(t), quietReplica(t)
	dst.put(2, "user.gone", "user.same")
	src.put(2, "user.same")
	src.put(9, "user.new")
	snap, err := src.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	var sink memorySink
	if err := snap.Persist(&sink); err != nil {
		t.Fatal(err)
	}
	snap.Release()
	reached := make(chan error)
	go func() { reached <- dst.wait(testContext(t), 9) }()
	if err := dst.Restore(io.NopCloser(&sink.Buffer)); err != nil {
		t.Fatal(err)
	}
	if err := <-reached; err != nil {
		t.Fatal(err)
	}
	got, to, err := dst.since(testContext(t), 2)
	if err != nil || to != 9 {
		t.Fatal(to, err)
	}
	kinds := map[mbox.Name]mbox.State{}
	for _, c := range got {
		kinds[c.Name] = c.State
	}
	if len(kinds) != 2 || kinds["user.gone"] != mbox.Absent || kinds["user.new"] != mbox.Active {
		t.Errorf("difference: %v", kinds)
	}
	// A copy that was empty before has no difference to tell.
	fresh := quietReplica(t)
	snap, _ = src.Snapshot()
	sink = memorySink{}
	snap.Persist(&sink)
	if err := fresh.Restore(io.NopCloser(&sink.Buffer)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := fresh.since(testContext(t), 0); !errors.Is(err, mbox.ErrLagged) {
		t.Errorf("got %v", err)
	}
}

func TestReplicaWait(t *testing.T) {
	t.Parallel()
	r := quietReplica(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if err := r.wait(ctx, 10); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if len(r.waiters) != 0 {
		t.Error("the waiter was left behind")
	}
	done := make(chan uint64, 10)
	for i := range uint64(10) {
		go func() {
			r.wait(testContext(t), i+1)
			done <- i + 1
		}()
	}
	eventually(t, "all wait", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.waiters) == 10
	})
	r.put(4, "user.a")
	for range 4 {
		if i := <-done; i > 4 {
			t.Errorf("woken too early: %d", i)
		}
	}
	r.put(10, "user.b")
	for range 6 {
		<-done
	}
}

func TestReplicaStops(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		entry []byte
		code  int
	}{
		"damaged": {append(entryOf("user.a")[:20:20], "xxxxxxxxxxxx"...), ExitCorrupt},
		"newer":   {[]byte{0xB7, 99, 0, 0}, ExitVersion},
	} {
		codes := make(chan int)
		stopped := make(chan struct{})
		r := newReplica(slog.New(slog.DiscardHandler), func(code int, _ string) {
			codes <- code
			<-stopped
			panic("stop here")
		})
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer func() { recover() }()
			r.Apply(&raft.Log{Index: 7, Type: raft.LogCommand, Data: c.entry})
		}()
		if code := <-codes; code != c.code {
			t.Errorf("%s: exit %d, want %d", name, code, c.code)
		}
		close(stopped)
		<-done
	}
}
