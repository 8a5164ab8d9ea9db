package lmtp

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"murder/internal/mbox"
)

func newResolver(t *testing.T, dir *directory) *Resolver {
	t.Helper()
	r, err := NewResolver(ResolverConfig{Directory: dir})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func address(t *testing.T, path string) Address {
	t.Helper()
	a, err := ParseAddress(path)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// Hits ask nobody; what is created elsewhere a moment before is never called unknown.
func TestResolveCreatedElsewhere(t *testing.T) {
	dir := newDirectory(active("user.alice", "be1"))
	r := newResolver(t, dir)
	for range 100 {
		if route := r.Resolve(context.Background(), address(t, "alice"), ""); route.Status != Found || route.Server != "be1" {
			t.Fatalf("got %+v", route)
		}
	}
	if n := dir.asked(); n != 0 {
		t.Errorf("%d barriers for hits", n)
	}
	for i := range 1000 {
		user := fmt.Sprintf("u%d", i)
		dir.later(active(mbox.Name("user."+user), "be2"))
		if route := r.Resolve(context.Background(), address(t, user), ""); route.Status != Found || !route.Fresh {
			t.Fatalf("%s: got %+v", user, route)
		}
	}
}

// Questions that come while a barrier runs share the next one: the running one began too early.
func TestBarriersAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := newDirectory()
		dir.block = make(chan struct{})
		r := newResolver(t, dir)
		var wait sync.WaitGroup
		ask := func(user string) {
			a := address(t, user)
			wait.Go(func() {
				if route := r.Resolve(context.Background(), a, ""); route.Status != Unknown || !route.Fresh {
					t.Errorf("%s: got %+v", user, route)
				}
			})
		}
		ask("first")
		synctest.Wait()
		for i := range 50 {
			ask(fmt.Sprintf("u%d", i))
		}
		synctest.Wait()
		if n := dir.asked(); n != 1 {
			t.Errorf("%d barriers began at once", n)
		}
		close(dir.block)
		wait.Wait()
		if n := dir.asked(); n != 2 {
			t.Errorf("%d barriers for 51 questions", n)
		}
	})
}

// One name asks four times a second at most, whoever asks, and is never answered from memory.
func TestBarriersOfOneName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := newDirectory()
		r := newResolver(t, dir)
		a := address(t, "nobody")
		began := time.Now()
		for i := range 5 {
			if i == 4 {
				dir.later(active("user.nobody", "be1"))
			}
			want := Unknown
			if i == 4 {
				want = Found
			}
			if route := r.Resolve(context.Background(), a, ""); route.Status != want {
				t.Errorf("%d: got %v", i, route.Status)
			}
		}
		if d := time.Since(began); d != 4*barrierEvery {
			t.Errorf("five questions took %v", d)
		}
		dir.set(absentEntry("user.nobody"))
		before := dir.asked()
		var wait sync.WaitGroup
		for range 20 {
			wait.Go(func() { r.Resolve(context.Background(), a, "") })
		}
		wait.Wait()
		if n := dir.asked() - before; n != 1 {
			t.Errorf("%d barriers for 20 questions at once", n)
		}
		synctest.Wait()
	})
}

func TestBarrierFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := newDirectory()
		dir.fail(mbox.ErrUnavailable)
		r := newResolver(t, dir)
		if route := r.Resolve(context.Background(), address(t, "a"), ""); route.Status != Unsure {
			t.Errorf("got %v", route.Status)
		}
		dir.fail(nil)
		dir.block = make(chan struct{}) // no answer at all
		began := time.Now()
		if route := r.Resolve(context.Background(), address(t, "b"), ""); route.Status != Unsure {
			t.Errorf("got %v", route.Status)
		}
		if d := time.Since(began); d > barrierLimit {
			t.Errorf("took %v", d)
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := r.barrier.wait(ctx, "x"); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		close(dir.block)
		synctest.Wait()
	})
}

func TestBarrierMemoryIsBounded(t *testing.T) {
	b := newBarrier(newDirectory(), nil)
	for i := range 3 * barrierNames {
		<-b.ask(mbox.Name(fmt.Sprint(i))).done
	}
	if len(b.names) > barrierNames {
		t.Errorf("%d names remembered", len(b.names))
	}
}

// Names that nobody can have need no barrier.
func TestImpossibleNames(t *testing.T) {
	dir := newDirectory()
	r := newResolver(t, dir)
	if route := r.Resolve(context.Background(), address(t, `"a b"@x`), ""); route.Status != Unknown {
		t.Errorf("got %v", route.Status)
	}
	if n := dir.asked(); n != 0 {
		t.Errorf("%d barriers", n)
	}
}

// Cyrus must find its default domain in an address as it is configured there.
func TestPathForTheBackend(t *testing.T) {
	ns := mbox.Namespace{Dot: true, Virtual: true, DefaultDomain: "Def.org"}
	r, err := NewResolver(ResolverConfig{
		Directory: newDirectory(active("user.alice", "be1"), active("ex.com!user.alice", "be2"), shared("news", "be1", "anyone\tlp\t")),
		Mapping:   Mapping{Namespace: ns, Fuzzy: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]string{
		"alice": "alice", "Alice+X@DEF.ORG": "Alice+X@Def.org", "ALICE@EX.com": "ALICE@EX.com", "+News@def.org": "+news@Def.org", "+NEWS": "+news",
	} {
		if route, sure := r.Peek(address(t, in), ""); !sure || route.Status != Found || route.Path != want {
			t.Errorf("%s: got %+v, want %s", in, route, want)
		}
	}
}
