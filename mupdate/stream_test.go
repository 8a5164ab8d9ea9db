package mupdate

import (
	"net"
	"testing"

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
