package lmtp

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
	"sync"
	"testing"

	"murder/internal/backend"
	"murder/internal/mbox"
)

// stub is an LMTP backend that keeps what it gets. A script may answer in its place.
type stub struct {
	t    testing.TB
	name mbox.Server
	ln   net.Listener
	work sync.WaitGroup

	tls *tls.Config // for STARTTLS

	mu   sync.Mutex
	lhlo []string // capabilities
	// script may answer a command: verb is in capitals, "" on connect, "." after the final dot and
	// "BODY" between 354 and the message. It returns what to write; ok is false for the usual.
	// The special answers hangUp and silence end the connection or wait for its end.
	script func(s *stubSession, verb, line string) (answer string, ok bool)

	conns  map[net.Conn]struct{}
	open   int
	most   int // connections at a time
	total  int
	log    []string // commands of all sessions
	mails  []stubMail
	closed bool
}

type stubMail struct {
	from  string // with parameters
	rcpts []string
	data  string // unstuffed
}

type stubSession struct {
	*stub
	conn   net.Conn
	number int // of the connection, from 1
	in     *bufio.Reader
	signed bool
	mail   *stubMail

	accepted int // recipients
}

const (
	hangUp  = "\x00hang up"
	silence = "\x00silence"
)

var stubLHLO = []string{"stub", "8BITMIME", "ENHANCEDSTATUSCODES", "PIPELINING", "SIZE", "AUTH PLAIN", "IGNOREQUOTA", "Ok SESSIONID=<stub>"}

func newStub(t testing.TB, name mbox.Server) *stub {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &stub{t: t, name: name, ln: ln, lhlo: stubLHLO, conns: make(map[net.Conn]struct{})}
	s.work.Go(s.accept)
	t.Cleanup(s.stop)
	return s
}

func (s *stub) accept() {
	for {
		conn, err := s.ln.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			conn.Close()
			return
		}
		s.open++
		s.total++
		s.most = max(s.most, s.open)
		s.conns[conn] = struct{}{}
		ss := &stubSession{stub: s, conn: conn, number: s.total, in: bufio.NewReader(conn)}
		s.mu.Unlock()
		s.work.Go(func() {
			ss.serve()
			conn.Close()
			s.mu.Lock()
			s.open--
			delete(s.conns, conn)
			s.mu.Unlock()
		})
	}
}

func (s *stub) stop() {
	s.ln.Close()
	s.mu.Lock()
	s.closed = true
	for conn := range s.conns {
		conn.Close()
	}
	s.mu.Unlock()
	s.work.Wait()
}

// on sets the script.
func (s *stub) on(script func(s *stubSession, verb, line string) (string, bool)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.script = script
}

// offer sets the capabilities.
func (s *stub) offer(lhlo ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lhlo = lhlo
}

func (s *stub) delivered() []stubMail {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]stubMail(nil), s.mails...)
}

// forget drops what has been delivered and said so far.
func (s *stub) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mails, s.log = nil, nil
}

func (s *stub) commands() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.log...)
}

func (s *stub) numbers() (total, most int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total, s.most
}

// answer writes what the script or the default says; an error ends the session.
func (ss *stubSession) answer(verb, line, usual string) (scripted bool, err error) {
	ss.mu.Lock()
	script := ss.script
	ss.mu.Unlock()
	if script != nil {
		if text, ok := script(ss, verb, line); ok {
			usual, scripted = text, true
		}
	}
	switch usual {
	case hangUp:
		return true, io.EOF
	case silence:
		io.Copy(io.Discard, ss.in)
		return true, io.EOF
	}
	if usual != "" {
		_, err = io.WriteString(ss.conn, strings.ReplaceAll(usual, "\n", "\r\n")+"\r\n")
	}
	return scripted, err
}

func (ss *stubSession) serve() {
	if _, err := ss.answer("", "", "220 stub ready"); err != nil {
		return
	}
	for {
		line, err := ss.in.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimRight(line, "\r\n")
		ss.mu.Lock()
		ss.log = append(ss.log, line)
		ss.mu.Unlock()
		verb, args := splitCommand(line)
		if err := ss.command(verb, args, line); err != nil {
			return
		}
	}
}

func (ss *stubSession) command(verb, args, line string) error {
	usual := "250 2.0.0 ok"
	switch verb {
	case "LHLO":
		ss.mu.Lock()
		usual = strings.TrimRight(string(reply{250, ss.lhlo}.appendTo(nil)), "\r\n")
		ss.mu.Unlock()
		usual = strings.ReplaceAll(usual, "\r\n", "\n")
	case "AUTH":
		_, initial, _ := strings.Cut(args, " ")
		plain, _ := base64.StdEncoding.DecodeString(initial)
		if ss.signed = string(plain) == "\x00murder\x00labpass"; ss.signed {
			usual = "235 Authenticated!"
		} else {
			usual = "501 5.5.4 authentication failure"
		}
	case "MAIL":
		switch {
		case !ss.signed:
			usual = "430 Authentication required"
		case ss.mail != nil:
			usual = "503 5.5.1 Nested MAIL command"
		}
	case "STARTTLS":
		usual = "220 go ahead"
	case "DATA":
		// Cyrus: one accepted RCPT is enough, also after a refused MAIL.
		if usual = "354 go ahead"; ss.accepted == 0 {
			usual = "503 5.5.1 No recipients"
		}
	case "QUIT":
		usual = "221 2.0.0 bye"
	}
	scripted, err := ss.answer(verb, line, usual)
	if err != nil {
		return err
	}
	if verb == "RCPT" && !scripted {
		ss.accepted++
	}
	switch {
	case verb == "QUIT":
		return io.EOF
	case verb == "STARTTLS" && !scripted:
		conn := tls.Server(ss.conn, ss.tls)
		if err := conn.Handshake(); err != nil {
			return err
		}
		ss.conn, ss.in = conn, bufio.NewReader(conn)
	case verb == "RSET", verb == "LHLO":
		ss.mail, ss.accepted = nil, 0
	case verb == "MAIL" && !scripted && ss.signed && ss.mail == nil:
		ss.mail = &stubMail{from: args}
	case verb == "RCPT" && !scripted && ss.mail != nil:
		ss.mail.rcpts = append(ss.mail.rcpts, args)
	case verb == "DATA" && !scripted && ss.accepted > 0:
		return ss.data()
	}
	return nil
}

func (ss *stubSession) data() error {
	if scripted, err := ss.answer("BODY", "", ""); scripted || err != nil {
		return err
	}
	var b strings.Builder
	for {
		line, err := ss.in.ReadString('\n')
		if err != nil {
			return err
		}
		if line == ".\r\n" {
			break
		}
		b.WriteString(strings.TrimPrefix(line, "."))
	}
	ss.mail.data = b.String()
	mail := *ss.mail
	ss.mail, ss.accepted = nil, 0
	ss.mu.Lock()
	ss.mails = append(ss.mails, mail)
	ss.mu.Unlock()
	var replies []string
	for range mail.rcpts {
		replies = append(replies, fmt.Sprintf("250 2.1.5 Ok SESSIONID=<%s>", ss.name))
	}
	_, err := ss.answer(".", "", strings.Join(replies, "\n"))
	return err
}

// settingsOf makes the backend settings for stubs.
func settingsOf(stubs ...*stub) map[mbox.Server]backend.Settings {
	servers := make(map[mbox.Server]backend.Settings)
	for _, s := range stubs {
		addr := s.ln.Addr().(*net.TCPAddr)
		servers[s.name] = backend.Settings{
			Host: "127.0.0.1", Ports: map[backend.Service]int{backend.LMTP: addr.Port}, TLS: backend.NoTLS,
			Authname: "murder", Password: "labpass",
		}
	}
	return servers
}

// host is a server under test with a directory and stubs behind it.
type host struct {
	*Server
	t    testing.TB
	dir  *directory
	set  *backend.Set
	addr string
}

type hostConfig struct {
	Config
	mapping Mapping
	listen  ListenOptions
	self    []mbox.Server
	unknown mbox.Server
}

// newHost serves a trusted listener.
func newHost(t testing.TB, dir *directory, stubs []*stub, adjust func(*hostConfig)) *host {
	t.Helper()
	c := hostConfig{listen: ListenOptions{Trusted: true}, mapping: Mapping{PostUser: "bb", Namespace: mbox.Namespace{Dot: true}}}
	c.Hostname = "fe1"
	c.SpoolDir = t.TempDir()
	c.Limits.SpoolFloor = -1
	set := backend.New(backend.Config{Default: backend.Settings{TLS: backend.NoTLS}, Servers: settingsOf(stubs...)})
	c.Backends = set
	if adjust != nil {
		adjust(&c)
	}
	resolver, err := NewResolver(ResolverConfig{Directory: dir, Mapping: c.mapping, Self: c.self, UnknownUsers: c.unknown})
	if err != nil {
		t.Fatal(err)
	}
	c.Resolver = resolver
	srv, err := New(c.Config)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln, c.listen) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := srv.Shutdown(ctx); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return &host{Server: srv, t: t, dir: dir, set: set, addr: ln.Addr().String()}
}

// mta is a client of the server under test.
type mta struct {
	t    testing.TB
	conn net.Conn
	in   *bufio.Reader
}

func (h *host) dial(t testing.TB) *mta {
	t.Helper()
	conn, err := net.Dial("tcp", h.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	m := &mta{t: t, conn: conn, in: bufio.NewReader(conn)}
	m.expect("220 ")
	return m
}

// session is dial and LHLO.
func (h *host) session(t testing.TB) *mta {
	t.Helper()
	m := h.dial(t)
	m.say("LHLO mta.example", "250 Ok SESSIONID=")
	return m
}

func (m *mta) send(text string) {
	m.t.Helper()
	if _, err := io.WriteString(m.conn, text); err != nil {
		m.t.Fatal(err)
	}
}

// reply reads one reply and returns its lines joined by LF.
func (m *mta) reply() string {
	m.t.Helper()
	var lines []string
	for {
		line, err := m.in.ReadString('\n')
		if err != nil {
			m.t.Fatalf("reading a reply: %v (so far %q)", err, lines)
		}
		line = strings.TrimRight(line, "\r\n")
		lines = append(lines, line)
		if len(line) < 4 || line[3] != '-' {
			return strings.Join(lines, "\n")
		}
	}
}

// expect reads one reply for each prefix and compares the last lines.
func (m *mta) expect(prefixes ...string) {
	m.t.Helper()
	for _, want := range prefixes {
		got := m.reply()
		last := got[strings.LastIndexByte(got, '\n')+1:]
		if !strings.HasPrefix(last, want) {
			m.t.Fatalf("got %q, want %q", got, want)
		}
	}
}

// say sends a command and expects the reply.
func (m *mta) say(command, want string) {
	m.t.Helper()
	m.send(command + "\r\n")
	m.expect(want)
}

const testMessage = "Message-ID: <m@x>\r\nSubject: hi\r\n\r\nbody\r\n"

// deliver sends a message to recipients who are all accepted, and returns the replies to it.
func (m *mta) deliver(message string, rcpts ...string) []string {
	m.t.Helper()
	m.say("MAIL FROM:<s@example.org>", "250")
	for _, rcpt := range rcpts {
		m.say("RCPT TO:<"+rcpt+">", "250 2.1.5")
	}
	m.say("DATA", "354")
	m.send(message + ".\r\n")
	replies := make([]string, len(rcpts))
	for i := range replies {
		replies[i] = m.reply()
	}
	return replies
}

// outcome compares replies by prefix.
func outcome(t *testing.T, got []string, want ...string) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("got %d replies %q, want %d", len(got), got, len(want))
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("reply %d: got %q, want %q", i, got[i], want[i])
		}
	}
}

// two is the usual fixture: alice and u1 on be1, carol and bob on be2.
func two(t *testing.T, adjust func(*hostConfig)) (h *host, be1, be2 *stub) {
	t.Helper()
	be1, be2 = newStub(t, "be1"), newStub(t, "be2")
	dir := newDirectory(
		active("user.alice", "be1"), active("user.alice.Work", "be1"), active("user.u1", "be1"),
		active("user.bob", "be2"), active("user.carol", "be2"),
		shared("shared.ann", "be1", "anyone\tlrsp\t"), shared("shared.ro", "be1", "anyone\tlr\t"),
		shared("shared.private", "be1", "alice\tlrp\t"), shared("shared.hidden", "be1", "bob\tlrp\t"),
	)
	return newHost(t, dir, []*stub{be1, be2}, adjust), be1, be2
}
