package auth

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/xdg-go/scram"
	"go.uber.org/goleak"

	"murder/internal/limit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	local  = Conn{Protocol: "imap", Peer: netip.MustParseAddrPort("127.0.0.1:999")}
	remote = Conn{Protocol: "imap", Peer: netip.MustParseAddrPort("192.0.2.1:999")}
	inTLS  = Conn{Protocol: "imap", Peer: netip.MustParseAddrPort("192.0.2.1:999"), TLS: &tls.ConnectionState{Version: tls.VersionTLS12}}
)

func withCertificate(name string) Conn {
	c := inTLS
	leaf := &x509.Certificate{Subject: pkix.Name{CommonName: name}}
	c.TLS = &tls.ConnectionState{Version: tls.VersionTLS13, VerifiedChains: [][]*x509.Certificate{{leaf}}}
	return c
}

func users(t testing.TB, lines ...string) *Users {
	t.Helper()
	u, err := ReadUsers(strings.NewReader(strings.Join(lines, "\n")), "users")
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func mechanisms(t testing.TB, cfg Config) *Mechanisms {
	t.Helper()
	if cfg.Source == nil {
		cfg.Source = users(t, "alice:{PLAIN}secret:staff", "bob:{PLAIN}geheim", "cyrus:{PLAIN}labpass:@admin", "web:{PLAIN}mail:@proxy")
	}
	if cfg.Pause == 0 {
		cfg.Pause = -1
	}
	return NewMechanisms(cfg)
}

func TestNames(t *testing.T) {
	scramOnly := users(t, "a:"+hashed(t, FormScramSHA256, "x"))
	mixed := users(t, "a:{PLAIN}x", "b:"+hashed(t, FormArgon2id, "x"))
	noKeys := &Saslauthd{}
	for _, c := range []struct {
		name string
		cfg  Config
		conn Conn
		want string
	}{
		{"loopback", Config{}, local, "SCRAM-SHA-256 SCRAM-SHA-1 PLAIN LOGIN"},
		{"clear", Config{}, remote, "SCRAM-SHA-256 SCRAM-SHA-1"},
		{"clear, allowed", Config{AllowPlaintext: true}, remote, "SCRAM-SHA-256 SCRAM-SHA-1 PLAIN LOGIN"},
		{"tls", Config{}, inTLS, "SCRAM-SHA-256 SCRAM-SHA-1 PLAIN LOGIN"},
		{"certificate", Config{}, withCertificate("x"), "SCRAM-SHA-256 SCRAM-SHA-1 EXTERNAL PLAIN LOGIN"},
		{"keys for one hash", Config{Source: scramOnly}, local, "SCRAM-SHA-256 PLAIN LOGIN"},
		{"keys for some", Config{Source: mixed}, local, "PLAIN LOGIN"},
		{"no keys", Config{Source: noKeys}, local, "PLAIN LOGIN"},
		{"chain", Config{Source: Chain(scramOnly, users(t, "b:{PLAIN}x"))}, local, "SCRAM-SHA-256 PLAIN LOGIN"},
		{"chain without keys", Config{Source: Chain(scramOnly, noKeys)}, local, "PLAIN LOGIN"},
		{"chosen", Config{Mechs: []string{Plain, "X"}}, local, "PLAIN"},
		{"binding, TLS 1.3", Config{Mechs: []string{ScramSHA256Plus, Plain}}, withCertificate("x"), "SCRAM-SHA-256-PLUS PLAIN"},
		{"binding, TLS 1.2", Config{Mechs: []string{ScramSHA256Plus, Plain}}, inTLS, "PLAIN"},
	} {
		if got := strings.Join(mechanisms(t, c.cfg).Names(c.conn), " "); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}

func TestExchange(t *testing.T) {
	for _, c := range []struct {
		name      string
		mech      string
		conn      Conn
		responses []string // "-" is no initial response
		want      []string // challenges
		result    string   // authc/authz
		err       error
	}{
		{"plain", "plain", local, []string{"\x00alice\x00secret"}, nil, "alice/alice", nil},
		{"plain, asked", "PLAIN", local, []string{"-", "\x00alice\x00secret"}, []string{""}, "alice/alice", nil},
		{"plain, self", "PLAIN", local, []string{"alice\x00alice\x00secret"}, nil, "alice/alice", nil},
		{"plain, admin for other", "PLAIN", local, []string{"alice\x00cyrus\x00labpass"}, nil, "cyrus/alice", nil},
		{"plain, proxy for other", "PLAIN", local, []string{"alice\x00web\x00mail"}, nil, "web/alice", nil},
		{"plain, proxy for unknown", "PLAIN", local, []string{"carol\x00web\x00mail"}, nil, "web/carol", nil},
		{"plain, proxy for admin", "PLAIN", local, []string{"cyrus\x00web\x00mail"}, nil, "", ErrNotAuthorized},
		{"plain, user for other", "PLAIN", local, []string{"bob\x00alice\x00secret"}, nil, "", ErrNotAuthorized},
		{"plain, wrong", "PLAIN", local, []string{"\x00alice\x00x"}, nil, "", ErrRejected},
		{"plain, unknown", "PLAIN", local, []string{"\x00nobody\x00x"}, nil, "", ErrRejected},
		{"plain, no password", "PLAIN", local, []string{"\x00alice\x00"}, nil, "", ErrRejected},
		{"plain, garbage", "PLAIN", local, []string{"alice"}, nil, "", ErrMalformed},
		{"plain, empty", "PLAIN", local, []string{""}, nil, "", ErrMalformed},
		{"plain, too long", "PLAIN", local, []string{strings.Repeat("x", MaxResponse+1)}, nil, "", ErrMalformed},
		{"plain, in clear", "PLAIN", remote, nil, nil, "", ErrNeedsTLS},
		{"login", "LOGIN", local, []string{"-", "alice", "secret"}, []string{"Username:", "Password:"}, "alice/alice", nil},
		{"login, initial response", "LOGIN", local, []string{"alice", "secret"}, []string{"Password:"}, "alice/alice", nil},
		{"login, wrong", "LOGIN", local, []string{"-", "alice", "x"}, []string{"Username:", "Password:"}, "", ErrRejected},
		{"login, nothing", "LOGIN", local, []string{"-", "", ""}, []string{"Username:", "Password:"}, "", ErrRejected},
		{"external", "EXTERNAL", withCertificate("alice"), []string{""}, nil, "alice/alice", nil},
		{"external, asked", "EXTERNAL", withCertificate("alice"), []string{"-", "alice"}, []string{""}, "alice/alice", nil},
		{"external for other", "EXTERNAL", withCertificate("alice"), []string{"bob"}, nil, "", ErrNotAuthorized},
		{"external, admin for other", "EXTERNAL", withCertificate("cyrus"), []string{"bob"}, nil, "cyrus/bob", nil},
		{"external, unknown", "EXTERNAL", withCertificate("nobody"), []string{""}, nil, "", ErrRejected},
		{"external without certificate", "EXTERNAL", inTLS, nil, nil, "", ErrUnknownMechanism},
		{"unknown", "CRAM-MD5", local, nil, nil, "", ErrUnknownMechanism},
		{"scram, garbage", "SCRAM-SHA-256", local, []string{"x"}, nil, "", ErrMalformed},
		{"scram, asked, garbage", "SCRAM-SHA-256", local, []string{"-", "n,,n=,r="}, []string{"", "?"}, "", ErrMalformed},
		{"scram, binding asked", "SCRAM-SHA-256", local, []string{"p=tls-exporter,,n=alice,r=x"}, nil, "", ErrMalformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			x, err := mechanisms(t, Config{}).Start(t.Context(), c.mech, c.conn)
			var challenges []string
			done := false
			for i := 0; err == nil && !done; i++ {
				var response, challenge []byte
				if i == len(c.responses) {
					break
				}
				if c.responses[i] != "-" {
					response = []byte(c.responses[i])
				}
				if challenge, done, err = x.Next(response); err == nil && !done {
					challenges = append(challenges, string(challenge))
				}
			}
			if slices.Contains(c.want, "?") {
				return // a challenge with a nonce: that nothing broke is all there is to see
			}
			if !errors.Is(err, c.err) || err != nil && c.err == nil {
				t.Fatalf("got error %v, want %v", err, c.err)
			}
			if !slices.Equal(challenges, c.want) {
				t.Errorf("challenges %q, want %q", challenges, c.want)
			}
			if c.err == nil {
				if !done {
					t.Fatal("not done")
				}
				if r := x.Result(); r.Authc+"/"+r.Authz != c.result || r.Account.Name != r.Authz {
					t.Errorf("got %+v, want %s", r, c.result)
				}
				if _, _, err := x.Next(nil); !errors.Is(err, ErrMalformed) {
					t.Errorf("after the end: %v", err)
				}
			}
		})
	}
}

func TestScram(t *testing.T) {
	src := users(t, "alice:{PLAIN}secret", "bob:"+hashed(t, FormScramSHA256, "geheim"), "cyrus:{PLAIN}labpass:@admin", "c,d=e:{PLAIN}x")
	old := users(t, "alice:"+hashed(t, FormScramSHA1, "secret"))
	for _, c := range []struct {
		name, mech, user, password, authz string
		src                               *Users
		result                            string
		err                               error
	}{
		{"derived", ScramSHA256, "alice", "secret", "", src, "alice/alice", nil},
		{"stored", ScramSHA256, "bob", "geheim", "", src, "bob/bob", nil},
		{"sha-1", ScramSHA1, "alice", "secret", "", old, "alice/alice", nil},
		{"escaped", ScramSHA256, "c,d=e", "x", "", src, "c,d=e/c,d=e", nil},
		{"wrong", ScramSHA256, "alice", "x", "", src, "", ErrRejected},
		{"unknown", ScramSHA256, "nobody", "x", "", src, "", ErrRejected},
		{"admin for other", ScramSHA256, "cyrus", "labpass", "alice", src, "cyrus/alice", nil},
		{"user for other", ScramSHA256, "alice", "secret", "bob", src, "", ErrNotAuthorized},
	} {
		t.Run(c.name, func(t *testing.T) {
			x, err := mechanisms(t, Config{Source: c.src}).Start(t.Context(), c.mech, remote)
			if err != nil {
				t.Fatal(err)
			}
			generator := scram.SHA256
			if c.mech == ScramSHA1 {
				generator = scram.SHA1
			}
			client, err := generator.NewClient(c.user, c.password, c.authz)
			if err != nil {
				t.Fatal(err)
			}
			conv := client.NewConversation()
			done, challenge := false, []byte(nil)
			for err == nil && !done {
				response, clientErr := conv.Step(string(challenge))
				if clientErr != nil {
					t.Fatal(clientErr)
				}
				challenge, done, err = x.Next([]byte(response))
			}
			if !errors.Is(err, c.err) || err != nil && c.err == nil {
				t.Fatalf("got error %v, want %v", err, c.err)
			}
			if err != nil {
				return
			}
			if r := x.Result(); r.Authc+"/"+r.Authz != c.result {
				t.Errorf("got %+v, want %s", r, c.result)
			}
			if !conv.Valid() {
				t.Error("the server has not proved that it knows the keys")
			}
		})
	}
}

// The salt of an unknown user must not change between attempts, or it would tell him from a known one.
func TestScramUnknownUserLooksKnown(t *testing.T) {
	m := mechanisms(t, Config{})
	salts := make(map[string][]string)
	for _, user := range []string{"alice", "nobody", "nobody", "noone"} {
		x, err := m.Start(t.Context(), ScramSHA256, local)
		if err != nil {
			t.Fatal(err)
		}
		challenge, _, err := x.Next([]byte("n,,n=" + user + ",r=abc"))
		if err != nil {
			t.Fatal(err)
		}
		fields := strings.Split(string(challenge), ",")
		if len(fields) != 3 || fields[2] != "i=4096" {
			t.Fatalf("%s: %s", user, challenge)
		}
		salts[user] = append(salts[user], fields[1])
	}
	if n := salts["nobody"]; n[0] != n[1] || n[0] == salts["noone"][0] || len(n[0]) != len(salts["alice"][0]) {
		t.Errorf("salts: %v", salts)
	}
}

func TestPassword(t *testing.T) {
	m := mechanisms(t, Config{
		Admins:    []string{"bob"},
		Canonical: func(s string) (string, error) { return strings.ToLower(s), nil },
	})
	for _, c := range []struct {
		user, password string
		conn           Conn
		want           string
		admin          bool
		err            error
	}{
		{"alice", "secret", local, "alice", false, nil},
		{"Alice", "secret", inTLS, "alice", false, nil},
		{"bob", "geheim", local, "bob", true, nil},
		{"cyrus", "labpass", local, "cyrus", true, nil},
		{"alice", "x", local, "", false, ErrRejected},
		{"nobody", "x", local, "", false, ErrRejected},
		{"", "x", local, "", false, ErrRejected},
		{"a\nb", "x", local, "", false, ErrRejected},
		{strings.Repeat("a", maxUser+1), "x", local, "", false, ErrRejected},
		{"alice", strings.Repeat("a", maxPassword+1), local, "", false, ErrRejected},
		{"alice", "secret", remote, "", false, ErrNeedsTLS},
	} {
		got, err := m.Password(t.Context(), c.user, c.password, c.conn)
		if got.Name != c.want || got.Admin != c.admin || !errors.Is(err, c.err) {
			t.Errorf("%.20q: got %+v %v", c.user, got, err)
		}
		if errors.Is(err, ErrUnknownUser) {
			t.Errorf("%.20q: the error tells that the user is unknown", c.user)
		}
	}
}

// sourceFunc is a Source made of a function.
type sourceFunc func(ctx context.Context, user, password string) (Account, error)

func (f sourceFunc) Verify(ctx context.Context, user, password string, _ Conn) (Account, error) {
	return f(ctx, user, password)
}

func TestPause(t *testing.T) {
	slow := sourceFunc(func(ctx context.Context, user, _ string) (Account, error) {
		switch user {
		case "slow":
			time.Sleep(time.Second)
			return Account{}, ErrRejected
		case "down":
			return Account{}, errors.New("no route")
		case "good":
			return Account{Name: user}, nil
		case "hanging":
			<-ctx.Done()
			return Account{}, ctx.Err()
		case "panic":
			panic("boom")
		}
		return Account{}, ErrUnknownUser
	})
	for _, c := range []struct {
		user string
		want time.Duration
		err  error
	}{
		{"slow", 3 * time.Second, ErrRejected},
		{"unknown", 3 * time.Second, ErrRejected},
		{"down", 0, ErrUnavailable},
		{"hanging", 5 * time.Second, ErrUnavailable},
		{"panic", 0, ErrUnavailable},
		{"good", 0, nil},
	} {
		synctest.Test(t, func(t *testing.T) {
			m := NewMechanisms(Config{Source: slow})
			for _, try := range []func() error{
				func() error { _, err := m.Password(t.Context(), c.user, "x", local); return err },
				func() error {
					x, err := m.Start(t.Context(), Plain, local)
					if err == nil {
						_, _, err = x.Next([]byte("\x00" + c.user + "\x00x"))
					}
					return err
				},
			} {
				began := time.Now()
				err := try()
				if took := time.Since(began); took != c.want {
					t.Errorf("%s: took %v, want %v", c.user, took, c.want)
				}
				if !errors.Is(err, c.err) || err != nil && c.err == nil {
					t.Errorf("%s: %v, want %v", c.user, err, c.err)
				}
			}
		})
	}
}

func TestPauseEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMechanisms(Config{Source: users(t, "alice:{PLAIN}x")})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		_, err := m.Password(ctx, "alice", "y", local)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

func TestConcurrentQuestionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		m := NewMechanisms(Config{Concurrent: 1, Source: sourceFunc(func(ctx context.Context, user, _ string) (Account, error) {
			<-release
			return Account{Name: user}, nil
		})})
		first := make(chan error)
		go func() { _, err := m.Password(t.Context(), "a", "x", local); first <- err }()
		synctest.Wait()
		if _, err := m.Password(t.Context(), "b", "x", local); !errors.Is(err, ErrUnavailable) {
			t.Errorf("second: %v", err)
		}
		close(release)
		<-first
	})
}

func TestFailuresBlock(t *testing.T) {
	m := mechanisms(t, Config{Failures: limit.NewFailures(2, time.Hour, 10), AllowPlaintext: true, Metrics: prometheus.NewRegistry()})
	for i, want := range []error{ErrRejected, ErrRejected, ErrTooManyFailures} {
		if _, err := m.Password(t.Context(), "alice", "x", remote); !errors.Is(err, want) {
			t.Errorf("try %d: %v, want %v", i, err, want)
		}
	}
	if _, err := m.Start(t.Context(), Plain, remote); !errors.Is(err, ErrTooManyFailures) {
		t.Errorf("start: %v", err)
	}
	if _, err := m.Password(t.Context(), "alice", "secret", local); err != nil {
		t.Errorf("another address: %v", err)
	}
}

// Where failures are counted by name, a wrong password of one shuts out nobody else at the same address,
// whatever the mechanism.
func TestFailuresByName(t *testing.T) {
	m := mechanisms(t, Config{Failures: limit.NewFailures(2, time.Hour, 10), FailuresByName: true, AllowPlaintext: true, Metrics: prometheus.NewRegistry()})
	for i, want := range []error{ErrRejected, ErrRejected, ErrTooManyFailures} {
		if _, err := m.Password(t.Context(), "alice", "x", remote); !errors.Is(err, want) {
			t.Errorf("try %d: %v, want %v", i, err, want)
		}
	}
	for mech, first := range map[string]string{Plain: "\x00alice\x00secret", ScramSHA256: "n,,n=alice,r=abc"} {
		x, err := m.Start(t.Context(), mech, remote)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := x.Next([]byte(first)); !errors.Is(err, ErrTooManyFailures) {
			t.Errorf("%s: %v", mech, err)
		}
	}
	if _, err := m.Password(t.Context(), "bob", "x", remote); !errors.Is(err, ErrRejected) {
		t.Errorf("another name: %v", err)
	}
}

func TestMetricsAreShared(t *testing.T) {
	r := prometheus.NewRegistry()
	for range 2 {
		mechanisms(t, Config{Metrics: r}).Password(t.Context(), "alice", "secret", local)
	}
	families, err := r.Gather()
	if err != nil || len(families) != 1 || families[0].Metric[0].Counter.GetValue() != 2 {
		t.Errorf("%v %v", families, err)
	}
}

// FuzzExchange sends anything to every mechanism: nothing may panic, nobody may get in.
func FuzzExchange(f *testing.F) {
	f.Add(uint8(0), []byte("\x00alice\x00x"), []byte(""), []byte(""), true)
	f.Add(uint8(1), []byte("alice"), []byte("x"), []byte(""), false)
	f.Add(uint8(2), []byte(""), []byte("alice"), []byte(""), true)
	f.Add(uint8(3), []byte("n,,n=alice,r=fyko"), []byte("c=biws,r=fyko,p=AAAA"), []byte(""), true)
	f.Add(uint8(4), []byte("y,a=bob,n=alice,r=fyko"), []byte("c=biws,r=fyko,x=1,p=AAAA"), []byte("v"), false)
	m := NewMechanisms(Config{Source: users(f, "alice:{PLAIN}correct horse battery staple"), Pause: -1})
	mechs := []string{Plain, Login, External, ScramSHA256, ScramSHA1}
	f.Fuzz(func(t *testing.T, which uint8, a, b, c []byte, initial bool) {
		x, err := m.Start(context.Background(), mechs[int(which)%len(mechs)], withCertificate("nobody"))
		if err != nil {
			t.Fatal(err)
		}
		if !initial {
			if _, done, err := x.Next(nil); done || err != nil {
				t.Fatal("done before the client said anything")
			}
		}
		for _, response := range [][]byte{a, b, c} {
			_, done, err := x.Next(response)
			if done {
				t.Fatal("let in without the password")
			}
			if err != nil {
				return
			}
		}
	})
}

var _ sasl.Server = (*Exchange)(nil)
