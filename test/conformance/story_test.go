package conformance

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"murder/fsm"
	"murder/internal/mbox"
	"murder/mupdate"
)

// V10: an ACL that needs a literal comes back octet by octet.
func TestLongACL(t *testing.T) {
	t.Parallel()
	addr := newSite(t, 1).serve(t, "c1")
	c := dial(t, addr, "be-a")
	acl := mbox.ACL(strings.Repeat("someone\tlrswipkxtecda\t", 3000)[:60_000])
	if err := c.Activate(t.Context(), "n", "a.example!p", acl); err != nil {
		t.Fatal(err)
	}
	if e, ok, err := c.Find(t.Context(), "n"); err != nil || !ok || e.ACL != acl {
		t.Fatalf("%d octets, %v, %v", len(e.ACL), ok, err)
	}
	raw := connect(t, addr)
	if err := raw.login("ro"); err != nil {
		t.Fatal(err)
	}
	raw.send("X1 FIND \"n\"\r\n")
	if got, err := raw.line(); err != nil || got != `X1 MAILBOX "n" "a.example!p" {60000+}` {
		t.Fatalf("got %q, %v", got, err)
	}
}

// F4: what any node has acknowledged, every voter and the learner show at once.
func TestEveryNodeShowsWhatIsAcknowledged(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3)
	var clients []*mupdate.Client
	for id := range s.nodes {
		clients = append(clients, dial(t, s.serve(t, id), "any"))
	}
	for i := range 50 {
		acl := mbox.ACL(fmt.Sprint(i, "\tl\t"))
		if err := clients[i%len(clients)].Activate(t.Context(), "n", "a!p", acl); err != nil {
			t.Fatal(err)
		}
		for _, c := range clients {
			if e, _, err := c.Find(t.Context(), "n"); err != nil || e.ACL != acl {
				t.Fatalf("round %d: %+v, %v", i, e, err)
			}
		}
	}
}

// I5: a LIST during many writes is one moment of the map. The writer goes round the names with a number
// that counts up, so at any moment the names hold consecutive numbers.
func TestListIsOneIndex(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3)
	const names, writes = 50, 1000
	w := dial(t, s.serve(t, "c1"), "any")
	batch := make([]mbox.Write, writes)
	for i := range batch {
		batch[i] = mbox.Write{Kind: mbox.Activate, Name: mbox.Name(fmt.Sprintf("n%02d", i%names)), Location: "a!p", ACL: mbox.ACL(strconv.Itoa(i))}
	}
	if _, err := w.Batch(t.Context(), batch[:names]); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		var err error
		for at := names; at < writes && err == nil; at += names {
			_, err = w.Batch(t.Context(), batch[at:at+names])
		}
		done <- err
	}()
	r := dial(t, s.serve(t, "c2"), "ro")
	moments := map[int]bool{}
	for over := false; !over; {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			over = true
		default:
		}
		var numbers []int
		var last mbox.Name
		if err := r.List(t.Context(), "a!", func(e mbox.Entry) error {
			n, err := strconv.Atoi(string(e.ACL))
			numbers = append(numbers, n)
			if e.Name <= last {
				err = fmt.Errorf("%s comes after %s", e.Name, last)
			}
			last = e.Name
			return err
		}); err != nil {
			t.Fatal(err)
		}
		slices.Sort(numbers)
		if len(numbers) != names || numbers[names-1]-numbers[0] != names-1 {
			t.Fatalf("rows of more than one moment: %v", numbers)
		}
		moments[numbers[0]] = true
	}
	if !moments[writes-names] {
		t.Error("the last LIST does not show the last write")
	}
}

// R8, and the promise of an OK: the leader is killed while sessions on every node pipeline writes. What
// was acknowledged is there, in the order it was sent, and nothing was done twice.
func TestLeaderKilledUnderPipelines(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3)
	addrs := map[string]string{}
	for id := range s.nodes {
		addrs[id] = s.serve(t, id)
	}
	leader := s.leader()
	if err := dial(t, addrs[leader], "be-a").Reserve(t.Context(), "held", "a.example!p"); err != nil {
		t.Fatal(err)
	}
	const chunk, chunks = 20, 15
	acked := map[string]int{}
	var mu sync.Mutex
	var writers sync.WaitGroup
	half := make(chan struct{}, len(addrs))
	for id := range addrs {
		writers.Go(func() {
			at := id // where this writer writes
			c := dial(t, addrs[at], "any")
			for k := range chunks {
				if k == chunks/3 {
					half <- struct{}{}
				}
				writes := make([]mbox.Write, chunk)
				for i := range writes {
					writes[i] = mbox.Write{Kind: mbox.Activate, Name: mbox.Name("w." + id), Location: mbox.At("a", strconv.Itoa(k*chunk+i+1))}
				}
				errs, err := c.Batch(t.Context(), writes)
				for i, refusal := range errs {
					if refusal == nil {
						mu.Lock()
						acked[id] = k*chunk + i + 1
						mu.Unlock()
					}
				}
				if err != nil { // the session is gone, as a backend's would be: go on elsewhere
					for other := range addrs {
						if other != leader && other != at {
							at = other
							break
						}
					}
					c = dial(t, addrs[at], "any")
				}
			}
		})
	}
	for range addrs {
		<-half
	}
	s.kill(leader)
	writers.Wait()
	s.leader()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for id, n := range s.nodes {
		if _, err := n.Barrier(ctx); err != nil {
			t.Fatal(err)
		}
		if e, _ := n.View().Get("held"); e.State != mbox.Reserved {
			t.Errorf("%s: the reservation is %+v", id, e)
		}
		for w, last := range acked {
			e, _ := n.View().Get(mbox.Name("w." + w))
			if got, _ := strconv.Atoi(e.Location.Partition()); got < last {
				t.Errorf("%s: writer %s was told %d, there is %d", id, w, last, got)
			}
			before := 0
			n.State().History(mbox.Name("w."+w), func(e fsm.Event) bool {
				at, _ := strconv.Atoi(e.Location.Partition())
				if (e.Kind == fsm.EventActivated || e.Kind == fsm.EventUpdated) && at <= before {
					t.Errorf("%s: writer %s: %d after %d", id, w, at, before)
				}
				before = at
				return true
			})
		}
	}
	if len(acked) != len(addrs) {
		t.Errorf("acknowledged: %v", acked)
	}
}

// U9, W4: without a quorum writes are refused or left without an answer in time, a voter answers no
// look-up, and a learner goes on with what it has.
func TestWithoutQuorum(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3)
	soon := func(cfg *mupdate.Config) { cfg.CommandTimeout, cfg.NoopTimeout = 2*time.Second, time.Second }
	voter, learner := s.serve(t, "c1", soon), s.serve(t, "f1", soon)
	w, r := dial(t, voter, "be-a"), dial(t, learner, "ro")
	if err := w.Activate(t.Context(), "n", "a.example!p", ""); err != nil {
		t.Fatal(err)
	}
	stream := connect(t, learner)
	if err := stream.login("ro"); err != nil {
		t.Fatal(err)
	}
	stream.SetDeadline(time.Now().Add(patience))
	stream.send("U01 UPDATE\r\nN1 NOOP\r\n")
	for _, want := range []string{`U01 MAILBOX "n" "a.example!p" ""`, `U01 OK "streaming starts"`, `N1 OK "Noop done"`} {
		if got, err := stream.line(); err != nil || got != want {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	s.kill("c2")
	s.kill("c3")
	within := func(what string, limit time.Duration, f func() error) error {
		begun := time.Now()
		err := f()
		if took := time.Since(begun); took > limit {
			t.Errorf("%s took %v", what, took)
		}
		return err
	}
	var refused *mupdate.ResponseError
	if err := within("ACTIVATE", 2*time.Second, func() error { return w.Activate(t.Context(), "m", "a.example!p", "") }); err == nil {
		t.Error("ACTIVATE was acknowledged")
	}
	if err := within("LIST", 2*time.Second, func() error {
		return dial(t, voter, "ro").List(t.Context(), "a.example!", func(mbox.Entry) error { return nil })
	}); !errors.As(err, &refused) {
		t.Errorf("LIST on the voter: %v", err)
	}
	if err := within("UPDATE", 2*time.Second, func() error {
		return dial(t, voter, "ro").Update(t.Context(), nil, mupdate.Events{})
	}); !errors.As(err, &refused) {
		t.Errorf("UPDATE on the voter: %v", err)
	}
	if err := within("FIND", 2*time.Second, func() error {
		e, ok, err := r.Find(t.Context(), "n")
		if err == nil && (!ok || e.Location != "a.example!p") {
			err = fmt.Errorf("got %+v", e)
		}
		return err
	}); err != nil {
		t.Errorf("FIND on the learner: %v", err)
	}
	stream.send("N2 NOOP\r\n")
	if err := within("NOOP", 2*time.Second, func() error {
		got, err := stream.line()
		if err == nil && got != `N2 OK "Noop done (degraded)"` {
			err = fmt.Errorf("got %q", got)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}

// U10: a stream that is not read is cut, and others miss nothing.
func TestSlowStream(t *testing.T) {
	t.Parallel()
	s := newSite(t, 1)
	reg := prometheus.NewRegistry()
	addr := s.serve(t, "c1", func(cfg *mupdate.Config) { cfg.WriteTimeout, cfg.Metrics = 200*time.Millisecond, reg })
	slow := connect(t, addr)
	slow.Conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	if err := slow.login("ro"); err != nil {
		t.Fatal(err)
	}
	slow.send("U01 UPDATE\r\n")
	if _, err := slow.line(); err != nil {
		t.Fatal(err)
	}
	const rows = 300
	ctx, cancel := context.WithCancel(t.Context())
	seen := make(chan mbox.Name, rows)
	synced := make(chan struct{})
	var quick sync.WaitGroup
	defer quick.Wait()
	defer cancel()
	reader := dial(t, addr, "ro")
	quick.Go(func() {
		reader.Update(ctx, nil, mupdate.Events{
			Row:    func(e mbox.Entry) error { seen <- e.Name; return nil },
			Synced: func() error { close(synced); return nil },
		})
	})
	<-synced
	acl := mbox.ACL(strings.Repeat("someone\tlrswipkxtecda\t", 3000))
	writes := make([]mbox.Write, rows)
	for i := range writes {
		writes[i] = mbox.Write{Kind: mbox.Activate, Name: mbox.Name(fmt.Sprint("n", i)), Location: "a!p", ACL: acl}
	}
	if _, err := dial(t, addr, "any").Batch(t.Context(), writes); err != nil {
		t.Fatal(err)
	}
	for i := range rows {
		select {
		case n := <-seen:
			if want := mbox.Name(fmt.Sprint("n", i)); n != want {
				t.Fatalf("got %s, want %s", n, want)
			}
		case <-time.After(patience):
			t.Fatalf("%d rows came", i)
		}
	}
	for end := time.Now().Add(patience); !streamCut(t, reg); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the slow one is never cut")
		}
	}
	// It gets what had been sent, and then the end.
	slow.SetDeadline(time.Now().Add(patience))
	got := 0
	for {
		line, err := slow.line()
		if err != nil {
			break
		}
		if strings.HasPrefix(line, "U01 MAILBOX") {
			got++
		}
	}
	if got == rows {
		t.Error("the system's buffers took everything: nothing was tried")
	}
}

// streamCut reports whether a server has ended a stream.
func streamCut(t *testing.T, reg *prometheus.Registry) bool {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "murder_mupdate_streams_ended_total" {
			return true
		}
	}
	return false
}
