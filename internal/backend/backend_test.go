package backend

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"murder/internal/mbox"
	"murder/internal/tlsconf"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve accepts connections until the test ends and hands each to handle.
func serve(t *testing.T, handle func(net.Conn)) (port int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			handle(conn)
			conn.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().(*net.TCPAddr).Port
}

func greet(conn net.Conn) { io.WriteString(conn, "* OK\r\n") }

// closedPort returns a port that nobody listens on.
func closedPort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func TestSettings(t *testing.T) {
	s := New(Config{
		Default: Settings{Authname: "murder", TLS: NoTLS, Host: "ignored", Ports: map[Service]int{LMTP: 24}},
		Servers: map[mbox.Server]Settings{
			"be1":        {Host: "10.0.0.1"},
			"be2:2143":   {Authname: "x"},
			"be3:1/tls":  {Ports: map[Service]int{IMAP: 7}},
			"b.new.host": {Host: "::1", TLS: Implicit},
		},
	})
	for _, c := range []struct {
		server mbox.Server
		host   string
		imap   int
		lmtp   int
		tls    TLSPolicy
		known  bool
	}{
		{"be1", "10.0.0.1", 143, 2003, StartTLS, true},
		{"be2:2143", "be2", 2143, 2003, StartTLS, true},
		{"be3:1/tls", "be3", 7, 2003, Implicit, true},
		{"b.new.host", "::1", 993, 2003, Implicit, true},
		{"other", "other", 143, 24, NoTLS, false},
		{"other:2143", "other", 2143, 24, NoTLS, false},
		{"other:2143/tls", "other", 2143, 24, Implicit, false},
		{"other:2143/noauth", "other", 2143, 24, NoTLS, false},
		{"127.0.0.1", "127.0.0.1", 143, 24, NoTLS, false},
		{"2001:db8::1", "2001:db8::1", 143, 24, NoTLS, false},
		{"[2001:db8::1]:99", "2001:db8::1", 99, 24, NoTLS, false},
	} {
		set := s.Settings(c.server)
		if set.Host != c.host || set.port(IMAP) != c.imap || set.port(LMTP) != c.lmtp || set.TLS != c.tls || s.Known(c.server) != c.known {
			t.Errorf("%s: %+v", c.server, set)
		}
	}
	if got, want := s.Servers(), []mbox.Server{"b.new.host", "be1", "be2:2143", "be3:1/tls"}; !reflect.DeepEqual(got, want) {
		t.Error(got)
	}
	s.Update(Settings{Authname: "new"}, nil)
	if s.Known("be1") || s.Settings("be1").Authname != "new" {
		t.Error("update did not take")
	}
}

func TestDial(t *testing.T) {
	port := serve(t, greet)
	r := prometheus.NewRegistry()
	s := New(Config{Default: Settings{TLS: NoTLS, Bind: netip.MustParseAddr("127.0.0.2"), MaxConns: 1, Ports: map[Service]int{POP3: port}}, Metrics: r})
	c, err := s.Dial(t.Context(), "127.0.0.1", POP3)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Dial(t.Context(), "127.0.0.1", POP3); !errors.Is(err, ErrBusy) || !errors.Is(err, ErrDown) {
		t.Errorf("second connection: %v", err)
	}
	if got := c.LocalAddr().String(); !strings.HasPrefix(got, "127.0.0.2:") {
		t.Errorf("dialled from %s", got)
	}
	if !c.Secured() || c.NeedStartTLS() || c.Server() != "127.0.0.1" || c.Service() != POP3 {
		t.Error("policy questions")
	}
	if text, err := io.ReadAll(c); string(text) != "* OK\r\n" || err != nil {
		t.Errorf("%q %v", text, err)
	}
	st := s.State("127.0.0.1")
	if len(st) != 1 || st[0].Breaker != "closed" || st[0].Conns != 1 || st[0].Service != POP3 {
		t.Errorf("%+v", st)
	}
	c.Close()
	c.Close()
	if st := s.State("127.0.0.1"); st[0].Conns != 0 {
		t.Errorf("%+v", st)
	}
	if c, err := s.Dial(t.Context(), "127.0.0.1", POP3); err != nil {
		t.Errorf("after closing: %v", err)
	} else {
		c.Close()
	}
	if _, err := r.Gather(); err != nil {
		t.Error(err)
	}
}

func TestDialErrors(t *testing.T) {
	s := New(Config{Default: Settings{Ports: map[Service]int{IMAP: closedPort(t)}}})
	if _, err := s.Dial(t.Context(), "127.0.0.1", IMAP); !errors.Is(err, ErrUnreachable) || !errors.Is(err, ErrDown) {
		t.Errorf("closed port: %v", err)
	}
	if _, err := s.Dial(t.Context(), "no such host.invalid", IMAP); !errors.Is(err, ErrUnreachable) {
		t.Errorf("no such host: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 5 {
		if _, err := s.Dial(ctx, "127.0.0.9", IMAP); errors.Is(err, ErrBreakerOpen) {
			t.Errorf("callers who went away opened the breaker: %v", err)
		}
	}
}

func TestDialBreaks(t *testing.T) {
	s := New(Config{Default: Settings{TLS: NoTLS, Ports: map[Service]int{IMAP: closedPort(t), POP3: serve(t, greet)}}})
	for range 3 {
		if _, err := s.Dial(t.Context(), "127.0.0.1", IMAP); !errors.Is(err, ErrUnreachable) {
			t.Errorf("while closed: %v", err)
		}
	}
	if _, err := s.Dial(t.Context(), "127.0.0.1", IMAP); !errors.Is(err, ErrBreakerOpen) || errors.Is(err, ErrUnreachable) || !errors.Is(err, ErrDown) {
		t.Errorf("while open: %v", err)
	}
	if c, err := s.Dial(t.Context(), "127.0.0.1", POP3); err != nil {
		t.Errorf("another service: %v", err)
	} else {
		c.Close()
	}
}

// Where we listen ourselves there is no backend. That is no failure of the backend, and is told once.
func TestOwnAddressIsNoBackend(t *testing.T) {
	var log strings.Builder
	port := serve(t, greet)
	s := New(Config{
		Default: Settings{TLS: NoTLS, Ports: map[Service]int{IMAP: port, POP3: port + 1}}, Logger: textLogger(&log),
		Own: func(at netip.AddrPort) bool {
			return at == netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port))
		},
	})
	for range 5 {
		if _, err := s.Dial(t.Context(), "127.0.0.1", IMAP); !errors.Is(err, ErrLoop) || !errors.Is(err, ErrDown) {
			t.Error(err)
		}
	}
	if _, err := s.Dial(t.Context(), "127.0.0.1", POP3); errors.Is(err, ErrLoop) {
		t.Errorf("another port: %v", err)
	}
	if n := strings.Count(log.String(), "lead to this frontend itself"); n != 1 {
		t.Errorf("logged %d times: %s", n, log.String())
	}
	if st := s.State("127.0.0.1"); st[0].Breaker != "closed" || st[0].Conns != 0 || st[0].Refused == "" {
		t.Errorf("%+v", st)
	}
}

// A server that accepts and says nothing is as bad as one that refuses.
func TestSilentServerBreaks(t *testing.T) {
	var talks atomic.Bool
	port := serve(t, func(c net.Conn) {
		if talks.Load() {
			greet(c)
		}
	})
	s := New(Config{Default: Settings{TLS: NoTLS, Ports: map[Service]int{IMAP: port}}})
	_, srv := s.use("127.0.0.1")
	for range 3 {
		c, err := s.Dial(t.Context(), "127.0.0.1", IMAP)
		if err != nil {
			t.Fatal(err)
		}
		if text, _ := io.ReadAll(c); len(text) != 0 {
			t.Fatalf("%q", text)
		}
		c.Close()
	}
	if _, err := s.Dial(t.Context(), "127.0.0.1", IMAP); !errors.Is(err, ErrBreakerOpen) {
		t.Fatal(err)
	}
	talks.Store(true)
	srv.breakers[IMAP].retryAt = time.Now() // the time is over
	c, err := s.Dial(t.Context(), "127.0.0.1", IMAP)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Dial(t.Context(), "127.0.0.1", IMAP); !errors.Is(err, ErrBreakerOpen) {
		t.Errorf("while somebody finds out: %v", err)
	}
	if st := s.State("127.0.0.1"); st[0].Breaker != "half-open" {
		t.Errorf("%+v", st)
	}
	if text, _ := io.ReadAll(c); len(text) == 0 {
		t.Error("no greeting")
	}
	c.Close()
	if st := s.State("127.0.0.1"); st[0].Breaker != "closed" || st[0].Failures != 0 || st[0].LastError == "" {
		t.Errorf("%+v", st)
	}
}

func TestBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b breaker
		fail := errors.New("refused")
		admitted := func(want, wantProbe bool) {
			t.Helper()
			probe, err := b.admit(time.Now())
			if (err == nil) != want || probe != wantProbe {
				t.Fatalf("admitted: %v, probe %v", err, probe)
			}
		}
		for range breakAfter {
			admitted(true, false)
			b.failed(time.Now(), time.Now(), false, fail)
		}
		b.failed(time.Now(), time.Now(), false, fail) // somebody who had left before
		for _, delay := range []time.Duration{5, 10, 20, 40, 60, 60} {
			admitted(false, false)
			time.Sleep(delay * time.Second * 79 / 100)
			admitted(false, false)
			time.Sleep(delay * time.Second * 42 / 100)
			admitted(true, true)
			admitted(false, false)
			b.failed(time.Now(), time.Now(), true, fail)
		}
		time.Sleep(2 * time.Minute)
		admitted(true, true)
		b.undecided()
		admitted(true, true)
		b.ok(time.Now())
		admitted(true, false)

		// Somebody who had left before the breaker opened is greeted after all, and the one who finds out is not.
		for range breakAfter {
			b.failed(time.Now(), time.Now(), false, fail)
		}
		time.Sleep(breakFirst * 2)
		admitted(true, true)
		began := time.Now()
		time.Sleep(time.Second)
		b.ok(time.Now())
		time.Sleep(dialEach)
		b.failed(began, time.Now(), true, fail)
		admitted(true, false)
		if st := b.status(); st.Breaker != "closed" || st.LastError != "refused" {
			t.Errorf("%+v", st)
		}

		// Those who have seen it fail at the same moment do not come back at the same moment.
		times := map[time.Time]bool{}
		for range 10 {
			var b breaker
			for range breakAfter {
				b.failed(time.Now(), time.Now(), false, fail)
			}
			times[b.retryAt] = true
		}
		if len(times) < 9 {
			t.Errorf("ten of them come back at %d times", len(times))
		}
	})
}

// A host that drops packets costs one caller his time, and nobody else.
func TestDarkServerBreaksAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{Default: Settings{TLS: NoTLS}, Dial: func(ctx context.Context, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}})
		for _, c := range []struct {
			takes time.Duration
			err   error
		}{{dialLast, ErrUnreachable}, {0, ErrBreakerOpen}} {
			began := time.Now()
			if _, err := s.Dial(t.Context(), "192.0.2.1", IMAP); !errors.Is(err, c.err) || time.Since(began) != c.takes {
				t.Errorf("after %v: %v, want %v", time.Since(began), err, c.err)
			}
		}
	})
}

// Those whose turn comes when their own time is nearly over, all at once because the server greets many at once, do not
// close it to the rest.
func TestHurriedCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := time.Now().Add(4900 * time.Millisecond)
		s := New(Config{Default: Settings{TLS: NoTLS}, Dial: func(ctx context.Context, _ string) (net.Conn, error) {
			near, far := net.Pipe()
			time.AfterFunc(max(time.Until(open), time.Second), func() {
				defer far.Close()
				far.SetWriteDeadline(time.Now().Add(time.Second))
				greet(far)
			})
			return near, nil
		}})
		var greeted, late atomic.Int64
		var all sync.WaitGroup
		for range 2 * approach {
			all.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				c, err := s.Dial(ctx, "192.0.2.1", IMAP)
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				deadline, _ := ctx.Deadline()
				c.SetReadDeadline(deadline)
				if _, err := c.Read(make([]byte, 1)); err == nil {
					greeted.Add(1)
				} else {
					late.Add(1)
				}
			})
		}
		all.Wait()
		if greeted.Load() != approach || late.Load() != approach {
			t.Errorf("%d greeted, %d late: not the crowd that was meant", greeted.Load(), late.Load())
		}
		if st := s.State("192.0.2.1"); st[0].Breaker != "closed" {
			t.Errorf("%+v", st)
		}
	})
}

// A crowd that comes at once to a server that greets a few in a second gets in, one after the other: it never has more
// than its queue holds, and those for whom it is too late do not close it to the rest.
func TestSlowServerStaysOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const crowd, each = 400, 100 * time.Millisecond
		var waiting, most atomic.Int64
		door := make(chan net.Conn, crowd)
		var server sync.WaitGroup
		server.Go(func() {
			for c := range door {
				time.Sleep(each)
				waiting.Add(-1)
				c.Write([]byte("* OK\r\n"))
				c.Close()
			}
		})
		reg := prometheus.NewRegistry()
		s := New(Config{Default: Settings{TLS: NoTLS}, Metrics: reg, Dial: func(context.Context, string) (net.Conn, error) {
			near, far := net.Pipe()
			n := waiting.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			door <- far
			return near, nil
		}})
		var greeted, busy, late atomic.Int64
		var all sync.WaitGroup
		for i := range crowd {
			patience := 5 * time.Second // longer than the queue takes
			if i%20 == 0 {
				patience = time.Second
			}
			all.Go(func() {
				c, err := s.Dial(t.Context(), "192.0.2.1", IMAP)
				if err != nil {
					if !errors.Is(err, ErrBusy) || !errors.Is(err, ErrDown) {
						t.Error(err)
					}
					busy.Add(1)
					return
				}
				defer c.Close()
				c.SetReadDeadline(time.Now().Add(patience))
				if text, _ := io.ReadAll(c); len(text) > 0 {
					greeted.Add(1)
				} else {
					late.Add(1)
				}
			})
		}
		inLine := func() float64 {
			families, _ := reg.Gather()
			for _, f := range families {
				if f.GetName() == "murder_backend_waiting" {
					return f.GetMetric()[0].GetGauge().GetValue()
				}
			}
			return -1
		}
		synctest.Wait()
		if n := inLine(); n != crowd-approach {
			t.Errorf("%v wait for their turn", n)
		}
		all.Wait()
		if n := inLine(); n != 0 {
			t.Errorf("%v still wait for their turn", n)
		}
		close(door)
		server.Wait()
		if n := most.Load(); n > approach+late.Load() { // who has given up is still in the server's queue
			t.Errorf("%d waited for a greeting at once", n)
		}
		if greeted.Load() < 250 || busy.Load() == 0 || late.Load() == 0 {
			t.Errorf("%d greeted, %d busy, %d late: not the crowd that was meant", greeted.Load(), busy.Load(), late.Load())
		}
		if st := s.State("192.0.2.1"); st[0].Breaker != "closed" || st[0].Conns != 0 {
			t.Errorf("%+v", st)
		}
	})
}

func certificate(t *testing.T, hosts ...string) (tls.Certificate, *x509.CertPool, string) {
	t.Helper()
	certPEM, keyPEM, err := tlsconf.SelfSigned(hosts...)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert.Leaf)
	return cert, pool, Pin(cert.Leaf)
}

func TestTLS(t *testing.T) {
	cert, pool, pin := certificate(t, "be1.example", "127.0.0.1")
	_, otherPool, otherPin := certificate(t, "be1.example")
	cfg := &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequestClientCert}
	implicit := serve(t, func(c net.Conn) {
		s := tls.Server(c, cfg)
		greet(s)
		s.Close()
	})
	explicit := serve(t, func(c net.Conn) {
		greet(c)
		var line [10]byte
		io.ReadFull(c, line[:])
		s := tls.Server(c, cfg)
		io.WriteString(s, "again\r\n")
		s.Close()
	})
	for _, c := range []struct {
		name string
		set  Settings
		ok   bool
	}{
		{"ca", Settings{RootCAs: pool}, true},
		{"ca, another name", Settings{RootCAs: pool, TLSName: "x"}, true},
		{"wrong ca", Settings{RootCAs: otherPool}, false},
		{"system's cas", Settings{}, false},
		{"name", Settings{RootCAs: pool, Verify: VerifyName, TLSName: "be1.example"}, true},
		{"name of the host", Settings{RootCAs: pool, Verify: VerifyName}, true},
		{"wrong name", Settings{RootCAs: pool, Verify: VerifyName, TLSName: "be2.example"}, false},
		{"pin", Settings{Verify: VerifyPin, Pins: []string{otherPin, strings.ToUpper(pin)}}, true},
		{"wrong pin", Settings{Verify: VerifyPin, Pins: []string{otherPin}}, false},
		{"no pin", Settings{Verify: VerifyPin}, false},
		{"none", Settings{Verify: VerifyNone}, true},
		{"client certificate", Settings{Verify: VerifyNone, Certificate: func() (*tls.Certificate, error) { return &cert, nil }}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.set.Ports = map[Service]int{IMAP: implicit}
			c.set.TLS = Implicit
			conn, err := New(Config{Default: c.set}).Dial(t.Context(), "127.0.0.1", IMAP)
			if (err == nil) != c.ok || err != nil && (!errors.Is(err, ErrTLS) || !errors.Is(err, ErrDown)) {
				t.Fatalf("implicit: %v", err)
			}
			if err == nil {
				if text, err := io.ReadAll(conn); string(text) != "* OK\r\n" || !conn.Secured() || conn.NeedStartTLS() {
					t.Errorf("implicit: %q %v", text, err)
				}
				conn.Close()
			}

			c.set.Ports = map[Service]int{IMAP: explicit}
			c.set.TLS = StartTLS
			conn, err = New(Config{Default: c.set}).Dial(t.Context(), "127.0.0.1", IMAP)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			var greeting [6]byte
			if _, err := io.ReadFull(conn, greeting[:]); err != nil || !conn.NeedStartTLS() {
				t.Fatal(err)
			}
			io.WriteString(conn, "STARTTLS\r\n")
			if err := conn.StartTLS(t.Context()); (err == nil) != c.ok || err != nil && !errors.Is(err, ErrTLS) {
				t.Fatalf("starttls: %v", err)
			}
			if c.ok {
				if text, err := io.ReadAll(conn); string(text) != "again\r\n" || conn.NeedStartTLS() {
					t.Errorf("starttls: %q %v", text, err)
				}
				if err := conn.StartTLS(t.Context()); !errors.Is(err, ErrTLS) {
					t.Errorf("second starttls: %v", err)
				}
			}
		})
	}
}

func TestStartTLSDoesNotHang(t *testing.T) {
	release := make(chan struct{})
	port := serve(t, func(c net.Conn) { greet(c); <-release })
	defer close(release)
	c, err := New(Config{Default: Settings{Ports: map[Service]int{IMAP: port}}}).Dial(t.Context(), "127.0.0.1", IMAP)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := c.StartTLS(ctx); !errors.Is(err, ErrTLS) {
		t.Error(err)
	}
}

func TestSASLChoice(t *testing.T) {
	id := Settings{Authname: "murder", Password: "labpass"}
	with := func(change func(*Settings)) Settings { s := id; change(&s); return s }
	cert := func() (*tls.Certificate, error) { return nil, nil }
	all := "CRAM-MD5 EXTERNAL LOGIN PLAIN SCRAM-SHA-1 SCRAM-SHA-256"
	for _, c := range []struct {
		name    string
		set     Settings
		offered string
		secured bool
		want    string
	}{
		{"secured", id, all, true, "PLAIN"},
		{"in clear", id, all, false, "SCRAM-SHA-256"},
		{"in clear, allowed", with(func(s *Settings) { s.AllowPlaintext = true }), all, false, "PLAIN"},
		{"in clear, old", id, "plain scram-sha-1", false, "SCRAM-SHA-1"},
		{"in clear, only plain", id, "PLAIN LOGIN", false, ""},
		{"certificate", with(func(s *Settings) { s.Certificate = cert }), all, true, "EXTERNAL"},
		{"unverified", with(func(s *Settings) { s.Verify = VerifyNone }), all, true, "SCRAM-SHA-256"},
		{"unverified, only plain", with(func(s *Settings) { s.Verify = VerifyNone }), "PLAIN", true, "PLAIN"},
		{"chosen", with(func(s *Settings) { s.Mechs = []string{"scram-sha-1", "PLAIN"} }), all, true, "SCRAM-SHA-1"},
		{"chosen, not offered", with(func(s *Settings) { s.Mechs = []string{"SCRAM-SHA-1"} }), "PLAIN", true, ""},
		{"no authorization identity", id, "LOGIN CRAM-MD5", true, ""},
		{"no identity", Settings{}, all, true, ""},
		{"nothing offered", id, "", true, ""},
	} {
		mech, client, err := New(Config{Default: c.set}).SASL("be1", strings.Fields(c.offered), "alice", c.secured)
		if mech != c.want || (err == nil) != (c.want != "") || err != nil && !errors.Is(err, ErrNoMechanism) {
			t.Errorf("%s: %q %v", c.name, mech, err)
		}
		if err == nil {
			if started, ir, err := client.Start(); started != mech || err != nil || !strings.Contains(string(ir), "alice") {
				t.Errorf("%s: %s %q %v", c.name, started, ir, err)
			}
		}
	}
}

func TestLoginFailed(t *testing.T) {
	var log strings.Builder
	s := New(Config{Logger: textLogger(&log)})
	for range 3 {
		s.LoginFailed("be1", POP3, errors.New("no"))
	}
	if n := strings.Count(log.String(), "backend=be1"); n != 1 {
		t.Errorf("logged %d times: %s", n, log.String())
	}
	if st := s.States(); len(st) != 1 || st[0].Breaker != "closed" || st[0].Refused != "no" || st[0].RefusedAt.IsZero() {
		t.Errorf("%+v", st)
	}
}

func textLogger(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

// A crowd before a server that has vanished learns so at once from the first, who tried for as long as the last address
// may take.
func TestCrowdBeforeADarkServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{Default: Settings{TLS: NoTLS}, Dial: func(ctx context.Context, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}})
		began := time.Now()
		var tried, spared atomic.Int64
		var all sync.WaitGroup
		for range 1000 {
			all.Go(func() {
				switch _, err := s.Dial(t.Context(), "192.0.2.1", IMAP); {
				case errors.Is(err, ErrUnreachable):
					tried.Add(1)
				case errors.Is(err, ErrBreakerOpen):
					spared.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		all.Wait()
		if tried.Load() != approach || spared.Load() != 1000-approach || time.Since(began) != dialLast {
			t.Errorf("%d tried, %d were spared that, after %v", tried.Load(), spared.Load(), time.Since(began))
		}
		if n := len(s.servers["192.0.2.1"].turns[IMAP]); n != 0 {
			t.Errorf("%d turns are lost", n)
		}
	})
}
