package mupdate

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"murder/internal/auth"
	"murder/internal/mbox"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testPassword = "secret"

// testUsers derives keys, which takes a while.
var testUsers = sync.OnceValues(func() (*auth.Users, error) {
	var users []auth.User
	for _, name := range []string{"be-a", "be-b", "ro", "adm", "any", "take", "nobody"} {
		users = append(users, auth.User{Account: auth.Account{Name: name}, Password: "{PLAIN}" + testPassword})
	}
	return auth.NewUsers(users...)
})

func testAuth(t testing.TB, mechs ...string) *auth.Mechanisms {
	t.Helper()
	source, err := testUsers()
	if err != nil {
		t.Fatal(err)
	}
	return auth.NewMechanisms(auth.Config{Source: source, Mechs: mechs, Pause: -1})
}

func testConfig(t testing.TB, dir Directory) Config {
	return Config{
		Directory: dir, Auth: testAuth(t, "PLAIN", "SCRAM-SHA-256"),
		NodeID: "c1", ServerName: "c1.example", Version: "1.0",
		Identities: map[string]Identity{
			"be-a": {Role: Backend, Servers: []mbox.Server{"a.example"}},
			"be-b": {Role: Backend, Servers: []mbox.Server{"b.example"}},
			"any":  {Role: Backend},
			"take": {Role: Backend, Servers: []mbox.Server{"b.example"}, Takeover: true},
			"ro":   {Role: Reader},
			"adm":  {Role: Admin},
		},
		Logger:  slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
		Metrics: prometheus.NewRegistry(),
	}
}

func testTLS(t testing.TB) *tls.Config {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

type testServer struct {
	*Server
	addr string
}

func startServer(t testing.TB, cfg Config, adjust ...func(*Server)) *testServer {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return startServerOn(t, ln, cfg, adjust...)
}

func startServerOn(t testing.TB, ln net.Listener, cfg Config, adjust ...func(*Server)) *testServer {
	t.Helper()
	s := &testServer{New(cfg), ln.Addr().String()}
	for _, f := range adjust {
		f(s.Server)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return s
}

func dialServer(t testing.TB, s *testServer) *dialogue {
	t.Helper()
	nc, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	return &dialogue{nc: nc, r: bufio.NewReader(nc)}
}

func loggedIn(t testing.TB, s *testServer, user string) *dialogue {
	t.Helper()
	d := dialServer(t, s)
	if err := d.login(user); err != nil {
		t.Fatal(err)
	}
	return d
}

// follower has had its dump.
func follower(t testing.TB, s *testServer, user string) *dialogue {
	t.Helper()
	d := loggedIn(t, s, user)
	d.send("U01 UPDATE\r\n")
	for {
		switch got, err := d.line(); {
		case err != nil:
			t.Fatal(err)
		case strings.HasPrefix(got, "U01 OK"):
			return d
		}
	}
}

// dialClient logs our own client in.
func dialClient(t testing.TB, s *testServer, user string) *Client {
	t.Helper()
	c, err := Dial(t.Context(), ClientConfig{Addresses: []string{s.addr}, SASL: Password(user, testPassword)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}
