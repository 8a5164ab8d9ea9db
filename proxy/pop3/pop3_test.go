package pop3

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"murder/internal/backend"
	"murder/internal/mbox"
	"murder/proxy/login"
	"murder/proxy/login/logintest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type peer = logintest.Peer

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// maildrop plays a backend: sign-on as murder for authz, then serve.
func maildrop(authz string, serve func(*peer)) func(*peer) {
	return func(p *peer) {
		p.Send("+OK be ready\r\n")
		for {
			switch line := p.Line(); line {
			case "CAPA":
				p.Send("+OK\r\nSASL PLAIN\r\nSTLS\r\n.\r\n")
			case "AUTH PLAIN " + b64(authz+"\x00murder\x00labpass"):
				p.Send("+OK Mailbox locked and ready\r\n")
				serve(p)
				return
			default:
				p.Send("-ERR [AUTH] unexpected " + line + "\r\n")
				return
			}
		}
	}
}

// refusing plays a backend that answers the sign-on with line.
func refusing(line string) func(*peer) {
	return func(p *peer) {
		p.Send("+OK be ready\r\n")
		p.Want("CAPA$")
		p.Send("+OK\r\nSASL PLAIN\r\n.\r\n")
		p.Want("AUTH PLAIN ")
		p.Send(line + "\r\n")
		p.Line()
	}
}

// echo answers every line until QUIT.
func echo(p *peer) {
	for {
		line := p.Line()
		if strings.HasSuffix(line, "<EOF>") {
			return
		}
		p.Send("+OK " + line + "\r\n")
		if line == "QUIT" {
			return
		}
	}
}

func start(t *testing.T, m *logintest.Map, ports map[mbox.Server]int, change func(*Config)) (*Server, func() *peer) {
	t.Helper()
	cfg := Config{Config: logintest.Config(t, backend.POP3, m, ports)}
	cfg.Metrics = prometheus.NewRegistry()
	if change != nil {
		change(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s, logintest.Start(t, s, nil)
}

// alices returns a map with alice on be1, and be1 played by script.
func alices(t *testing.T, script func(*peer)) (*logintest.Map, map[mbox.Server]int) {
	m := &logintest.Map{}
	m.Set("user.alice", "be1", mbox.Active)
	return m, map[mbox.Server]int{"be1": logintest.Backend(t, script), "be2": logintest.ClosedPort(t)}
}

func TestCapabilities(t *testing.T) {
	m, ports := alices(t, func(*peer) {})
	_, dial := start(t, m, ports, nil)
	c := dial()
	c.Want("+OK f1 POP3 server ready$")
	c.Ask("CAPA", "+OK", "SASL SCRAM-SHA-256 PLAIN$", "STLS$", "USER$", "TOP$", "UIDL$", "RESP-CODES$", "AUTH-RESP-CODE$",
		"PIPELINING$", "EXPIRE NEVER$", "IMPLEMENTATION murder 1$", ".$")
	c.Ask("AUTH", "+OK", "SCRAM-SHA-256$", "PLAIN$", ".$")
	c.Ask("AUTH ", "+OK", "SCRAM-SHA-256$", "PLAIN$", ".$")
	c.Ask("STAT", "-ERR$"[:4])
	c.Ask("NOOP", "-ERR")
	c.Ask("UTF8", "-ERR")
	c.Ask("PASS x", "-ERR USER first")
	c.Ask("STLS\r\nUSER alice", "+OK") // the USER in clear must be forgotten
	c.StartTLS()
	c.Ask("PASS secret", "-ERR USER first")
	c.Ask("STLS", "-ERR")
	c.Send("CAPA\r\n")
	if caps := strings.Join(c.Until("."), " "); strings.Contains(caps, "STLS") {
		t.Error(caps)
	}
	c.Ask("QUIT", "+OK", "<EOF>$")
}

func TestLogin(t *testing.T) {
	for _, c := range []struct {
		name string
		talk func(*peer)
	}{
		{"user and pass", func(p *peer) {
			p.Ask("USER alice", "+OK")
			p.Ask("PASS secret", "+OK Mailbox locked and ready$")
		}},
		{"password with blanks", func(p *peer) {
			p.Ask("USER alice", "+OK")
			p.Ask("PASS secret ", "-ERR [AUTH] Invalid login$")
			p.Ask("PASS secret", "-ERR USER first$")
			p.Ask("USER alice", "+OK")
			p.Ask("PASS secret", "+OK Mailbox locked and ready$")
		}},
		{"initial response", func(p *peer) {
			p.Ask("auth plain "+b64("\x00alice\x00secret"), "+OK Mailbox locked and ready$")
		}},
		{"challenge", func(p *peer) {
			p.Ask("AUTH PLAIN", "+ $")
			p.Ask(b64("\x00alice\x00secret"), "+OK Mailbox locked and ready$")
		}},
		{"cancelled", func(p *peer) {
			p.Ask("AUTH PLAIN", "+ $")
			p.Ask("*", "-ERR Authentication cancelled$")
			p.Ask("AUTH PLAIN "+b64("\x00alice\x00secret"), "+OK Mailbox locked and ready$")
		}},
		{"garbage", func(p *peer) {
			p.Ask("AUTH PLAIN =", "-ERR [AUTH] Malformed response$")
			p.Ask("AUTH PLAIN !", "-ERR base64 expected$")
			p.Ask("AUTH CRAM-MD5", "-ERR Unknown mechanism$")
			p.Ask("AUTH PLAIN "+b64("\x00alice\x00secret"), "+OK Mailbox locked and ready$")
		}},
		{"administrator for alice", func(p *peer) {
			p.Ask("AUTH PLAIN "+b64("alice\x00cyrus\x00labpass"), "+OK Mailbox locked and ready$")
		}},
		{"carol for alice", func(p *peer) {
			p.Ask("AUTH PLAIN "+b64("alice\x00carol\x00secret"), "-ERR [AUTH] Not authorized")
			p.Ask("AUTH PLAIN "+b64("\x00alice\x00secret"), "+OK Mailbox locked and ready$")
		}},
		{"pipelined", func(p *peer) {
			p.Send("USER alice\r\nPASS secret\r\nNOOP\r\nSTAT\r\nQUIT\r\n")
			p.Want("+OK", "+OK Mailbox locked and ready$", "+OK NOOP$", "+OK STAT$", "+OK QUIT$", "<EOF>$")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, ports := alices(t, maildrop("alice", echo))
			_, dial := start(t, m, ports, nil)
			p := dial()
			p.Want("+OK")
			c.talk(p)
			if c.name != "pipelined" {
				p.Ask("LIST 1", "+OK LIST 1$")
				p.Ask("QUIT", "+OK QUIT$", "<EOF>$")
			}
		})
	}
}

func TestFailures(t *testing.T) {
	for _, c := range []struct {
		name   string
		script func(*peer)
		change func(*Config, *logintest.Map)
		want   string
	}{
		{"no inbox", nil, func(_ *Config, m *logintest.Map) { m.Set("user.alice", "", mbox.Absent) }, "-ERR [SYS/PERM] No maildrop$"},
		{"reserved", nil, func(_ *Config, m *logintest.Map) { m.Set("user.alice", "be1", mbox.Reserved) }, "-ERR [SYS/TEMP] Mailbox is being moved$"},
		{"no quorum", nil, func(_ *Config, m *logintest.Map) {
			m.Set("user.alice", "", mbox.Absent)
			m.Break(true, false)
		}, "-ERR [SYS/TEMP] Directory unavailable$"},
		{"never synced", nil, func(_ *Config, m *logintest.Map) { m.Break(false, true) }, "-ERR [SYS/TEMP] Directory unavailable$"},
		{"ourselves", nil, func(cfg *Config, _ *logintest.Map) { cfg.Self = "be1" }, "-ERR [SYS/TEMP] Server unavailable$"},
		{"down", nil, func(_ *Config, m *logintest.Map) { m.Set("user.alice", "be2", mbox.Active) }, "-ERR [SYS/TEMP] Server unavailable$"},
		{"silent", func(p *peer) { p.Line() }, func(cfg *Config, _ *logintest.Map) { cfg.Limits.Backend = 20 * time.Millisecond }, "-ERR [SYS/TEMP] Server unavailable$"},
		{"our password", refusing("-ERR [AUTH] Invalid login"), nil, "-ERR [SYS/TEMP] Server unavailable$"},
		{"with a code", refusing("-ERR [LOGIN-DELAY] minimum time between logins"), nil, "-ERR [LOGIN-DELAY] minimum time between logins$"},
		{"unknown there", refusing("-ERR [SYS/PERM] Unable to locate maildrop alice"), nil, "-ERR [SYS/TEMP] Mailbox is not available$"},
		{"without a code", refusing("-ERR Unable to open maildrop"), nil, "-ERR [SYS/TEMP] Unable to open maildrop$"},
		{"nonsense", refusing("220 smtp"), nil, "-ERR [SYS/TEMP] Server unavailable$"},
		{"no TLS", func(p *peer) { p.Send("+OK\r\n"); p.Want("CAPA"); p.Send("+OK\r\nSASL PLAIN\r\n.\r\n"); p.Line() }, func(cfg *Config, _ *logintest.Map) {
			set := cfg.Backends.(*backend.Set)
			be1 := set.Settings("be1")
			be1.TLS = backend.StartTLS
			set.Update(backend.Settings{}, map[mbox.Server]backend.Settings{"be1": be1})
		}, "-ERR [SYS/TEMP] Server unavailable$"},
		{"certificate", func(p *peer) {
			p.Send("+OK\r\n")
			p.Want("CAPA")
			p.Send("+OK\r\nSASL PLAIN\r\nSTLS\r\n.\r\n")
			p.Want("STLS")
			p.Send("+OK\r\n")
			p.Conn = tlsServer(p.Conn, logintest.TLS(t))
			p.R.Reset(p.Conn)
			p.Want("<EOF>") // no password
		}, func(cfg *Config, _ *logintest.Map) {
			set := cfg.Backends.(*backend.Set)
			be1 := set.Settings("be1")
			be1.TLS, be1.Verify = backend.StartTLS, backend.VerifyCA
			set.Update(backend.Settings{}, map[mbox.Server]backend.Settings{"be1": be1})
		}, "-ERR [SYS/TEMP] Server unavailable$"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.script == nil {
				c.script = maildrop("alice", echo)
			}
			m, ports := alices(t, c.script)
			_, dial := start(t, m, ports, func(cfg *Config) {
				if c.change != nil {
					c.change(cfg, m)
				}
			})
			p := dial()
			p.Want("+OK")
			p.Ask("USER alice", "+OK")
			p.Ask("PASS secret", c.want)
			p.Ask("CAPA", "+OK") // still there
		})
	}
}

// A user whose backend is down must not keep another from logging in over the same connection.
// crowded is backends where everybody waits for his turn for longer than signing on may take.
type crowded struct {
	login.Backends
	wait time.Duration
}

func (c crowded) Dial(ctx context.Context, server mbox.Server, svc backend.Service) (*backend.Conn, error) {
	if end, ok := ctx.Deadline(); ok && time.Until(end) <= c.wait {
		return nil, fmt.Errorf("waiting for %s: %w: %w", server, backend.ErrBusy, context.DeadlineExceeded)
	}
	return c.Backends.Dial(ctx, server, svc)
}

// Waiting for one's turn at a backend is no part of signing on there.
func TestTurnAtBackend(t *testing.T) {
	m, ports := alices(t, maildrop("alice", echo))
	_, dial := start(t, m, ports, func(cfg *Config) {
		cfg.Limits.Backend = 20 * time.Second
		cfg.Backends = crowded{cfg.Backends, 20 * time.Second}
	})
	p := dial()
	p.Want("+OK")
	p.Ask("AUTH PLAIN "+b64("\x00alice\x00secret"), "+OK")
	p.Ask("QUIT", "+OK QUIT$", "<EOF>$")
}

func TestLoginAfterFailure(t *testing.T) {
	m, ports := alices(t, maildrop("alice", echo))
	m.Set("user.carol", "be2", mbox.Active)
	_, dial := start(t, m, ports, nil)
	p := dial()
	p.Want("+OK")
	p.Ask("USER carol", "+OK")
	p.Ask("PASS secret", "-ERR [SYS/TEMP] Server unavailable$")
	p.Ask("USER alice", "+OK")
	p.Ask("PASS secret", "+OK Mailbox locked and ready$")
}

func TestSameAnswerForUnknownAndWrong(t *testing.T) {
	m, ports := alices(t, maildrop("alice", echo))
	_, dial := start(t, m, ports, func(c *Config) { c.Limits.Failures = 2 })
	p := dial()
	p.Want("+OK")
	p.Ask("USER alice", "+OK Name is a valid mailbox$")
	p.Ask("PASS wrong", "-ERR [AUTH] Invalid login$")
	p.Ask("USER nobody", "+OK Name is a valid mailbox$")
	p.Ask("PASS wrong", "-ERR [AUTH] Invalid login$", "<EOF>$")
	if m.Barriers() != 0 {
		t.Error("the map was asked for somebody who had not proved himself")
	}
}

func TestMailboxThatMoved(t *testing.T) {
	m, ports := alices(t, refusing("-ERR Mailbox does not exist"))
	ports["be3"] = logintest.Backend(t, maildrop("alice", echo))
	m.SetLater("user.alice", "be3", mbox.Active)
	_, dial := start(t, m, ports, nil)
	p := dial()
	p.Want("+OK")
	p.Ask("USER alice", "+OK")
	p.Ask("PASS secret", "+OK Mailbox locked and ready$")
}

func TestSubfolders(t *testing.T) {
	m, ports := alices(t, maildrop("alice+Work", echo))
	m.Set("user.alice.Work", "be1", mbox.Active)
	_, dial := start(t, m, ports, func(c *Config) { c.Subfolders = true })
	p := dial()
	p.Want("+OK")
	p.Ask("USER alice+Play", "+OK")
	p.Ask("PASS secret", "-ERR [SYS/PERM] No maildrop$")
	p.Ask("USER alice+Work", "+OK")
	p.Ask("PASS secret", "+OK Mailbox locked and ready$")
}

func TestStartTLSToBackend(t *testing.T) {
	cfg := logintest.TLS(t)
	script := func(p *peer) {
		p.Send("+OK\r\n")
		p.Want("CAPA$")
		p.Send("+OK\r\nSTLS\r\n.\r\n")
		p.Want("STLS$")
		p.Send("+OK\r\n+OK injected\r\n")
		p.Conn = tlsServer(p.Conn, cfg)
		p.R.Reset(p.Conn)
		p.Want("CAPA$")
		p.Send("+OK\r\nSASL PLAIN\r\n.\r\n")
		p.Want("AUTH PLAIN ")
		p.Send("+OK ready\r\n")
		echo(p)
	}
	m, ports := alices(t, script)
	_, dial := start(t, m, ports, func(c *Config) {
		set := c.Backends.(*backend.Set)
		be1 := set.Settings("be1")
		be1.TLS, be1.Verify, be1.Mechs = backend.StartTLS, backend.VerifyNone, []string{"PLAIN"}
		set.Update(backend.Settings{}, map[mbox.Server]backend.Settings{"be1": be1})
	})
	p := dial()
	p.Want("+OK")
	p.Ask("USER alice", "+OK")
	p.Ask("PASS secret", "+OK ready$") // what came in clear behind the consent is not believed
}

// heard returns everything a backend gets after login, when the client ends as end does.
func heard(t *testing.T, say string, end func(*peer)) string {
	t.Helper()
	got := make(chan string, 1)
	m, ports := alices(t, maildrop("alice", func(p *peer) {
		text, _ := io.ReadAll(p.R)
		got <- string(text)
		p.Send("+OK late answer\r\n")
	}))
	_, dial := start(t, m, ports, nil)
	p := dial()
	p.Want("+OK")
	p.Ask("USER alice", "+OK")
	p.Ask("PASS secret", "+OK Mailbox locked and ready$")
	p.Send(say)
	end(p)
	return <-got
}

// QUIT deletes messages: a client that vanishes must not be made to say it.
func TestNoQuitForThoseWhoVanish(t *testing.T) {
	for name, end := range map[string]func(*peer){
		"half-close": func(p *peer) {
			p.Conn.(*net.TCPConn).CloseWrite()
			p.Want("+OK late answer$", "<EOF>$")
		},
		"close": func(p *peer) { p.Close() },
		"reset": func(p *peer) { p.Conn.(*net.TCPConn).SetLinger(0); p.Close() },
	} {
		if got := heard(t, "DELE 1\r\n", end); strings.Contains(got, "QUIT") || name == "half-close" && got != "DELE 1\r\n" {
			t.Errorf("%s: the backend heard %q", name, got)
		}
	}
}

func TestBackendLost(t *testing.T) {
	for _, c := range []struct {
		name, ask, answer string
		want              []string
	}{
		{"idle", "", "", []string{"-ERR [SYS/TEMP] Backend connection lost$", "<EOF>$"}},
		{"answer owed", "STAT", "", []string{"-ERR [SYS/TEMP] Backend connection lost$", "<EOF>$"}},
		{"second answer owed", "RETR 1\r\nSTAT", "+OK\r\nx\r\n.\r\n", []string{"+OK", "x$", ".$", "-ERR [SYS/TEMP] Backend connection lost$", "<EOF>$"}},
		{"within a message", "RETR 1", "+OK\r\nline\r\n", []string{"+OK", "line$", "<EOF>$"}},
		{"within a line", "STAT", "+OK 1", []string{"+OK 1<EOF>$"}},
		{"after a dot-stuffed line", "RETR 1", "+OK\r\n..\r\n", []string{"+OK", "..$", "<EOF>$"}},
		{"list of one", "LIST 1", "+OK 1 2\r\n", []string{"+OK 1 2$", "-ERR [SYS/TEMP] Backend connection lost$", "<EOF>$"}},
		{"list of all", "LIST", "+OK\r\n1 2\r\n", []string{"+OK", "1 2$", "<EOF>$"}},
		{"no message", "RETR 9", "-ERR no such message\r\n", []string{"-ERR no such message$", "-ERR [SYS/TEMP] Backend connection lost$", "<EOF>$"}},
		{"quit", "QUIT", "+OK\r\n", []string{"+OK$", "<EOF>$"}},
		{"its own farewell", "", "-ERR idle for too long\r\n", []string{"-ERR idle for too long$", "<EOF>$"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, ports := alices(t, maildrop("alice", func(p *peer) {
				for range strings.Count(c.ask, "\n") + min(1, len(c.ask)) {
					p.Line()
				}
				p.Send(c.answer)
			}))
			_, dial := start(t, m, ports, nil)
			p := dial()
			p.Want("+OK")
			p.Ask("USER alice", "+OK")
			p.Ask("PASS secret", "+OK Mailbox locked and ready$")
			if c.ask != "" {
				p.Send(c.ask + "\r\n")
			}
			p.Want(c.want...)
		})
	}
}

func TestLargeMessage(t *testing.T) {
	line := strings.Repeat("x", 76) + "\r\n"
	m, ports := alices(t, maildrop("alice", func(p *peer) {
		p.Want("RETR 1$")
		p.Send("+OK\r\n")
		for range 20000 {
			p.Send(line)
		}
		p.Send(".\r\n")
		p.Want("QUIT$")
		p.Send("+OK\r\n")
	}))
	_, dial := start(t, m, ports, nil)
	p := dial()
	p.Want("+OK")
	p.Ask("USER alice", "+OK")
	p.Ask("PASS secret", "+OK")
	p.Ask("RETR 1", "+OK")
	if lines := p.Until("."); len(lines) != 20001 {
		t.Errorf("%d lines", len(lines))
	}
	p.Ask("QUIT", "+OK", "<EOF>$")
}

func TestNonsense(t *testing.T) {
	m, ports := alices(t, maildrop("alice", echo))
	_, dial := start(t, m, ports, func(c *Config) { c.Limits.BadCommands = 3 })
	p := dial()
	p.Want("+OK")
	p.Ask("\x16\x03\x01", "-ERR TLS begins with STLS here$", "<EOF>$")
	p = dial()
	p.Want("+OK")
	p.Ask(strings.Repeat("x", maxLine+1), "-ERR Line too long$", "<EOF>$")
	p = dial()
	p.Want("+OK")
	p.Send("FOO\r\nBAR\r\nGET / HTTP/1.1\r\n")
	p.Want("-ERR", "-ERR", "-ERR", "-ERR Too many bad commands$", "<EOF>$")
}

func TestImplicitTLSAndLimits(t *testing.T) {
	m, ports := alices(t, maildrop("alice", echo))
	cfg := Config{Config: logintest.Config(t, backend.POP3, m, ports)}
	cfg.Limits.Connections = 1
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	dial := logintest.Start(t, s, cfg.TLS)
	p := dial()
	p.StartTLS()
	p.Want("+OK")
	if p := dial(); p.Line() != "<EOF>" {
		t.Error("a second connection")
	}
	if list := s.Sessions(); len(list) != 1 || !list[0].TLS || list[0].User != "" {
		t.Errorf("%+v", list)
	}
	p.Ask("USER alice", "+OK")
	p.Ask("PASS secret", "+OK")
	list := s.Sessions()
	if len(list) != 1 || list[0].User != "alice" || list[0].Backend != "be1" {
		t.Errorf("%+v", list)
	}
	if s.Kick("x", "") || !s.Kick(list[0].ID, "") {
		t.Error("kick")
	}
	p.Want("<EOF>$")
}

// One user's sessions are bounded; behind a load balancer it is the client's address that counts.
func TestLimitsBehindAProxy(t *testing.T) {
	m, ports := alices(t, maildrop("alice", echo))
	s, dial := start(t, m, ports, func(c *Config) {
		c.Proxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		c.Limits.PerUser, c.Limits.PerAddress = 1, 2
	})
	from := func(addr string) *peer {
		p := dial()
		p.Send("PROXY TCP4 " + addr + " 192.0.2.1 1234 110\r\n")
		return p
	}
	one, two := from("192.0.2.7"), from("192.0.2.7")
	for _, p := range []*peer{one, two} {
		p.Want("+OK")
		p.Ask("USER alice", "-ERR [AUTH] Use STLS first$") // not on this host, wherever the proxy is
		p.Ask("STLS", "+OK")
		p.StartTLS()
		p.Ask("USER alice", "+OK")
	}
	one.Ask("PASS secret", "+OK")
	two.Ask("PASS secret", "-ERR [IN-USE] Too many connections$")
	from("192.0.2.7").Want("-ERR [IN-USE] Too many connections$", "<EOF>$")
	from("192.0.2.8").Want("+OK")
	if list := s.Sessions(); len(list) != 3 || list[0].Peer != "192.0.2.7:1234" {
		t.Errorf("%+v", list)
	}
	one.Ask("QUIT", "+OK", "<EOF>$")
	for end := time.Now().Add(10 * time.Second); len(s.Sessions()) > 2 && time.Now().Before(end); {
		time.Sleep(time.Millisecond) // nobody announces that a session has been forgotten
	}
	two.Ask("USER alice", "+OK")
	two.Ask("PASS secret", "+OK")
}

func TestShutdown(t *testing.T) {
	m, ports := alices(t, maildrop("alice", echo))
	s, dial := start(t, m, ports, nil)
	fresh, user := dial(), dial()
	fresh.Want("+OK")
	user.Want("+OK")
	user.Ask("USER alice", "+OK")
	user.Ask("PASS secret", "+OK")
	done := make(chan error)
	go func() { done <- s.Shutdown(context.Background()) }()
	fresh.Want("-ERR [SYS/TEMP] server is shutting down$", "<EOF>$")
	user.Ask("STAT", "+OK STAT$") // goes on
	user.Ask("QUIT", "+OK QUIT$", "<EOF>$")
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestConfig(t *testing.T) {
	if _, err := New(Config{Config: login.Config{}}); err == nil || !strings.HasPrefix(err.Error(), "pop3: ") {
		t.Error(err)
	}
}

func tlsServer(c net.Conn, cfg *tls.Config) net.Conn { return tls.Server(c, cfg) }

func TestConnectionsOfOneUser(t *testing.T) {
	m, ports := alices(t, maildrop("alice", echo))
	m.Set("user.carol", "be2", mbox.Active)
	_, dial := start(t, m, ports, func(c *Config) { c.Limits.PerUser = 1 })
	first, second := dial(), dial()
	first.Want("+OK")
	second.Want("+OK")
	for range 2 { // a login that fails takes no place
		first.Ask("USER carol", "+OK")
		first.Ask("PASS secret", "-ERR [SYS/TEMP] Server unavailable$")
	}
	first.Ask("USER alice", "+OK")
	first.Ask("PASS secret", "+OK")
	second.Ask("USER alice", "+OK")
	second.Ask("PASS secret", "-ERR [IN-USE] Too many connections$")
}

// FuzzDialogue: how the octets are cut into pieces must not matter.
func FuzzDialogue(f *testing.F) {
	f.Add([]byte("RETR 1\r\nLIST\r\nSTAT\r\n"), []byte("+OK\r\n..\r\n.\r\n-ERR\r\n+OK"), uint8(3))
	f.Add([]byte("UIDL \r\nLIST 1\nTOP 1 0\r\nQUIT"), []byte("+OK\n1 a\n.\n+OK 1 2\r\n+OK\r\nx\r\n"), uint8(1))
	f.Fuzz(func(t *testing.T, asked, answered []byte, size uint8) {
		var whole, cut dialogue
		whole.asked(asked)
		whole.answered(answered)
		step := int(size)%7 + 1
		for ; len(asked) > 0; asked = asked[min(step, len(asked)):] {
			cut.asked(asked[:min(step, len(asked))])
		}
		for ; len(answered) > 0; answered = answered[min(step, len(answered)):] {
			cut.answered(answered[:min(step, len(answered))])
		}
		if whole.between() != cut.between() || len(whole.pending) != len(cut.pending) {
			t.Errorf("whole %v %v, in pieces %v %v", whole.between(), whole.pending, cut.between(), cut.pending)
		}
	})
}
