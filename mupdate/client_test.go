package mupdate

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"murder/internal/mbox"
)

func mustPrefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// The whole vocabulary, over every kind of connection.
func TestClientCommands(t *testing.T) {
	cert := testTLS(t)
	roots := x509.NewCertPool()
	leaf, err := x509.ParseCertificate(cert.Certificates[0].Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	roots.AddCert(leaf)
	for _, c := range []struct {
		name     string
		mode     TLSMode
		compress bool
	}{{"clear", NoTLS, false}, {"starttls", StartTLS, false}, {"implicit", Implicit, false}, {"compressed", NoTLS, true}, {"compressed in TLS", StartTLS, true}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cfg := testConfig(t, newMemory())
			cfg.TLS = cert
			s := startServer(t, cfg)
			addr := s.addr
			if c.mode == Implicit {
				ln, err := tls.Listen("tcp", "127.0.0.1:0", cert)
				if err != nil {
					t.Fatal(err)
				}
				go s.Serve(ln)
				addr = ln.Addr().String()
			}
			exercise(t, ClientConfig{
				Addresses: []string{addr}, TLSMode: c.mode, TLS: &tls.Config{RootCAs: roots},
				SASL: Password("be-a", testPassword), Compress: c.compress,
			})
		})
	}
}

// A password is shown to nobody but this host in clear: SCRAM takes the place of PLAIN.
func TestPassword(t *testing.T) {
	for _, c := range []struct {
		offered string
		secured bool
		want    string
	}{
		{"SCRAM-SHA-256 SCRAM-SHA-1 PLAIN", true, "PLAIN"},
		{"SCRAM-SHA-256 SCRAM-SHA-1 PLAIN", false, "SCRAM-SHA-256"},
		{"scram-sha-1 DIGEST-MD5", true, "SCRAM-SHA-1"},
		{"PLAIN LOGIN", false, ""},
		{"", true, ""},
	} {
		client, err := Password("u", "p")(strings.Fields(c.offered), c.secured)
		mech := ""
		if err == nil {
			mech, _, err = client.Start()
		}
		if mech != c.want || (err != nil) != (c.want == "") || err != nil && !errors.Is(err, ErrNoMechanism) {
			t.Errorf("%q, secured %v: %s, %v", c.offered, c.secured, mech, err)
		}
	}
}

func exercise(t *testing.T, cfg ClientConfig) {
	ctx := t.Context()
	c, err := Dial(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	acl := mbox.ACL("u\tlrs\t")
	long := mbox.ACL(strings.Repeat("someone\tlrswipkxtecdan\t", 2600)) // V10
	for _, step := range []struct {
		what string
		err  error
		want string
	}{
		{"reserve", c.Reserve(ctx, "n", "a.example!p"), ""},
		{"activate", c.Activate(ctx, "n", "a.example!p", acl), ""},
		{"deactivate", c.Deactivate(ctx, "n", "a.example!p"), ""},
		{"deactivate absent", c.Deactivate(ctx, "m", "a.example!p"), `mupdate DEACTIVATE: m: NO "mailbox doesn't exist"`},
		{"long acl", c.Activate(ctx, "caf\xe9", "a.example!p", long), ""},
		{"noop", c.Noop(ctx), ""},
	} {
		if got := fmt.Sprint(step.err); step.want == "" && step.err != nil || step.want != "" && got != step.want {
			t.Errorf("%s: got %s, want %q", step.what, got, step.want)
		}
	}
	reserved := mbox.Entry{Name: "n", Location: "a.example!p", State: mbox.Reserved}
	if e, ok, err := c.Find(ctx, "n"); err != nil || !ok || e != reserved {
		t.Errorf("find: %+v %v %v", e, ok, err)
	}
	if _, ok, err := c.Find(ctx, "none"); err != nil || ok {
		t.Errorf("find of nothing: %v %v", ok, err)
	}
	var got []mbox.Entry
	if err := c.List(ctx, "a.example!", func(e mbox.Entry) error { got = append(got, e); return nil }); err != nil {
		t.Fatal(err)
	}
	want := []mbox.Entry{
		{Name: "caf\xe9", Location: "a.example!p", ACL: long, State: mbox.Active},
		reserved,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if err := c.Delete(ctx, "n"); err != nil {
		t.Error(err)
	}
	if err := c.Logout(ctx); err != nil {
		t.Error(err)
	}
}

// A stream outlives its server; every connection begins with a whole dump.
func TestFollow(t *testing.T) {
	dir := newMemory()
	dir.have(mbox.Entry{Name: "one", Location: "a!p", State: mbox.Active})
	ctx, cancel := context.WithCancel(t.Context())
	first := startServer(t, testConfig(t, dir))
	second := startServer(t, testConfig(t, dir))
	events := make(chan string, 100)
	note := func(format string, args ...any) { events <- fmt.Sprintf(format, args...) }
	done := make(chan error, 1)
	go func() {
		done <- Follow(ctx, ClientConfig{Addresses: []string{first.addr, second.addr}, SASL: Password("ro", testPassword)}, nil, Events{
			Begin:  func() { note("begin") },
			Row:    func(e mbox.Entry) error { note("%s %s", e.State, e.Name); return nil },
			Synced: func() error { note("synced"); return nil },
			Lost:   func(error) { note("lost") },
		})
	}()
	expect := func(want ...string) {
		t.Helper()
		for _, w := range want {
			if got := <-events; got != w {
				t.Fatalf("got %q, want %q", got, w)
			}
		}
	}
	expect("begin", "active one", "synced")
	dir.have(mbox.Entry{Name: "two", Location: "a!p", State: mbox.Reserved})
	expect("reserved two")
	first.Shutdown(t.Context())
	expect("lost", "begin", "active one", "reserved two", "synced")
	dir.have(mbox.Entry{Name: "one"})
	expect("absent one")
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// Silence is probed without an end of the stream, under every layer.
func TestUpdateOverSilence(t *testing.T) {
	for _, compress := range []bool{false, true} {
		t.Run(fmt.Sprintf("compress=%v", compress), func(t *testing.T) {
			t.Parallel()
			dir := newMemory()
			s := startServer(t, testConfig(t, dir))
			c, err := Dial(t.Context(), ClientConfig{Addresses: []string{s.addr}, SASL: Password("ro", testPassword), Compress: compress})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.cfg.Timeout = 150 * time.Millisecond
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			probed := func() { // the server has been asked three times since
				for begun := dir.asked(); dir.asked() < begun+3 && ctx.Err() == nil; {
					time.Sleep(time.Millisecond)
				}
			}
			rows := 0
			err = c.Update(ctx, nil, Events{
				Synced: func() error {
					go func() {
						for _, n := range []mbox.Name{"one", "two"} {
							probed()
							dir.have(mbox.Entry{Name: n, Location: "a!p", State: mbox.Active})
						}
					}()
					return nil
				},
				Row: func(mbox.Entry) error {
					if rows++; rows == 2 {
						return io.EOF
					}
					return nil
				},
			})
			if !errors.Is(err, io.EOF) {
				t.Fatalf("after %d rows: %v", rows, err)
			}
		})
	}
}

// Addresses are tried in turn; one that is not synchronised counts as away.
func TestDialFailover(t *testing.T) {
	away, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	away.Close()
	unsynced := newMemory()
	unsynced.unsynced = true
	addresses := []string{away.Addr().String(), startServer(t, testConfig(t, unsynced)).addr, startServer(t, testConfig(t, newMemory())).addr}
	c, err := Dial(t.Context(), ClientConfig{Addresses: addresses, SASL: Password("ro", testPassword)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	want := Greeting{Mechanisms: c.Greeting().Mechanisms, Compress: true, PartialUpdate: true,
		Server: "c1.example", Implementation: "murder", Version: "1.0", Role: "(master)"}
	if diff := cmp.Diff(want, c.Greeting(), cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
	// A refused login is no reason to try the password elsewhere.
	_, err = Dial(t.Context(), ClientConfig{Addresses: addresses[2:], SASL: Password("ro", "wrong")})
	if refused := new(ResponseError); !errors.As(err, &refused) || refused.Status != "NO" {
		t.Errorf("got %v", err)
	}
}

// What other servers send: extras in the greeting, synchronising literals, unquoted texts.
func TestClientAgainstAnotherServer(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	script := make(chan error, 1)
	go func() {
		nc, err := ln.Accept()
		if err != nil {
			script <- err
			return
		}
		defer nc.Close()
		r := bufio.NewReader(nc)
		for _, turn := range []struct{ say, hear string }{
			{"* HELLO there\r\n* AUTH PLAIN\r\n* OK MUPDATE \"h\" \"i\" \"v\" \"(master)\" \"more\"\r\n", "A01 AUTHENTICATE \"PLAIN\" \"AHJvAHNlY3JldA==\"\r\n"},
			{"A01 OK welcome\r\n", "X1 FIND \"n\"\r\n"},
			{"X1 RESERVE {1}\r\n", "+ go ahead\r\n"},
			{"n {3+}\r\na!p\r\nX1 OK \"Search completed\"\r\n", "X2 NOOP\r\n"},
			{"X2 NO busy now\r\n", ""},
		} {
			io.WriteString(nc, turn.say)
			if turn.hear == "" {
				continue
			}
			if got, err := r.ReadString('\n'); got != turn.hear {
				script <- fmt.Errorf("got %q, want %q: %v", got, turn.hear, err)
				return
			}
		}
		script <- nil
	}()
	c, err := Dial(t.Context(), ClientConfig{Addresses: []string{ln.Addr().String()}, SASL: Password("ro", testPassword)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if e, ok, err := c.Find(t.Context(), "n"); err != nil || !ok || e.Location != "a!p" || e.State != mbox.Reserved {
		t.Errorf("find: %+v %v %v", e, ok, err)
	}
	if err := c.Noop(t.Context()); err == nil || err.Error() != `mupdate NOOP: NO "busy now"` {
		t.Errorf("noop: %v", err)
	}
	if err := <-script; err != nil {
		t.Error(err)
	}
}
