package mupdate

import (
	"fmt"
	"math/rand/v2"
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

// Whatever comes together and whatever is held back: what followers have after many changes is right. One follows
// everything, one is a unified server, one is interested in one server only.
func TestWhatFollowersHave(t *testing.T) {
	random := rand.New(rand.NewPCG(1, rand.Uint64()))
	for range 8 {
		dir := newMemory()
		cfg := testConfig(t, dir)
		cfg.Identities["be-a"] = Identity{Role: Backend, Servers: []mbox.Server{"a.example"}, Unified: true}
		s := startServer(t, cfg)
		all, unified, some := follower(t, s, "ro"), follower(t, s, "be-a"), loggedIn(t, s, "ro")
		some.send("U01 UPDATE \"b.example\"\r\n")
		if err := some.until("U01 OK"); err != nil {
			t.Fatal(err)
		}
		w := dialClient(t, s, "any")
		for range 30 {
			var writes []mbox.Write
			for range 1 + random.IntN(8) {
				name := mbox.Name(fmt.Sprint("n", random.IntN(4)))
				at := []mbox.Location{"a.example!p", "b.example!p", "c.example!p"}[random.IntN(3)]
				if e, ok := dir.View().Get(name); ok && random.IntN(2) == 0 {
					at = e.Location
				}
				kind := []mbox.Kind{mbox.Reserve, mbox.Activate, mbox.Activate, mbox.Deactivate, mbox.Delete}[random.IntN(5)]
				writes = append(writes, mbox.Write{Kind: kind, Name: name, Location: at})
			}
			if _, err := w.Batch(t.Context(), writes); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Duration(random.IntN(30)) * time.Millisecond * time.Duration(random.IntN(2))) // some are coalesced, some not
		}
		want := map[string]string{}
		dir.View().Ascend("", func(e mbox.Entry) bool { want[string(e.Name)] = string(e.Location); return true })
		for d, mayDiffer := range map[*dialogue]func(have, want string) bool{
			all:     func(_, _ string) bool { return false },
			unified: func(_, want string) bool { return want == "" || want == "a.example!p" }, // it knows its own, and what it had
			some:    func(have, want string) bool { return have != "b.example!p" && want != "b.example!p" },
		} {
			d.send("N1 NOOP\r\n")
			have := map[string]string{}
			for line := ""; !strings.HasPrefix(line, "N1 OK"); {
				var err error
				if line, err = d.line(); err != nil {
					t.Fatal(err)
				}
				switch words := strings.Split(line, `"`); {
				case strings.HasPrefix(line, "U01 DELETE"):
					delete(have, words[1])
				case strings.HasPrefix(line, "U01"):
					have[words[1]] = words[3]
				}
			}
			for i := range 4 {
				name := fmt.Sprint("n", i)
				if have[name] != want[name] && !mayDiffer(have[name], want[name]) {
					t.Errorf("%s is at %q, and one has it at %q", name, want[name], have[name])
				}
			}
		}
	}
}
