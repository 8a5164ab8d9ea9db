package mupdate

import (
	"bufio"
	"bytes"
	"compress/flate"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"murder/internal/listen"
	"murder/internal/mbox"
)

// What a client pipelines is proposed together, however the segments fall.
func TestWritesAreProposedTogether(t *testing.T) {
	dir := newMemory()
	dir.gate = make(chan struct{})
	s := startServer(t, testConfig(t, dir))
	c := dialClient(t, s, "be-a")
	var writes []mbox.Write
	for i := range 600 {
		writes = append(writes, mbox.Write{Kind: mbox.Activate, Name: mbox.Name(fmt.Sprintf("user.u%03d", i)), Location: "a.example!p", ACL: "u\tlrs\t"})
	}
	time.AfterFunc(20*time.Millisecond, func() { close(dir.gate) })
	errs, err := c.Batch(t.Context(), writes)
	if err != nil || errors.Join(errs...) != nil || len(errs) != len(writes) {
		t.Fatalf("%d answers, %v, %v", len(errs), err, errors.Join(errs...))
	}
	dir.mu.Lock()
	defer dir.mu.Unlock()
	if n := len(dir.batches); n > 60 {
		t.Errorf("%d proposals for %d writes: %v", n, len(writes), dir.batches)
	}
	for _, n := range dir.batches {
		if n > 256 {
			t.Errorf("%d writes in one proposal", n)
		}
	}
}

// A directory that does not come back must not keep a backend waiting (it holds locks meanwhile).
func TestStuckDirectoryClosesTheConnection(t *testing.T) {
	dir := newMemory()
	dir.gate = make(chan struct{})
	cfg := testConfig(t, dir)
	cfg.CommandTimeout = 50 * time.Millisecond
	s := startServer(t, cfg)
	c := dialClient(t, s, "be-a")
	var refused *ResponseError
	if err := c.Activate(t.Context(), "n", "a.example!p", ""); err == nil || errors.As(err, &refused) {
		t.Fatalf("got %v, want a closed connection", err)
	}
}

// A stream that falls behind gets the present state of what it missed; when not even that is known any
// more, the client has to begin again.
func TestLaggedStream(t *testing.T) {
	dir := newMemory()
	dir.have(mbox.Entry{Name: "a", Location: "a!p", State: mbox.Active}, mbox.Entry{Name: "b", Location: "a!p", State: mbox.Active},
		mbox.Entry{Name: "c", Location: "a!p", State: mbox.Active})
	s := startServer(t, testConfig(t, dir))
	d := follower(t, s, "ro")
	lag := func(change func()) {
		dir.mu.Lock()
		defer dir.mu.Unlock()
		change()
		dir.first = dir.index
		close(dir.moved)
		dir.moved = make(chan struct{})
	}
	lag(func() {
		dir.index += 10
		dir.put(mbox.Entry{Name: "a"})
		dir.put(mbox.Entry{Name: "b", Location: "b!p", State: mbox.Active})
		dir.put(mbox.Entry{Name: "d"}) // came and went
	})
	d.send("N1 NOOP\r\n")
	for _, want := range []string{`U01 DELETE "a"`, `U01 DELETE "d"`, `U01 MAILBOX "b" "b!p" ""`, `N1 OK "Noop done"`} {
		if got, err := d.line(); err != nil || got != want {
			t.Fatalf("got %q, %v, want %q", got, err, want)
		}
	}
	dir.have(mbox.Entry{Name: "c", Location: "c!p", State: mbox.Active})
	if got, err := d.line(); err != nil || got != `U01 MAILBOX "c" "c!p" ""` {
		t.Fatalf("got %q, %v", got, err)
	}
	lag(func() {
		dir.index += 10
		dir.forgetful = true
	})
	for {
		got, err := d.line()
		if err != nil {
			t.Fatal(err)
		}
		if got == `* BYE "stream fell behind, start again"` {
			break
		}
		if got != `U01 DELETE "a"` && got != `U01 DELETE "d"` {
			t.Fatalf("got %q", got)
		}
	}
	if _, err := d.line(); !errors.Is(err, io.EOF) {
		t.Fatalf("not closed: %v", err)
	}
}

// What was pipelined in one go is answered within the time of one command, quorum or not.
func TestPipelineSharesTheTime(t *testing.T) {
	dir := newMemory()
	dir.gate = make(chan struct{}) // stays shut
	cfg := testConfig(t, &waiting{dir})
	cfg.CommandTimeout = 300 * time.Millisecond
	cfg.ReadAhead = 1
	s := startServer(t, cfg)
	d := loggedIn(t, s, "be-a")
	begun := time.Now()
	d.send(strings.Repeat("X1 DELETE \"n\"\r\n", 20))
	for range 20 {
		if got, err := d.line(); err != nil || got != `X1 NO "no quorum, try again"` {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	if took := time.Since(begun); took > 3*cfg.CommandTimeout {
		t.Errorf("took %v", took)
	}
}

// That time begins with the command: how long the session has been there does not matter.
func TestOldSessionHasTime(t *testing.T) {
	cfg := testConfig(t, &hurried{newMemory()})
	cfg.CommandTimeout = 500 * time.Millisecond
	s := startServer(t, cfg)
	c := dialClient(t, s, "be-a")
	for range 3 {
		time.Sleep(cfg.CommandTimeout / 2)
		if err := c.Activate(t.Context(), "n", "a.example!p", ""); err != nil {
			t.Fatal(err)
		}
	}
}

// hurried is a directory that does nothing when there is no time left.
type hurried struct{ *memory }

func (h *hurried) Write(ctx context.Context, w []mbox.Write) ([]mbox.Verdict, error) {
	if ctx.Err() != nil {
		return nil, mbox.ErrUnavailable
	}
	return h.memory.Write(ctx, w)
}

// A reservation that stays is told while other changes never pause.
func TestReservationIsToldUnderLoad(t *testing.T) {
	dir := newMemory()
	s := startServer(t, testConfig(t, dir))
	d := follower(t, s, "ro")
	dir.have(mbox.Entry{Name: "held", Location: "a!p", State: mbox.Reserved})
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			dir.have(mbox.Entry{Name: mbox.Name(fmt.Sprint("n", i%10)), Location: "a!p", State: mbox.Active})
			select {
			case <-time.After(time.Millisecond):
			case <-stop:
				return
			}
		}
	}()
	defer func() { close(stop); <-stopped }()
	d.nc.SetDeadline(time.Now().Add(patience))
	for {
		got, err := d.line()
		if err != nil {
			t.Fatal(err)
		}
		if got == `U01 RESERVE "held" "a!p"` {
			return
		}
	}
}

// waiting is a directory without a quorum.
type waiting struct{ *memory }

func (w *waiting) Write(ctx context.Context, _ []mbox.Write) ([]mbox.Verdict, error) {
	<-ctx.Done()
	return nil, mbox.ErrUnavailable
}

// Who does not log in goes; who is idle is told.
func TestTimeouts(t *testing.T) {
	idle := loggedIn(t, startServer(t, testConfig(t, newMemory()), func(s *Server) { s.cfg.IdleTimeout = 50 * time.Millisecond }), "ro")
	silent := dialServer(t, startServer(t, testConfig(t, newMemory()), func(s *Server) { s.cfg.LoginTimeout = 50 * time.Millisecond }))
	for _, d := range []*dialogue{idle, silent} {
		d.nc.SetDeadline(time.Now().Add(patience))
		if err := d.until("* BYE"); err != nil {
			t.Fatal(err)
		}
	}
}

// Compressed input that expands far more than commands do ends its session.
func TestExpansionIsBounded(t *testing.T) {
	s := startServer(t, testConfig(t, newMemory()))
	d := loggedIn(t, s, "ro")
	d.send("Z01 COMPRESS \"DEFLATE\"\r\n")
	if got, err := d.line(); err != nil || got != `Z01 OK "DEFLATE active"` {
		t.Fatalf("got %q, %v", got, err)
	}
	var packed bytes.Buffer
	z, err := flate.NewWriter(&packed, flate.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	const commands = 4 << 20
	io.WriteString(z, strings.Repeat("1 NOOP\r\n", commands))
	z.Close()
	d.nc.SetDeadline(time.Now().Add(2 * time.Minute)) // so many answers take a while on a busy machine
	go d.nc.Write(packed.Bytes())
	in, out := input{r: d.r}, output{w: d.nc}
	deflateLayer(&in, &out)
	answers := bufio.NewReader(in.r)
	for n := 0; ; n++ {
		line, err := answers.ReadString('\n')
		if err != nil {
			t.Fatalf("after %d answers: %v", n, err)
		}
		if line == "* BYE \"compressed input expands too much\"\r\n" {
			if sent := 8 * n; sent < 1<<19 || sent > expansionFree+expansionRatio*packed.Len()+(1<<20) {
				t.Errorf("cut after %d octets of %d that expand to %d", sent, packed.Len(), 8*commands)
			}
			return
		}
		if line != "1 OK \"Noop done\"\r\n" {
			t.Fatalf("got %q", line)
		}
	}
}

// Connections that say nothing keep nobody out, and nobody who has logged in is turned out for another.
func TestSilenceMakesRoom(t *testing.T) {
	cfg := testConfig(t, newMemory())
	cfg.MaxConnections = 3
	s := startServer(t, cfg, func(s *Server) { s.grace = 0 })
	first, silent, second := loggedIn(t, s, "be-a"), dialServer(t, s), dialServer(t, s)
	for _, d := range []*dialogue{silent, second} {
		d.nc.SetDeadline(time.Now().Add(patience))
		if err := d.until("* OK MUPDATE"); err != nil {
			t.Fatal(err)
		}
	}
	third := loggedIn(t, s, "be-b")
	if got, err := silent.line(); err != nil || got != `* BYE "Server Unable"` {
		t.Errorf("the silent one: %q, %v", got, err)
	}
	last := loggedIn(t, s, "be-b")
	if got, err := second.line(); err != nil || got != `* BYE "Server Unable"` {
		t.Errorf("the other: %q, %v", got, err)
	}
	if got, err := dialServer(t, s).line(); err != nil || got != `* BYE "Server Unable"` {
		t.Errorf("one too many: %q, %v", got, err)
	}
	for _, d := range []*dialogue{first, third, last} {
		d.send("X1 NOOP\r\n")
		if got, err := d.line(); err != nil || got != `X1 OK "Noop done"` {
			t.Errorf("got %q, %v", got, err)
		}
	}
}

// A server that is full turns clients away without waiting for a proxy that does not name its client.
func TestFullBehindAProxy(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := testConfig(t, newMemory())
	cfg.MaxConnections = 1
	s := startServerOn(t, listen.Proxied(ln, []netip.Prefix{mustPrefix("127.0.0.0/8")}), cfg)
	const header = "PROXY TCP4 192.0.2.1 192.0.2.2 4000 3905\r\n"
	first := dialServer(t, s)
	first.send(header)
	if err := first.until("* OK MUPDATE"); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		dialServer(t, s) // says nothing
	}
	last := dialServer(t, s)
	last.send(header)
	last.nc.SetDeadline(time.Now().Add(patience))
	if got, err := last.line(); err != nil || got != `* BYE "Server Unable"` {
		t.Fatalf("got %q, %v", got, err)
	}
}

func TestShutdownSaysBye(t *testing.T) {
	dir := newMemory()
	s := startServer(t, testConfig(t, dir))
	plain, stream := loggedIn(t, s, "ro"), follower(t, s, "ro")
	go s.Shutdown(t.Context())
	for _, d := range []*dialogue{plain, stream} {
		if got, err := d.line(); err != nil || got != `* BYE "shutting down"` {
			t.Errorf("got %q, %v", got, err)
		}
		d.nc.Close()
	}
}

// A panic ends the session in which it happens.
func TestPanicStaysInItsSession(t *testing.T) {
	dir := newMemory()
	cfg := testConfig(t, &bomb{memory: dir})
	cfg.Logger = slog.New(slog.DiscardHandler)
	s := startServer(t, cfg)
	other, c := dialClient(t, s, "be-b"), dialClient(t, s, "be-a")
	if _, _, err := c.Find(t.Context(), "n"); err == nil {
		t.Fatal("an answer")
	}
	if err := other.Noop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

type bomb struct{ *memory }

func (b *bomb) View() mbox.View { panic("boom") }

func TestMetrics(t *testing.T) {
	cfg := testConfig(t, newMemory())
	c := dialClient(t, startServer(t, cfg), "be-a")
	if err := c.Reserve(t.Context(), "n", "a.example!p"); err != nil {
		t.Fatal(err)
	}
	if n := counted(t, cfg, "murder_mupdate_commands_total", "OK", "RESERVE"); n != 1 {
		t.Errorf("RESERVE was counted %v times", n)
	}
}

// counted reads a counter; -1 if there is none.
func counted(t *testing.T, cfg Config, name string, labels ...string) float64 {
	t.Helper()
	families, err := cfg.Metrics.(*prometheus.Registry).Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			var values []string
			for _, l := range m.Label {
				values = append(values, l.GetValue())
			}
			if f.GetName() == name && slices.Equal(values, labels) {
				return m.Counter.GetValue()
			}
		}
	}
	return -1
}

// A backend that has been renamed finds all its mailboxes held by its former self. It is shown none of them, and
// an operator hears of it once, not when a few names are contested.
func TestRenamedServerRaisesAlarm(t *testing.T) {
	dir := newMemory()
	for i := range 5 {
		dir.have(mbox.Entry{Name: mbox.Name(fmt.Sprint("n", i)), State: mbox.Active, Location: "old.example!p"})
	}
	cfg := testConfig(t, dir)
	cfg.ConflictBrake = 3
	s := startServer(t, cfg)
	c := dialClient(t, s, "any")
	if err := c.List(t.Context(), "new.example!", func(mbox.Entry) error { return nil }); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		var refused *ResponseError
		if _, _, err := c.Find(t.Context(), mbox.Name(fmt.Sprint("n", i))); !errors.As(err, &refused) || refused.Status != "NO" {
			t.Errorf("FIND %d: %v", i, err)
		}
		if alarms := counted(t, cfg, "murder_mupdate_alarms_total"); alarms != float64(i/3) {
			t.Errorf("%v alarms after %d names", alarms, i+1)
		}
	}
}

// Peer rules fill in what the identity leaves open.
func TestPeerRule(t *testing.T) {
	dir := newMemory()
	cfg := testConfig(t, dir)
	cfg.Peers = []PeerRule{{Prefix: mustPrefix("127.0.0.0/8"), Servers: []mbox.Server{"here.example"}, Order: mbox.OrderOctet}}
	s := startServer(t, cfg)
	c := dialClient(t, s, "any")
	var refused *ResponseError
	if err := c.Reserve(t.Context(), "n", "else.example!p"); !errors.As(err, &refused) || refused.Status != "NO" {
		t.Fatalf("got %v", err)
	}
	for _, name := range []mbox.Name{"a", "a.b", "a-b"} {
		if err := c.Activate(t.Context(), name, "here.example!p", ""); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	if err := c.List(t.Context(), "", func(e mbox.Entry) error { got = append(got, string(e.Name)); return nil }); err != nil {
		t.Fatal(err)
	}
	if want := "a a-b a.b"; strings.Join(got, " ") != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// An address of one link only has a zone, and a rule has none.
func TestPeerRuleOfALink(t *testing.T) {
	cfg := Config{Peers: []PeerRule{{Prefix: mustPrefix("fe80::/10"), Servers: []mbox.Server{"here.example"}}}}
	if r := cfg.peerRule(netip.MustParseAddr("fe80::1%eth0")); len(r.Servers) != 1 {
		t.Errorf("got %+v", r)
	}
}
