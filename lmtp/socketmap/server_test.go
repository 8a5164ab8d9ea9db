package socketmap

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"murder/internal/backend"
	"murder/internal/mbox"
	"murder/lmtp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// directory is a fixed map whose barriers may fail.
type directory struct {
	entries map[mbox.Name]mbox.Entry
	mu      sync.Mutex
	err     error
	synced  bool
	asked   int
}

func (d *directory) View() mbox.View { return view(d.entries) }

func (d *directory) Synced() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.synced
}

func (d *directory) Barrier(context.Context) (uint64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked++
	return 7, d.err
}

func (d *directory) set(err error, synced bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err, d.synced = err, synced
}

type view map[mbox.Name]mbox.Entry

func (v view) Index() uint64                           { return 7 }
func (v view) Len() int                                { return len(v) }
func (v view) Get(n mbox.Name) (mbox.Entry, bool)      { e, ok := v[n]; return e, ok }
func (v view) Ascend(mbox.Name, func(mbox.Entry) bool) {}

func fixture(t testing.TB) (*Server, *directory) {
	t.Helper()
	dir := &directory{entries: make(map[mbox.Name]mbox.Entry), synced: true}
	add := func(name mbox.Name, server mbox.Server, state mbox.State, acl mbox.ACL) {
		dir.entries[name] = mbox.Entry{Name: name, Location: mbox.At(server, "p"), State: state, ACL: acl}
	}
	add("user.alice", "be1", mbox.Active, "")
	add("user.alice.Work", "be1", mbox.Active, "")
	add("user.carol", "be2", mbox.Reserved, "")
	add("user.bob", "be2:143", mbox.Active, "")
	add("user.dave", "fe1", mbox.Active, "")
	add("user.lost", "", mbox.Active, "")
	add("news", "be1", mbox.Active, "anyone\tlrsp\t")
	add("quiet", "be1", mbox.Active, "anyone\tlr\t")
	r, err := lmtp.NewResolver(lmtp.ResolverConfig{Directory: dir, Self: []mbox.Server{"fe1"}})
	if err != nil {
		t.Fatal(err)
	}
	set := backend.New(backend.Config{Servers: map[mbox.Server]backend.Settings{
		"be1": {Host: "10.0.0.1", Ports: map[backend.Service]int{backend.LMTP: 24}},
	}})
	s, err := New(Config{Resolver: r, Backends: set, ProxyTransport: "lmtp:unix:/run/lmtp"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Shutdown(context.Background()) })
	return s, dir
}

func TestAsk(t *testing.T) {
	s, dir := fixture(t)
	check := func(table, key, want string) {
		t.Helper()
		if got := s.ask(context.Background(), table, key).socketmap(); !strings.HasPrefix(got, want) {
			t.Errorf("%s %s: got %q, want %q", table, key, got, want)
		}
	}
	check("mailbox", "Alice+Foo@X", "OK Alice+Foo@X")
	check("mailbox", "nobody", "NOTFOUND ")
	check("mailbox", "a b", "NOTFOUND ")
	check("mailbox", "", "NOTFOUND ")
	check("mailbox", "carol", "OK carol")
	check("mailbox", "+news@x", "OK +news@x")
	check("mailbox", "+quiet", "NOTFOUND ")
	check("mailbox", "dave", "TEMP ")
	check("mailbox-strict", "alice", "OK alice")
	check("mailbox-strict", "alice+Work", "OK alice+Work")
	check("mailbox-strict", "alice+Foo", "NOTFOUND ")
	check("mailbox-strict", "carol", "TEMP ")
	check("transport", "alice@x", "OK lmtp:inet:[10.0.0.1]:24")
	check("transport", "bob", "OK lmtp:inet:[be2]:2003")
	check("transport", "carol", "TEMP ")
	check("transport", "lost", "TEMP ")
	check("transport", "nobody", "NOTFOUND ")
	check("transport-proxy", "alice", "OK lmtp:unix:/run/lmtp")
	check("backend", "alice", "OK be1")
	check("quota", "alice", "PERM ")
	dir.set(mbox.ErrUnavailable, true)
	check("mailbox", "alice", "OK alice")
	check("mailbox", "unheard", "TEMP ")
	check("mailbox-strict", "alice+Bar", "TEMP ")
	dir.set(nil, false)
	check("mailbox", "alice", "TEMP ")
}

// While the map is being filled nobody is told for good that a user is not there.
func TestDeferUnknown(t *testing.T) {
	s, _ := fixture(t)
	s.cfg.DeferUnknown = true
	for _, c := range [][3]string{
		{"mailbox", "nobody", "TEMP "}, {"mailbox-strict", "nobody", "TEMP "}, {"mailbox-strict", "alice+Foo", "TEMP "}, {"transport", "nobody", "TEMP "}, {"backend", "nobody", "TEMP "},
		{"mailbox", "alice", "OK "}, {"mailbox", "a b", "NOTFOUND "}, {"mailbox", "+quiet", "NOTFOUND "},
	} {
		if got := s.ask(t.Context(), c[0], c[1]).socketmap(); !strings.HasPrefix(got, c[2]) {
			t.Errorf("%s %s: got %q, want %q", c[0], c[1], got, c[2])
		}
	}
	for addr, want := range map[string]int{"nobody": 503, "alice": 200} {
		req, rec := httptest.NewRequest("GET", "/", nil), httptest.NewRecorder()
		req.SetPathValue("addr", addr)
		Handler(s.cfg.Resolver, true).ServeHTTP(rec, req)
		if rec.Code != want {
			t.Errorf("%s: got %d, want %d", addr, rec.Code, want)
		}
	}
}

func loopback(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// serve starts f and returns a connection to it.
func serve(t testing.TB, s *Server, f func(net.Listener) error) net.Conn {
	t.Helper()
	ln := loopback(t)
	done := make(chan error, 1)
	go func() { done <- f(ln) }()
	t.Cleanup(func() {
		s.Shutdown(context.Background())
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestSocketmap(t *testing.T) {
	s, _ := fixture(t)
	conn := serve(t, s, s.Serve)
	io.WriteString(conn, "13:mailbox alice,12:mailbox nob1,17:transport alice@x,7:mailbox,13:mailbox alice,")
	want := "8:OK alice,9:NOTFOUND ,29:OK lmtp:inet:[10.0.0.1]:24,9:NOTFOUND ,8:OK alice,"
	want = strings.Replace(want, "29:", "26:", 1)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
		t.Errorf("got %q %v, want %q", got, err, want)
	}
	// Whoever does not speak netstrings is sent away at once.
	for _, bad := range []string{"x", "01:x,", "1000000:", "-1:", ":,", "3:abcd", " 3:abc,"} {
		s, _ := fixture(t)
		conn := serve(t, s, s.Serve)
		io.WriteString(conn, bad)
		if n, err := conn.Read(make([]byte, 10)); n != 0 || err == nil {
			t.Errorf("%q: got %d octets, %v", bad, n, err)
		}
	}
}

func TestTable(t *testing.T) {
	s, _ := fixture(t)
	conn := serve(t, s, func(ln net.Listener) error { return s.ServeTable(ln, "mailbox") })
	in := bufio.NewReader(conn)
	for _, c := range []struct{ in, want string }{
		{"get alice@x", "200 alice@x"},
		{"get a%20b", "500 not%20found"},
		{"get alice%2BWork", "200 alice+Work"},
		{"get carol", "200 carol"},
		{"get dave", "400 mailbox%20is%20recorded"},
		{"put x y", "500 read-only"},
		{"get", "400 malformed"},
		{"get %zz", "400 malformed"},
		{"get %2", "400 malformed"},
		{"frob", "400 malformed"},
		{"", "400 malformed"},
		{"get " + strings.Repeat("x", 5000), "400 request%20too%20long"},
		{"get alice", "200 alice"},
	} {
		io.WriteString(conn, c.in+"\n")
		if got, err := in.ReadString('\n'); err != nil || !strings.HasPrefix(got, c.want) {
			t.Errorf("%.40q: got %q %v, want %q", c.in, got, err, c.want)
		}
	}
}

func TestHTTP(t *testing.T) {
	s, dir := fixture(t)
	mux := http.NewServeMux()
	mux.Handle("GET /v1/recipients/{addr}", Handler(s.cfg.Resolver, false))
	get := func(path string) (int, Recipient) {
		t.Helper()
		rec := httptest.NewRecorder()
		mux.ServeHTTP(rec, httptest.NewRequest("GET", path, nil))
		var answer Recipient
		if err := json.Unmarshal(rec.Body.Bytes(), &answer); err != nil {
			t.Errorf("%s: %v in %s", path, err, rec.Body)
		}
		return rec.Code, answer
	}
	want := Recipient{Found: true, User: "alice", Mailbox: "user.alice", State: "active", Backend: "be1", Index: 7}
	if code, got := get("/v1/recipients/Alice+x@y"); code != 200 || got != want {
		t.Errorf("got %d %+v", code, got)
	}
	if code, got := get("/v1/recipients/carol"); code != 200 || got.State != "reserved" || !got.Fresh {
		t.Errorf("got %d %+v", code, got)
	}
	if code, got := get("/v1/recipients/nobody"); code != 404 || got.Found || !got.Fresh {
		t.Errorf("got %d %+v", code, got)
	}
	dir.set(errors.New("no quorum"), true)
	if code, _ := get("/v1/recipients/nobody2"); code != 503 {
		t.Errorf("got %d", code)
	}
	if code, got := get("/v1/recipients/nobody2?stale=ok"); code != 404 || got.Fresh {
		t.Errorf("got %d %+v", code, got)
	}
}

func FuzzNetstring(f *testing.F) {
	f.Add([]byte("3:abc,0:,"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bufio.NewReaderSize(strings.NewReader(string(in)), 16)
		var rebuilt []byte
		for {
			payload, err := readNetstring(r, nil)
			if err != nil {
				break
			}
			rebuilt = appendNetstring(rebuilt, string(payload))
		}
		if !strings.HasPrefix(string(in), string(rebuilt)) {
			t.Fatalf("%q was read as %q", in, rebuilt)
		}
	})
}

// How many look-ups of existing mailboxes does one core answer, 50 to a write?
func BenchmarkSocketmap(b *testing.B) {
	s, _ := fixture(b)
	conn := serve(b, s, s.Serve)
	const batch = 50
	request := []byte(strings.Repeat("13:mailbox alice,", batch))
	answer := make([]byte, batch*len("8:OK alice,"))
	for i := 0; i < b.N; i += batch {
		conn.Write(request)
		if _, err := io.ReadFull(conn, answer); err != nil {
			b.Fatal(err)
		}
	}
}
