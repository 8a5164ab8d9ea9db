package imap

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-sasl"

	"murder/internal/backend"
	"murder/internal/imapwire"
	"murder/internal/mbox"
)

// proxyTTL is through how many proxies a session may go; "x-proxy-ttl" in ID counts them down.
const proxyTTL = 5

var (
	errLoop   = no("CANNOT", "Too many proxies one after the other")
	errAuthz  = no("AUTHORIZATIONFAILED", "The server of this mailbox does not let you in")
	errEnable = no("CANNOT", "The server of this mailbox lacks an extension that you have enabled")
	// errCredentials is an operator's matter; the user only hears that the server is not available.
	errCredentials = fmt.Errorf("our own identity is refused: %w", backend.ErrDown)
	errProtocol    = fmt.Errorf("no IMAP server as expected: %w", backend.ErrDown)
)

// signOnPause is how long a backend that has refused our own identity is left alone, so that a wrong
// password does not become a storm of attempts.
const signOnPause = 5 * time.Second

// signOnPauses remembers refusals of our own identity.
type signOnPauses struct {
	mu    sync.Mutex
	until map[mbox.Server]time.Time
}

func (p *signOnPauses) active(server mbox.Server) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Now().Before(p.until[server])
}

func (p *signOnPauses) begin(server mbox.Server) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.until == nil {
		p.until = make(map[mbox.Server]time.Time)
	}
	p.until[server] = time.Now().Add(signOnPause)
}

// signOn is the dialogue from greeting to login on one new connection. Where the server has been heard
// lately, it is told who we are before it greets, which saves a round trip.
//
// Cyrus forgets what is pipelined behind AUTHENTICATE (3.6.1): nothing may be.
type signOn struct {
	texts  *capTexts
	server mbox.Server
	nc     *backend.Conn
	in     *reader
	out    io.Writer
	caps   capSet
	prefix string
	seq    int
	unhook func() bool // of a connection opened by aside
}

// connect opens and authenticates a connection as authz; "" stands for our own identity.
func (srv *Server) connect(ctx context.Context, server mbox.Server, authz string) (*signOn, error) {
	if srv.pause.active(server) {
		return nil, errCredentials
	}
	known := srv.caps.greeted(server)
	so, err := srv.signOn(ctx, server, authz, known)
	late := errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
	if err != nil && known != nil && so != nil && ctx.Err() == nil && !late {
		// It may be another server by now. In good order it says what is wrong.
		srv.caps.greet(server, nil)
		so, err = srv.signOn(ctx, server, authz, nil)
	}
	outcome := "ok"
	switch {
	case err == nil:
	case so == nil:
		outcome = "unreachable"
	case errors.Is(err, errCredentials):
		outcome = "credentials"
		srv.pause.begin(server)
		srv.cfg.Backends.LoginFailed(server, backend.IMAP, err)
	default:
		outcome = "failed"
	}
	srv.metrics.backends.WithLabelValues(string(server), outcome).Inc()
	return so, err
}

// signOn is one attempt. With an error it returns the dialogue as far as it went, nil if nobody was reached.
func (srv *Server) signOn(ctx context.Context, server mbox.Server, authz string, known capSet) (*signOn, error) {
	nc, err := srv.cfg.Backends.Dial(ctx, server, backend.IMAP)
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", server, err)
	}
	ctx, cancel := context.WithTimeout(ctx, srv.cfg.Limits.BackendLogin)
	defer cancel()
	so, unhook := newSignOn(ctx, server, nc, &srv.caps.texts)
	defer unhook()
	before, err := so.run(ctx, srv.cfg.Backends, authz, known)
	if err != nil {
		nc.Close()
		return so, fmt.Errorf("signing on to %s: %w", server, err)
	}
	srv.caps.greet(server, before)
	unhook()
	nc.SetDeadline(time.Time{})
	return so, nil
}

// newSignOn begins on a new connection; until unhook is called, which may be done once, it ends with ctx.
func newSignOn(ctx context.Context, server mbox.Server, nc *backend.Conn, texts *capTexts) (so *signOn, unhook func() bool) {
	deadline, _ := ctx.Deadline()
	nc.SetDeadline(deadline)
	unhook = context.AfterFunc(ctx, func() { nc.SetDeadline(time.Unix(1, 0)) })
	so = &signOn{texts: texts, server: server, nc: nc, in: newReader(nc), out: nc, prefix: "." + rand.Text()[:6] + "-"}
	if tcp, ok := nc.Conn.(*net.TCPConn); ok {
		so.out = newSocket(tcp)
	}
	return so, unhook
}

// run signs on, and returns what the server offered before. What it offered last time may be known.
func (so *signOn) run(ctx context.Context, backends Backends, authz string, known capSet) (before capSet, err error) {
	var x *exchangeSASL
	if known.has("SASL-IR") && !so.nc.NeedStartTLS() {
		so.caps = known
		if x, err = so.propose(backends, authz); err != nil {
			return nil, err
		}
	}
	if err := so.greet(ctx, known); err != nil {
		return nil, err
	}
	if x == nil {
		if x, err = so.propose(backends, authz); err != nil {
			return nil, err
		}
	}
	before = so.caps
	st, code, text, err := so.conclude(x)
	if err == nil {
		err = admitted(st, code, text)
	}
	if err != nil {
		return nil, err
	}
	return before, so.capsFrom(code)
}

// greet reads the greeting and secures the connection as the policy says.
func (so *signOn) greet(ctx context.Context, known capSet) error {
	greeting, err := so.in.appendLine(nil, maxTagged)
	if err != nil {
		return fmt.Errorf("%w: reading the greeting: %w", errProtocol, err)
	}
	if so.in.raw = rawConn(so.nc.Conn); so.in.raw != nil { // the breaker has seen the first octet
		so.in.first = nil
	}
	// PREAUTH would mean that we act as somebody we did not choose.
	st, code, _ := condition(greeting)
	if !strings.HasPrefix(string(greeting), "* ") || st != statusOK {
		return fmt.Errorf("%w: greeting %.80q", errProtocol, greeting)
	}
	if codeName(code) == "CAPABILITY" || known == nil {
		if err := so.capsFrom(code); err != nil {
			return err
		}
	}
	if !so.nc.NeedStartTLS() {
		return nil
	}
	if known == nil && !so.caps.has("STARTTLS") {
		return fmt.Errorf("%w: STARTTLS is not offered", backend.ErrTLS)
	}
	if _, err := so.ask("STARTTLS"); err != nil {
		return err
	}
	so.in.release()
	if err := so.nc.StartTLS(ctx); err != nil {
		return err
	}
	so.in, so.out = newReader(so.nc), so.nc
	if known != nil {
		so.caps = known
		return nil
	}
	return so.capsFrom("")
}

// capsFrom takes the capabilities of a response code, or asks.
func (so *signOn) capsFrom(code string) error {
	if codeName(code) == "CAPABILITY" {
		so.caps = so.texts.parse(code[len("CAPABILITY"):])
		return nil
	}
	untagged, err := so.ask("CAPABILITY")
	if err != nil {
		return err
	}
	for _, line := range untagged {
		if rest, ok := strings.CutPrefix(strings.ToUpper(line), "* CAPABILITY "); ok {
			so.caps = so.texts.parse(rest)
		}
	}
	return nil
}

// exchangeSASL is a SASL exchange that has been begun.
type exchangeSASL struct {
	client sasl.Client
	tag    string
	ir     []byte // not sent yet
}

// propose begins to sign on by our own identity, to act as authz.
func (so *signOn) propose(backends Backends, authz string) (*exchangeSASL, error) {
	var offered []string
	for name := range so.caps {
		if mech, ok := strings.CutPrefix(name, "AUTH="); ok {
			offered = append(offered, mech)
		}
	}
	mech, client, err := backends.SASL(so.server, offered, authz, so.nc.Secured())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errCredentials, err)
	}
	return so.beginSASL(mech, client)
}

func (so *signOn) beginSASL(mech string, client sasl.Client) (*exchangeSASL, error) {
	_, ir, err := client.Start()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errCredentials, err)
	}
	x := &exchangeSASL{client: client, ir: ir}
	cmd := "AUTHENTICATE " + mech
	if ir != nil && so.caps.has("SASL-IR") {
		cmd += " " + encodeIR(ir)
		x.ir = nil
	}
	x.tag, err = so.send(cmd)
	return x, err
}

// admitted is what a backend's answer to our sign-on means.
func admitted(st status, code, text string) error {
	switch {
	case st == statusOK:
		return nil
	case codeName(code) == "UNAVAILABLE":
		return fmt.Errorf("%w: %s", backend.ErrDown, text)
	case codeName(code) == "AUTHORIZATIONFAILED", strings.Contains(strings.ToLower(text), "authoriz"):
		// Cyrus: "authorization failure" without a code is about the user, not about us.
		return errAuthz
	}
	return fmt.Errorf("%w: %.200s", errCredentials, text)
}

// conclude runs an exchange to its end and returns the server's word about it.
func (so *signOn) conclude(x *exchangeSASL) (st status, code, text string, err error) {
	for {
		line, err := so.in.takeResponse(maxTaken)
		if err != nil {
			return 0, "", "", fmt.Errorf("%w: %w", errProtocol, err)
		}
		if rest, ok := strings.CutPrefix(string(line), "+"); ok {
			answer, err := so.respond(x.client.Next, strings.TrimSpace(rest), &x.ir)
			if err != nil {
				return 0, "", "", err
			}
			if _, err := io.WriteString(so.out, answer+"\r\n"); err != nil {
				return 0, "", "", fmt.Errorf("%w: %w", errProtocol, err)
			}
			continue
		}
		if strings.HasPrefix(string(line), x.tag+" ") {
			st, code, text = condition(line)
			return st, code, text, nil
		}
	}
}

func (so *signOn) respond(next func([]byte) ([]byte, error), challenge string, ir *[]byte) (string, error) {
	if *ir != nil {
		answer := base64.StdEncoding.EncodeToString(*ir)
		*ir = nil
		return answer, nil
	}
	raw, err := base64.StdEncoding.DecodeString(challenge)
	if err != nil {
		return "", fmt.Errorf("%w: challenge is not base64", errProtocol)
	}
	answer, err := next(raw)
	if err != nil {
		return "", fmt.Errorf("%w: %w", errCredentials, err)
	}
	return base64.StdEncoding.EncodeToString(answer), nil
}

func encodeIR(ir []byte) string {
	if len(ir) == 0 {
		return "="
	}
	return base64.StdEncoding.EncodeToString(ir)
}

func (so *signOn) send(cmd string) (tag string, err error) {
	so.seq++
	tag = so.prefix + strconv.Itoa(so.seq)
	if _, err := io.WriteString(so.out, tag+" "+cmd+"\r\n"); err != nil {
		return "", fmt.Errorf("%w: %w", errProtocol, err)
	}
	return tag, nil
}

// ask sends a command and returns the untagged lines of its answer, literals and all, which must be OK.
func (so *signOn) ask(cmd string) (untagged []string, err error) {
	tag, err := so.send(cmd)
	if err != nil {
		return nil, err
	}
	for left := maxTaken; len(untagged) < 1000; {
		line, err := so.in.takeResponse(left)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errProtocol, err)
		}
		if left -= len(line); !strings.HasPrefix(string(line), tag+" ") {
			untagged = append(untagged, string(bytes.TrimRight(line, "\r\n")))
			continue
		}
		if st, code, text := condition(line); st != statusOK {
			return untagged, &refusedError{st, code, text}
		}
		return untagged, nil
	}
	return nil, fmt.Errorf("%w: endless answer", errProtocol)
}

// refusedError is a NO or BAD to a command of ours. While signing on it means that the server cannot be used.
type refusedError struct {
	status     status
	code, text string
}

func (e *refusedError) Error() string { return fmt.Sprintf("refused: %.200s", e.text) }

func (e *refusedError) Unwrap() error { return errProtocol }

// open gives the session a connection to server: signed on as the user, with everything enabled
// there that the user has enabled, and with the user's origin in the server's log.
func (s *session) open(server mbox.Server) (*conn, error) {
	so, err := s.srv.connect(s.ctx, server, string(s.user))
	if err != nil {
		return nil, err
	}
	s.srv.caps.learn(server, so.caps)
	so.nc.SetDeadline(time.Now().Add(s.cfg.Limits.BackendLogin))
	hello, err := s.introduction(so.caps)
	if err == nil {
		err = so.enable(s.enabled)
	}
	if err == nil {
		err = s.checkNamespace(so)
	}
	if err != nil {
		so.nc.Close()
		return nil, err
	}
	so.nc.SetDeadline(time.Time{})
	c := s.newConn(so)
	c.hello = hello
	return c, nil
}

// introduction is the command that tells a backend where the client comes from, "" for none.
func (s *session) introduction(caps capSet) (string, error) {
	if s.cfg.HideOrigin || !caps.has("ID") {
		return "", nil
	}
	ttl := proxyTTL
	pairs := [][2]string{
		{"x-originating-ip", s.peer.Addr().String()},
		{"x-originating-port", strconv.Itoa(int(s.peer.Port()))},
		{"x-session-id", s.id},
	}
	for _, p := range s.id0 {
		switch name := strings.ToLower(p[0]); {
		case name == "x-proxy-ttl":
			ttl, _ = strconv.Atoi(p[1])
		case name == "x-session-id", strings.HasPrefix(name, "x-originating-"): // ours to say
		default:
			pairs = append(pairs, p)
		}
	}
	if ttl <= 1 {
		return "", errLoop
	}
	pairs = slices.Insert(pairs, 3, [2]string{"x-proxy-ttl", strconv.Itoa(ttl - 1)})
	var list []string
	for _, p := range pairs[:min(len(pairs), 30)] { // RFC 2971 section 3.3
		if imapwire.Quotable(p[0]) && imapwire.Quotable(p[1]) {
			list = append(list, quote(p[0])+" "+quote(p[1]))
		}
	}
	return "ID (" + strings.Join(list, " ") + ")", nil
}

// enable asks for extensions; lacking one of them here would corrupt what the client believes.
func (so *signOn) enable(names []string) error {
	if len(names) == 0 {
		return nil
	}
	untagged, err := so.ask("ENABLE " + strings.Join(names, " "))
	if err != nil {
		return err
	}
	got := make(capSet)
	for _, line := range untagged {
		if rest, ok := strings.CutPrefix(strings.ToUpper(line), "* ENABLED"); ok {
			got = parseCaps(rest)
		}
	}
	return enabledAll(names, got)
}

func enabledAll(names []string, got capSet) error {
	for _, name := range names {
		// Many commands turn CONDSTORE on by themselves, and then a server need not report it.
		if !got.has(name) && name != "CONDSTORE" {
			return errEnable
		}
	}
	return nil
}

// quote writes s as a quoted string; s holds nothing that needs more than escapes.
func quote(s string) string {
	if !strings.ContainsAny(s, `"\`) {
		return `"` + s + `"`
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// probe keeps the capability table fresh by short visits to every backend under our own identity.
func (srv *Server) probe(ctx context.Context) {
	for {
		list := srv.servers()
		srv.caps.keep(list)
		for _, server := range list {
			so, err := srv.connect(ctx, server, "")
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				srv.cfg.Logger.Debug("backend not probed", "backend", server, "err", err)
				continue
			}
			srv.caps.learn(server, so.caps)
			so.nc.SetDeadline(time.Now().Add(time.Second))
			if srv.cfg.Placement.space() {
				srv.place.look(so)
			}
			so.ask("LOGOUT")
			so.nc.Close()
		}
		select {
		case <-time.After(srv.cfg.ProbeInterval):
		case <-ctx.Done():
			return
		}
	}
}

// servers returns every backend that is configured or holds mailboxes.
func (srv *Server) servers() []mbox.Server {
	list := srv.cfg.Backends.Servers()
	for server := range srv.follow.population() {
		if !slices.Contains(list, server) {
			list = append(list, server)
		}
	}
	return list
}
