package lmtp

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"murder/internal/auth"
	"murder/internal/tlsconf"
)

func newAuth(t *testing.T, plaintext bool) *auth.Mechanisms {
	t.Helper()
	users, err := auth.ReadUsers(strings.NewReader("mta:{PLAIN}secret\nalice:{PLAIN}hers\n"), "users")
	if err != nil {
		t.Fatal(err)
	}
	return auth.NewMechanisms(auth.Config{Source: users, Pause: time.Millisecond, AllowPlaintext: plaintext})
}

func plain(user, password string) string {
	return base64.StdEncoding.EncodeToString([]byte("\x00" + user + "\x00" + password))
}

func TestAuth(t *testing.T) {
	h, _, _ := two(t, func(c *hostConfig) {
		c.listen.Trusted = false
		c.Auth, c.Admins, c.Limits.AuthPause = newAuth(t, false), []string{"mta"}, time.Millisecond
		c.Limits.BadCommands = 100
	})
	m := h.dial(t)
	m.say("AUTH PLAIN "+plain("mta", "secret"), "503")
	m.send("LHLO x\r\n")
	if rep := m.reply(); !strings.Contains(rep, "AUTH ") || !strings.Contains(rep, " PLAIN") {
		t.Errorf("got %q", rep)
	}
	transcript(m, `
		C: MAIL FROM:<>
		S: 530 5.7.0
		C: RCPT TO:<alice>
		S: 503
		C: VRFY alice
		S: 530 5.7.0
		C: AUTH PLAIN `+plain("mta", "wrong")+`
		S: 535 5.7.8
		C: AUTH PLAIN `+plain("alice", "hers")+`
		S: 535 5.7.8
		C: MAIL FROM:<>
		S: 530 5.7.0
		C: AUTH NOSUCH
		S: 504 5.5.4
		C: AUTH
		S: 501
		C: AUTH PLAIN
		S: 334 
		C: *
		S: 501 5.7.0
		C: AUTH PLAIN !!!
		S: 501 5.5.2
		C: AUTH PLAIN
		S: 334 
		C: `+plain("mta", "secret")+`
		S: 235 2.7.0
		C: AUTH PLAIN
		S: 503
		C: MAIL FROM:<>
		S: 250`)
	if n := h.dir.asked(); n != 0 {
		t.Errorf("the map was asked %d times", n)
	}
	h, _, _ = two(t, func(c *hostConfig) { c.listen.Trusted, c.SoftNoAuth = false, true })
	m = h.session(t)
	m.say("MAIL FROM:<>", "451 4.7.0")
	m.say("AUTH PLAIN", "504")
}

// Behind a load balancer it is the client's own address that counts, for trust as in the trace.
func TestBehindAProxy(t *testing.T) {
	h, be1, _ := two(t, func(c *hostConfig) {
		c.listen.Trusted, c.TrustedNetworks = false, []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
		c.Proxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	})
	for from, want := range map[string]string{"192.0.2.7": "250", "198.51.100.7": "530 5.7.0"} {
		conn, err := net.Dial("tcp", h.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		m := &mta{t: t, conn: conn, in: bufio.NewReader(conn)}
		m.send("PROXY TCP4 " + from + " 192.0.2.1 1234 24\r\n")
		m.expect("220 ")
		m.say("LHLO mta.example", "250")
		m.say("MAIL FROM:<>", want)
		if want == "250" {
			m.say("RSET", "250")
			outcome(t, m.deliver(testMessage, "alice"), "250")
		}
	}
	if data := be1.delivered()[0].data; !strings.Contains(data, "from mta.example ([192.0.2.7])") {
		t.Errorf("got %q", data)
	}
	conn, err := net.Dial("tcp", h.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "LHLO without.a.header\r\n")
	if n, err := conn.Read(make([]byte, 10)); n != 0 || err == nil {
		t.Errorf("without a header: %d octets, %v", n, err)
	}
}

func TestTrustedNetworks(t *testing.T) {
	h, _, _ := two(t, func(c *hostConfig) {
		c.listen.Trusted, c.TrustedNetworks = false, []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	})
	outcome(t, h.session(t).deliver(testMessage, "alice"), "250")
}

func TestSTARTTLS(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	if err := tlsconf.WriteSelfSigned(cert, key, "fe1"); err != nil {
		t.Fatal(err)
	}
	certs, err := tlsconf.Load(tlsconf.Config{CertFile: cert, KeyFile: key})
	if err != nil {
		t.Fatal(err)
	}
	h, be1, _ := two(t, func(c *hostConfig) {
		c.TLS, c.listen.Trusted = certs.TLS(), false
		c.Auth, c.Admins = newAuth(t, false), []string{"mta"}
	})
	m := h.dial(t)
	m.send("LHLO x\r\n")
	if rep := m.reply(); !strings.Contains(rep, "250-STARTTLS\n") {
		t.Errorf("got %q", rep)
	}
	m.say("STARTTLS now", "501")
	m.send("STARTTLS\r\nMAIL FROM:<injected@x>\r\nNOOP\r\n")
	m.expect("220 2.0.0")
	conn := tls.Client(m.conn, &tls.Config{InsecureSkipVerify: true})
	m.conn, m.in = conn, bufio.NewReader(conn)
	m.say("MAIL FROM:<>", "530") // not "503 nested": the injected one is gone
	m.say("AUTH PLAIN", "503")   // LHLO is due again
	m.send("LHLO x\r\n")
	if rep := m.reply(); strings.Contains(rep, "STARTTLS") {
		t.Errorf("got %q", rep)
	}
	m.say("STARTTLS", "503")
	m.say("AUTH PLAIN "+plain("mta", "secret"), "235")
	outcome(t, m.deliver(testMessage, "alice"), "250")
	if data := be1.delivered()[0].data; !strings.Contains(data, " with LMTPSA id ") {
		t.Errorf("got %q", data)
	}
}

func TestUnixSocket(t *testing.T) {
	h, be1, _ := two(t, func(c *hostConfig) { c.listen.Trusted = false })
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "lmtp"))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- h.Serve(ln, ListenOptions{}) }()
	conn, err := net.Dial("unix", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	m := &mta{t: t, conn: conn, in: bufio.NewReader(conn)}
	m.expect("220")
	m.send("LHLO x\r\n")
	want := "250-fe1\n250-PIPELINING\n250-ENHANCEDSTATUSCODES\n250-8BITMIME\n250-SIZE\n250-IGNOREQUOTA\n250 Ok SESSIONID=<"
	if got := m.reply(); !strings.HasPrefix(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	m.say("STARTTLS", "454 4.7.0")
	outcome(t, m.deliver(testMessage, "alice"), "250")
	conn.Close()
	ln.Close()
	<-served
	if mails := be1.delivered(); len(mails) != 1 || !strings.Contains(mails[0].data, "from x (unix socket)") {
		t.Errorf("got %+v", mails)
	}
}

func TestDangerousListeners(t *testing.T) {
	h, _, _ := two(t, nil)
	if err := h.checkListener(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 25}, &ListenOptions{}); !errors.Is(err, ErrListener) {
		t.Errorf("port 25: %v", err)
	}
	ln, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Serve(ln, ListenOptions{Trusted: true}); !errors.Is(err, ErrListener) {
		t.Errorf("trusted on all addresses: %v", err)
	}
}

// foreign makes every client come from another host.
type foreign struct{ net.Listener }

type foreignConn struct{ net.Conn }

func (l foreign) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return foreignConn{conn}, nil
}

func (foreignConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 9), Port: 1234} }

// away serves another listener, whose clients come from another host, and connects to it.
func (h *host) away(t *testing.T) *mta {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- h.Serve(foreign{ln}, ListenOptions{}) }()
	t.Cleanup(func() { ln.Close(); <-served })
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	m := &mta{t: t, conn: conn, in: bufio.NewReader(conn)}
	m.expect("220 ")
	return m
}

// Over a network a password needs TLS, and is not even asked for without.
func TestAuthNeedsTLS(t *testing.T) {
	h, _, _ := two(t, func(c *hostConfig) { c.Auth, c.Admins = newAuth(t, false), []string{"mta"} })
	m := h.away(t)
	m.send("LHLO x\r\n")
	if rep := m.reply(); strings.Contains(rep, "PLAIN") {
		t.Errorf("got %q", rep)
	}
	m.say("AUTH PLAIN "+plain("mta", "secret"), "538 5.7.11")
	m.say("MAIL FROM:<>", "530 5.7.0")
	h, _, _ = two(t, func(c *hostConfig) { c.Auth, c.Admins = newAuth(t, true), []string{"mta"} })
	m = h.away(t)
	m.say("LHLO x", "250")
	m.say("AUTH PLAIN "+plain("mta", "secret"), "235 2.7.0")
	m.say("MAIL FROM:<>", "250")
}

// unavailable is a store of accounts that does not answer.
type unavailable struct{}

func (unavailable) Verify(context.Context, string, string, auth.Conn) (auth.Account, error) {
	return auth.Account{}, auth.ErrUnavailable
}

// Nobody is refused for good because accounts cannot be looked up.
func TestAuthUnavailable(t *testing.T) {
	h, _, _ := two(t, func(c *hostConfig) {
		c.listen.Trusted, c.Auth = false, auth.NewMechanisms(auth.Config{Source: unavailable{}, Pause: -1})
	})
	m := h.session(t)
	m.say("AUTH PLAIN "+plain("mta", "secret"), "454 4.7.0")
	m.say("MAIL FROM:<>", "530 5.7.0")
}
