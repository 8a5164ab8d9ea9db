// Package logintest holds what the tests of login and of its protocols share: a map, scripted
// backends, and a client that talks line by line.
package logintest

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"murder/internal/auth"
	"murder/internal/backend"
	"murder/internal/mbox"
	"murder/internal/tlsconf"
	"murder/proxy/login"
)

// Map is a mailbox map that can lag behind and lose its leader.
type Map struct {
	mu       sync.Mutex
	entries  map[mbox.Name]mbox.Entry
	next     map[mbox.Name]mbox.Entry // visible after a barrier
	down     bool
	unsynced bool
	barriers int
}

// Set makes a record visible at once.
func (m *Map) Set(name mbox.Name, server mbox.Server, state mbox.State) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.entries == nil {
		m.entries, m.next = make(map[mbox.Name]mbox.Entry), make(map[mbox.Name]mbox.Entry)
	}
	m.entries[name] = mbox.Entry{Name: name, Location: mbox.At(server, "default"), State: state}
}

// SetLater makes a record visible after the next barrier.
func (m *Map) SetLater(name mbox.Name, server mbox.Server, state mbox.State) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.next[name] = mbox.Entry{Name: name, Location: mbox.At(server, "default"), State: state}
}

// Break makes barriers fail and the copy incomplete, or repairs both.
func (m *Map) Break(down, unsynced bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.down, m.unsynced = down, unsynced
}

// Barriers returns the number of barriers so far.
func (m *Map) Barriers() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.barriers
}

func (m *Map) Synced() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.unsynced
}

func (m *Map) Barrier(context.Context) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.barriers++
	if m.down {
		return 0, mbox.ErrUnavailable
	}
	for name, e := range m.next {
		m.entries[name] = e
	}
	return 0, nil
}

func (m *Map) View() mbox.View { return view{m} }

type view struct{ m *Map }

func (view) Index() uint64 { return 0 }
func (v view) Len() int    { v.m.mu.Lock(); defer v.m.mu.Unlock(); return len(v.m.entries) }
func (v view) Get(name mbox.Name) (mbox.Entry, bool) {
	v.m.mu.Lock()
	defer v.m.mu.Unlock()
	e, ok := v.m.entries[name]
	return e, ok
}
func (view) Ascend(mbox.Name, func(mbox.Entry) bool) {}

// Peer is one end of a conversation.
type Peer struct {
	t *testing.T
	net.Conn
	R *bufio.Reader
}

// NewPeer wraps a connection; everything on it must happen within 10 s.
func NewPeer(t *testing.T, conn net.Conn) *Peer {
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	return &Peer{t, conn, bufio.NewReader(conn)}
}

// Send writes text.
func (p *Peer) Send(text string) { io.WriteString(p, text) }

// Line reads a line without its CRLF; "<EOF>" at the end.
func (p *Peer) Line() string {
	line, err := p.R.ReadString('\n')
	if err != nil {
		if line != "" {
			return line + "<EOF>"
		}
		return "<EOF>"
	}
	return strings.TrimSuffix(line, "\r\n")
}

// Want reads lines and compares each with a prefix, or with the whole if that ends in "$".
func (p *Peer) Want(prefixes ...string) {
	p.t.Helper()
	for _, want := range prefixes {
		got := p.Line()
		whole, exact := strings.CutSuffix(want, "$")
		if exact && got != whole || !strings.HasPrefix(got, whole) {
			p.t.Errorf("got %q, want %q", got, want)
		}
	}
}

// Ask sends a line and compares the answer.
func (p *Peer) Ask(line string, prefixes ...string) {
	p.t.Helper()
	p.Send(line + "\r\n")
	p.Want(prefixes...)
}

// Until reads lines up to one that begins with prefix and returns all.
func (p *Peer) Until(prefix string) []string {
	var lines []string
	for {
		line := p.Line()
		lines = append(lines, line)
		if strings.HasPrefix(line, prefix) || strings.HasSuffix(line, "<EOF>") {
			return lines
		}
	}
}

// StartTLS makes a client's connection secure.
func (p *Peer) StartTLS() {
	p.Conn = tls.Client(p.Conn, &tls.Config{InsecureSkipVerify: true})
	p.R.Reset(p.Conn)
}

// Backend serves a script on a port of its own until the test ends.
func Backend(t *testing.T, script func(*Peer)) (port int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				defer conn.Close()
				script(NewPeer(t, conn))
			})
		}
	})
	t.Cleanup(func() { l.Close(); work.Wait() })
	return l.Addr().(*net.TCPAddr).Port
}

// ClosedPort returns a port that nobody listens on.
func ClosedPort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// TLS returns a configuration with a self-signed certificate.
func TLS(t *testing.T) *tls.Config {
	t.Helper()
	certPEM, keyPEM, err := tlsconf.SelfSigned("localhost")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}}
}

// Config returns a configuration with the users alice and carol (password secret) and the
// administrator cyrus (labpass), and the backends given by their ports. Refusals do not pause.
func Config(t *testing.T, svc backend.Service, m *Map, ports map[mbox.Server]int) login.Config {
	t.Helper()
	users, err := auth.ReadUsers(strings.NewReader("alice:{PLAIN}secret\ncarol:{PLAIN}secret\ncyrus:{PLAIN}labpass:@admin\n"), "users")
	if err != nil {
		t.Fatal(err)
	}
	servers := make(map[mbox.Server]backend.Settings)
	for name, port := range ports {
		servers[name] = backend.Settings{
			Host: "127.0.0.1", Ports: map[backend.Service]int{svc: port}, TLS: backend.NoTLS,
			Authname: "murder", Password: "labpass", Public: fmt.Sprintf("%s.example.org", name),
		}
	}
	return login.Config{
		Hostname: "f1", Version: "1",
		Directory: m,
		Backends:  backend.New(backend.Config{Servers: servers}),
		Auth:      auth.NewMechanisms(auth.Config{Source: users, Pause: -1, Mechs: []string{"PLAIN", "SCRAM-SHA-256"}}),
		TLS:       TLS(t),
	}
}

// Server is what both protocols' servers have.
type Server interface {
	Serve(net.Listener, *tls.Config) error
	Shutdown(context.Context) error
}

// Start serves on a port of its own until the test ends and returns a function that connects.
func Start(t *testing.T, s Server, implicit *tls.Config) (dial func() *Peer) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l, implicit) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		s.Shutdown(ctx)
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return func() *Peer {
		t.Helper()
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return NewPeer(t, conn)
	}
}
