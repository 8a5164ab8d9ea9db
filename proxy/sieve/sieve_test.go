package sieve

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"murder/internal/backend"
	"murder/internal/mbox"
	"murder/proxy/login/logintest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type peer = logintest.Peer

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func plain(authz, user, password string) string {
	return `AUTHENTICATE "PLAIN" "` + b64(authz+"\x00"+user+"\x00"+password) + `"`
}

const greeting = "\"IMPLEMENTATION\" \"Cyrus\"\r\n\"SASL\" \"PLAIN\"\r\n\"SIEVE\" \"%s\"\r\n\"UNAUTHENTICATE\"\r\nOK \"ready\"\r\n"

// scripts plays a backend with some extensions: sign-on as murder for authz, then serve.
func scripts(extensions, authz string, serve func(*peer)) func(*peer) {
	return func(p *peer) {
		p.Send(fmt.Sprintf(greeting, extensions))
		switch line := p.Line(); line {
		case plain(authz, "murder", "labpass"):
			p.Send("OK \"Welcome\"\r\n")
			serve(p)
		case "LOGOUT", "<EOF>": // asked for its capabilities
		default:
			p.Send("NO \"Authentication Error\"\r\n")
			p.Line()
		}
	}
}

// echo answers every command with its first line until LOGOUT.
func echo(p *peer) {
	for {
		line := p.Line()
		if strings.HasSuffix(line, "<EOF>") {
			return
		}
		p.Send("OK " + quote(line) + "\r\n")
		if line == "LOGOUT" {
			return
		}
	}
}

func start(t *testing.T, m *logintest.Map, ports map[mbox.Server]int, change func(*Config)) (*Server, func() *peer) {
	t.Helper()
	cfg := Config{Config: logintest.Config(t, backend.Sieve, m, ports)}
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

func alices(t *testing.T, script func(*peer)) (*logintest.Map, map[mbox.Server]int) {
	m := &logintest.Map{}
	m.Set("user.alice", "be1", mbox.Active)
	return m, map[mbox.Server]int{"be1": logintest.Backend(t, script), "be2": logintest.ClosedPort(t)}
}

func greeted(dial func() *peer) *peer {
	p := dial()
	p.Until("OK")
	return p
}

func TestBeforeLogin(t *testing.T) {
	m, ports := alices(t, scripts("fileinto reject vacation", "alice", echo))
	ports["be3"] = logintest.Backend(t, scripts("vacation fileinto imap4flags", "x", echo))
	_, dial := start(t, m, ports, nil)
	caps := []string{`"IMPLEMENTATION" "murder 1"$`, `"VERSION" "1.0"$`, `"SASL" "SCRAM-SHA-256 PLAIN"$`, `"SIEVE" "fileinto vacation"$`, `"STARTTLS"$`}
	p := dial()
	p.Want(append(caps, "OK$")...)
	p.Ask("capability", append(caps, "OK$")...)
	p.Ask("NOOP", `OK "Done"$`)
	p.Ask(`NOOP "a\"b"`, `OK (TAG "a\"b") "Done"$`)
	p.Ask("NOOP {3+}\r\nabc", `OK (TAG "abc") "Done"$`)
	p.Ask("LISTSCRIPTS", `NO "Authenticate first"$`)
	p.Ask("CHECKSCRIPT {4+}\r\nkeep", `NO "Authenticate first"$`)
	p.Ask(`"quoted"`, `NO "syntax error`)
	p.Ask(`NOOP "open`, `NO "syntax error`)
	p.Ask("\r\n\r\nNOOP", "OK")
	p.Ask("STARTTLS\r\nNOOP", "OK ") // the NOOP in clear must be forgotten
	p.StartTLS()
	p.Want(append(caps[:4:4], "OK$")...)
	p.Ask("STARTTLS", "NO ")
	p.Ask("LOGOUT", "OK ", "<EOF>$")
}

func TestLogin(t *testing.T) {
	for name, talk := range map[string]func(*peer){
		"initial response": func(p *peer) { p.Ask(plain("", "alice", "secret"), `OK$`) },
		"literals": func(p *peer) {
			ir := b64("\x00alice\x00secret")
			p.Ask(fmt.Sprintf("AUTHENTICATE {5+}\r\nPLAIN {%d+}\r\n%s", len(ir), ir), `OK$`)
		},
		"challenge": func(p *peer) {
			p.Ask(`AUTHENTICATE "PLAIN"`, `""$`)
			p.Ask(`"`+b64("\x00alice\x00secret")+`"`, `OK$`)
		},
		"cancelled": func(p *peer) {
			p.Ask(`AUTHENTICATE "PLAIN"`, `""$`)
			p.Ask(`"*"`, `NO "Authentication cancelled"$`)
			p.Ask(plain("", "alice", "secret"), `OK$`)
		},
		"refused, then right": func(p *peer) {
			p.Ask(plain("", "alice", "wrong"), `NO "Authentication failed"$`)
			p.Ask(plain("", "nobody", "wrong"), `NO "Authentication failed"$`)
			p.Ask(plain("alice", "carol", "secret"), `NO "Not authorized`)
			p.Ask(`AUTHENTICATE "X"`, `NO "Unknown mechanism"$`)
			p.Ask(`AUTHENTICATE "PLAIN" "!"`, `NO "syntax error`)
			p.Ask(`AUTHENTICATE`, `NO "Usage`)
			p.Ask(plain("", "alice", "secret"), `OK$`)
		},
		"administrator": func(p *peer) { p.Ask(plain("alice", "cyrus", "labpass"), `OK$`) },
	} {
		t.Run(name, func(t *testing.T) {
			m, ports := alices(t, scripts("", "alice", echo))
			_, dial := start(t, m, ports, nil)
			p := greeted(dial)
			talk(p)
			p.Ask("LISTSCRIPTS", `OK "LISTSCRIPTS"$`)
			p.Ask("LOGOUT", `OK "LOGOUT"$`, "<EOF>$")
		})
	}
}

func TestFailures(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Config, *logintest.Map)
		want   string
	}{
		{"no mailbox", func(_ *Config, m *logintest.Map) { m.Set("user.alice", "", mbox.Absent) }, `NO "No mailbox"$`},
		{"reserved", func(_ *Config, m *logintest.Map) { m.Set("user.alice", "be1", mbox.Reserved) }, `NO (TRYLATER) "Mailbox is being moved"$`},
		{"no quorum", func(_ *Config, m *logintest.Map) {
			m.Set("user.alice", "", mbox.Absent)
			m.Break(true, false)
		}, `NO (TRYLATER) "Directory unavailable"$`},
		{"down", func(_ *Config, m *logintest.Map) { m.Set("user.alice", "be2", mbox.Active) }, `NO (TRYLATER) "Server unavailable"$`},
		{"our password", func(cfg *Config, _ *logintest.Map) {
			set := cfg.Backends.(*backend.Set)
			be1 := set.Settings("be1")
			be1.Password = "wrong"
			set.Update(backend.Settings{}, map[mbox.Server]backend.Settings{"be1": be1})
		}, `NO (TRYLATER) "Server unavailable"$`},
		{"no TLS", func(cfg *Config, _ *logintest.Map) {
			set := cfg.Backends.(*backend.Set)
			be1 := set.Settings("be1")
			be1.TLS = backend.StartTLS
			set.Update(backend.Settings{}, map[mbox.Server]backend.Settings{"be1": be1})
		}, `NO (TRYLATER) "Server unavailable"$`},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, ports := alices(t, scripts("", "alice", echo))
			m.Set("user.carol", "be3", mbox.Active)
			ports["be3"] = logintest.Backend(t, scripts("", "carol", echo))
			_, dial := start(t, m, ports, func(cfg *Config) {
				if c.change != nil {
					c.change(cfg, m)
				}
			})
			p := greeted(dial)
			p.Ask(plain("", "alice", "secret"), c.want)
			p.Ask("NOOP", "OK")
			if c.name == "down" || c.name == "reserved" || c.name == "no mailbox" {
				p.Ask(plain("", "carol", "secret"), `OK$`) // on the same connection
			}
		})
	}
}

func TestRelay(t *testing.T) {
	script := strings.Repeat("keep;\r\nOK fake\r\n", 12000)
	put := fmt.Sprintf("PUTSCRIPT \"x\" {%d+}", len(script))
	m, ports := alices(t, scripts("", "alice", func(p *peer) {
		p.Want(put + "$")
		got := make([]byte, len(script))
		io.ReadFull(p.R, got)
		if string(got) != script {
			t.Error("the script arrived changed")
		}
		p.Want("$", "CAPABILITY$")
		p.Send("OK\r\n\"IMPLEMENTATION\" \"Cyrus\"\r\n\"UNAUTHENTICATE\"\r\n\"STARTTLS\"\r\n\"OWNER\" \"alice\"\r\nOK\r\n")
		p.Want("LISTSCRIPTS$", "GETSCRIPT \"x\"$", "RENAMESCRIPT {1+}$", "a {1+}$", "b$")
		p.Send("\"UNAUTHENTICATE\"\r\n\"STARTTLS\" ACTIVE\r\nOK\r\n")
		p.Send(fmt.Sprintf("{%d}\r\n%s\r\nOK (WARNINGS) {4}\r\nNO x\r\nNO \"exists\"\r\n", len(script), script))
		p.Want("LOGOUT$")
		p.Send("OK\r\n")
	}))
	_, dial := start(t, m, ports, nil)
	p := greeted(dial)
	p.Send(plain("", "alice", "secret") + "\r\n" + put + "\r\n" + script + "\r\nunauthenticate\r\nCAPABILITY\r\nSTARTTLS\r\n\r\n \r\n" +
		"LISTSCRIPTS\r\nGETSCRIPT \"x\"\r\nUNAUTHENTICATE {2+}\r\nxx\r\nRENAMESCRIPT {1+}\r\na {1+}\r\nb\r\n")
	p.Want(`OK$`, "OK$", `NO "Not possible`)
	p.Want(`"IMPLEMENTATION" "Cyrus"$`, `"OWNER" "alice"$`, "OK$", `NO "Not possible`)
	p.Want(`"UNAUTHENTICATE"$`, `"STARTTLS" ACTIVE$`, "OK$", fmt.Sprintf("{%d}$", len(script)))
	got := make([]byte, len(script))
	io.ReadFull(p.R, got)
	if string(got) != script {
		t.Error("the script came back changed")
	}
	p.Want("$", "OK (WARNINGS) {4}$", "NO x$", `NO "Not possible`, `NO "exists"$`)
	p.Ask("UNAUTHENTICATE", `NO "Not possible`)
	p.Ask("LOGOUT", "OK$", "<EOF>$")
}

// What we take for an argument must not be a command to the backend.
func TestNothingHidesInArguments(t *testing.T) {
	m, ports := alices(t, scripts("", "alice", func(p *peer) {
		p.Want("LISTSCRIPTS$")
		p.Send("OK\r\n")
		p.Want("GETSCRIPT {3+}$", "abc$")
		p.Send("NO\r\n")
		p.Want("HAVESPACE \"{5+}\" 7$")
		p.Send("OK\r\n")
		p.Want("<EOF>$")
	}))
	_, dial := start(t, m, ports, nil)
	p := greeted(dial)
	p.Ask(plain("", "alice", "secret"), "OK")
	for _, line := range []string{
		"HAVESPACE \"a\" {16}", "HAVESPACE \"a\" {16+}\r\nUNAUTHENTICATE\r\n", "LISTSCRIPTS {16+}\r\nUNAUTHENTICATE\r\n", "NOOP \"x {16+}\r\nUNAUTHENTICATE\r\n",
		"SETACTIVE \"a\" {16+}\r\nUNAUTHENTICATE\r\n", "LOGOUT {16+}\r\nUNAUTHENTICATE\r\n", "NOOP {1{16+}\r\nUNAUTHENTICATE\r\n", "NOOP \"\\\"",
	} {
		p.Ask(line, `NO "Not possible`)
	}
	p.Ask("LISTSCRIPTS", "OK$")
	p.Ask("GETSCRIPT {3+}\r\nabc", "NO$")
	p.Ask("HAVESPACE \"{5+}\" 7", "OK$")
	p.Ask("PUTSCRIPT {1+}\r\na {16}", "<EOF>$")
}

func TestRelayEnds(t *testing.T) {
	for _, c := range []struct {
		name, ask, answer string
		want              []string
	}{
		{"idle", "", "", []string{`BYE (TRYLATER) "Backend connection lost"$`, "<EOF>$"}},
		{"answer owed", "LISTSCRIPTS", "", []string{`BYE (TRYLATER) "Backend connection lost"$`, "<EOF>$"}},
		{"within an answer", "LISTSCRIPTS", "\"x\"\r\n", []string{`"x"$`, "<EOF>$"}},
		{"within a literal", "GETSCRIPT \"x\"", "{10}\r\nabc", []string{"{10}$", "abc<EOF>$"}},
		{"its own farewell", "", "BYE \"idle\"\r\n", []string{`BYE "idle"$`, "<EOF>$"}},
		{"logout", "LOGOUT", "OK\r\n", []string{"OK$", "<EOF>$"}},
		{"client talks nonsense", strings.Repeat("x", maxLine+1), "", []string{`BYE "Too long"$`, "<EOF>$"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, ports := alices(t, scripts("", "alice", func(p *peer) {
				if c.ask != "" {
					p.Line()
				}
				p.Send(c.answer)
			}))
			_, dial := start(t, m, ports, nil)
			p := greeted(dial)
			p.Ask(plain("", "alice", "secret"), "OK")
			if c.ask != "" {
				p.Send(c.ask + "\r\n")
			}
			p.Want(c.want...)
		})
	}
}

func TestClientEnds(t *testing.T) {
	got := make(chan string, 1)
	m, ports := alices(t, scripts("", "alice", func(p *peer) {
		text, _ := io.ReadAll(p.R)
		got <- string(text)
		p.Send("OK \"late\"\r\n")
	}))
	_, dial := start(t, m, ports, nil)
	p := greeted(dial)
	p.Ask(plain("", "alice", "secret"), "OK")
	p.Send("DELETESCRIPT \"x\"\r\n")
	p.Conn.(*net.TCPConn).CloseWrite()
	p.Want(`OK "late"$`, "<EOF>$")
	if text := <-got; text != "DELETESCRIPT \"x\"\r\n" {
		t.Errorf("the backend heard %q", text)
	}
}

func TestReferral(t *testing.T) {
	m, ports := alices(t, scripts("", "alice", echo))
	_, dial := start(t, m, ports, func(c *Config) { c.Referrals = true })
	p := greeted(dial)
	p.Ask(plain("", "alice", "secret"), "OK")
	p.Ask("LISTSCRIPTS", `BYE (REFERRAL "sieve://be1.example.org") "`, "<EOF>$")
	p = greeted(dial)
	p.Ask(plain("", "alice", "secret"), "OK")
	p.Ask("LOGOUT", "OK", "<EOF>$")
	p = greeted(dial)
	p.Ask(plain("", "carol", "secret"), `NO "No mailbox"$`)
}

func TestStartTLSToBackend(t *testing.T) {
	cfg := logintest.TLS(t)
	m, ports := alices(t, func(p *peer) {
		p.Send("\"STARTTLS\"\r\nOK\r\n")
		if p.Line() != "STARTTLS" {
			return
		}
		p.Send("OK\r\nOK injected\r\n")
		p.Conn = tls.Server(p.Conn, cfg)
		p.R.Reset(p.Conn)
		p.Send(fmt.Sprintf(greeting, ""))
		p.Want(plain("alice", "murder", "labpass") + "$")
		p.Send("OK\r\n")
		echo(p)
	})
	_, dial := start(t, m, ports, func(c *Config) {
		set := c.Backends.(*backend.Set)
		be1 := set.Settings("be1")
		be1.TLS, be1.Verify = backend.StartTLS, backend.VerifyNone
		set.Update(backend.Settings{}, map[mbox.Server]backend.Settings{"be1": be1})
	})
	p := greeted(dial)
	p.Ask(plain("", "alice", "secret"), "OK")
	p.Ask("NOOP", `OK "NOOP"$`)
}

func TestNonsense(t *testing.T) {
	m, ports := alices(t, scripts("", "alice", echo))
	_, dial := start(t, m, ports, func(c *Config) { c.Limits.BadCommands = 3; c.Limits.Failures = 2 })
	p := greeted(dial)
	p.Ask("\x16\x03\x01", `BYE "TLS`, "<EOF>$")
	p = greeted(dial)
	p.Ask("NOOP {99999999+}", `BYE "Too long"$`, "<EOF>$")
	p = greeted(dial)
	p.Ask("NOOP {99999999999999999999+}", `BYE "Too long"$`, "<EOF>$")
	p = greeted(dial)
	p.Send("A\r\nB\r\nC\r\n")
	p.Want("NO", "NO", `BYE "Too many`, "<EOF>$")
	p = greeted(dial)
	p.Ask(plain("", "alice", "x"), "NO")
	p.Ask(plain("", "alice", "y"), `BYE "Authentication failed"$`, "<EOF>$")
}

func TestShutdown(t *testing.T) {
	busy := make(chan struct{})
	m, ports := alices(t, scripts("", "alice", func(p *peer) {
		p.Want("LISTSCRIPTS$")
		close(busy)
		p.Want("NOOP$")
		p.Send("OK\r\nOK\r\n")
		p.Want("LOGOUT$")
		p.Send("OK\r\n")
	}))
	m.Set("user.carol", "be3", mbox.Active)
	ports["be3"] = logintest.Backend(t, scripts("", "carol", echo))
	s, dial := start(t, m, ports, nil)
	fresh, idle, working := greeted(dial), greeted(dial), greeted(dial)
	idle.Ask(plain("", "carol", "secret"), "OK")
	idle.Ask("NOOP", "OK")
	working.Ask(plain("", "alice", "secret"), "OK")
	working.Send("LISTSCRIPTS\r\n")
	<-busy
	done := make(chan error)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	go func() { done <- s.Shutdown(ctx) }()
	fresh.Want(`BYE (TRYLATER) "server is shutting down"$`, "<EOF>$")
	idle.Want(`BYE (TRYLATER) "server is shutting down"$`, "<EOF>$")
	working.Ask("NOOP", "OK", "OK")
	working.Ask("LOGOUT", "OK", "<EOF>$")
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestExchange(t *testing.T) {
	for _, c := range []struct {
		in, challenge string
		done          bool
		err           error
	}{
		{`"` + b64("hello") + `"`, "hello", false, nil},
		{"{8}\r\n" + b64("hello"), "hello", false, nil},
		{`""`, "", false, nil},
		{`OK`, "", true, nil},
		{`OK "welcome"`, "", true, nil},
		{`OK (SASL "` + b64("v=x") + `") "welcome"`, "v=x", true, nil},
	} {
		words, err := readWords(bufio.NewReader(strings.NewReader(c.in + "\r\n")))
		if err != nil {
			t.Fatal(err)
		}
		challenge, done, err := outcome(words)
		if string(challenge) != c.challenge || done != c.done || !errors.Is(err, c.err) {
			t.Errorf("%q: %q %v %v", c.in, challenge, done, err)
		}
	}
}

// FuzzReadCommand: whatever comes, reading ends and nothing grows beyond its bound.
func FuzzReadCommand(f *testing.F) {
	for _, s := range []string{"NOOP\r\n", "NOOP \"a\\\"\"\r\n", "A {3+}\r\nabc {0}\r\n\r\n", "\"x\"\r\n", "A \"\r\n", "A}{\r\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bufio.NewReader(strings.NewReader(string(in)))
		for range 100 {
			c, err := readCommand(r)
			size := len(c.verb)
			for _, a := range c.args {
				size += len(a)
			}
			if size > maxCommand {
				t.Fatalf("%d octets", size)
			}
			if err != nil && !errors.Is(err, errSyntax) {
				return
			}
		}
	})
}
