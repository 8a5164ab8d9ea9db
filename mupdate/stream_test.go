package mupdate

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"murder/internal/mbox"
)

// A row that is held when the stream falls behind is made up for too: the client may know the name as a
// mailbox that is no more.
func TestLaggedStreamWithHeldRow(t *testing.T) {
	dir := newMemory()
	dir.have(mbox.Entry{Name: "n", Location: "a!p", State: mbox.Active}, mbox.Entry{Name: "o", Location: "a!p", State: mbox.Active})
	cfg := testConfig(t, dir)
	srv := New(cfg)
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	s := newStream(newConn(srv, far), "U1", scope{}, dir.View().Index())
	defer s.stop()
	dir.have(mbox.Entry{Name: "n"}, mbox.Entry{Name: "n", Location: "b!p", State: mbox.Reserved})
	changes, index, err := dir.Changes(t.Context(), s.after)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := s.rows(changes); n != 0 || err != nil || len(s.held) != 1 {
		t.Fatalf("%d rows, %v, held %v", n, err, s.held)
	}
	s.after = index
	dir.have(mbox.Entry{Name: "o", Location: "b!p", State: mbox.Active})
	if err := s.resync(); err != nil {
		t.Fatal(err)
	}
	if got, want := string(s.c.out.buf), "U1 RESERVE \"n\" \"b!p\"\r\nU1 MAILBOX \"o\" \"b!p\" \"\"\r\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if len(s.held) > 0 || s.after != dir.View().Index() {
		t.Errorf("held %v, after %d", s.held, s.after)
	}
}

// More NOOPs than are ever outstanding at a time are all answered, in order.
func TestNoopsInAStream(t *testing.T) {
	dir := newMemory()
	s := startServer(t, testConfig(t, dir))
	d := follower(t, s, "ro")
	const noops = 300
	var all strings.Builder
	for i := range noops {
		fmt.Fprintf(&all, "N%d NOOP\r\n", i)
	}
	d.send(all.String())
	for i := range 20 {
		dir.have(mbox.Entry{Name: mbox.Name(fmt.Sprint("n", i)), Location: "a!p", State: mbox.Active})
	}
	for next := 0; next < noops; {
		got, err := d.line()
		if err != nil {
			t.Fatalf("after %d answers: %v", next, err)
		}
		if strings.HasPrefix(got, "U01 ") {
			continue
		}
		if want := fmt.Sprintf(`N%d OK "Noop done"`, next); got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
		next++
	}
}

// U10: a client that does not read is cut off; its rows do not pile up here.
func TestSlowStreamIsCut(t *testing.T) {
	dir := newMemory()
	cfg := testConfig(t, dir)
	cfg.WriteTimeout = 100 * time.Millisecond
	cfg.Coalesce = time.Millisecond
	s := startServer(t, cfg)
	d := follower(t, s, "ro")
	d.nc.(*net.TCPConn).SetReadBuffer(4096)
	acl := mbox.ACL(strings.Repeat("someone\tlrswipkxtecdan\t", 4000))
	deadline := time.Now().Add(20 * time.Second)
	for i := 0; s.Connections() > 0; i++ {
		dir.have(mbox.Entry{Name: mbox.Name(fmt.Sprint("n", i%50)), Location: "a!p", ACL: acl, State: mbox.Active})
		if time.Now().After(deadline) {
			t.Fatal("the stream is still there")
		}
		time.Sleep(time.Millisecond) // paces the load, nothing depends on it
	}
}
