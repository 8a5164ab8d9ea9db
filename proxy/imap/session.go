package imap

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"murder/internal/auth"
	"murder/internal/imapwire"
	"murder/internal/mbox"
)

// phase is a bit of the states in which a verb is allowed (RFC 9051 section 3).
type phase uint8

const (
	fresh    phase = 1 << iota // not authenticated
	authed                     // authenticated, nothing selected
	selected                   // a mailbox is selected
	anyPhase = fresh | authed | selected
	loggedIn = authed | selected
)

// session is one client. One goroutine at a time, the driver, reads and executes its commands; everything not
// said to be shared belongs to the driver. While it is parked there is none (see park). Pumps (see conn) write answers to the client, too.
type session struct {
	srv *Server
	cfg *Config
	id  string
	ctx context.Context // of the driver: ends with the session, or when it is parked

	sock        net.Conn // the client's socket
	conn        net.Conn // sock, or TLS over it; by mu
	clear       net.Conn // takes the read deadline: sock, or where decompressed text comes from; by mu
	peer, local netip.AddrPort
	in          *reader
	out         sharedWriter
	buf         []byte    // of the current line
	part        int       // octets of buf that belong to a line not complete yet
	deadline    time.Time // of clear, for the pause before a command; zero while another one holds (see allow)
	idleFrom    time.Time // since when a command has been waited for; zero while one is executed
	idling      *idling   // while IDLE is executed
	restUntil   time.Time // not zero: may be parked until then

	since time.Time // when the client came
	// How long, and for how many octets, the session was not that of the present user.
	before      time.Duration
	inAt, outAt int64

	phase    phase
	admin    bool
	deflated bool
	unsynced bool // the map may lack an operation of this session
	first    bool // nothing has been read yet
	restless bool // cannot be parked
	woken    bool // has just been parked, and so has written nothing
	groups   []string
	groupsAt time.Time // when they were last asked for
	view     mbox.Viewer
	promised offer // what the client was told at login
	enabled  []string
	id0      [][2]string // the client's own ID parameters
	conns    []*conn     // at most one for each server; also read by others, by mu, and never changed in place
	selName  mbox.Name
	special  specialUse
	bad      int // wrong commands in a row

	pumps sync.WaitGroup

	mu sync.Mutex // shared from here

	// What operators see. The driver writes it with the lock, and reads it without.
	user    mbox.UserID // "" before login
	sel     *conn       // of the selected mailbox, nil if there is none
	selExt  string      // that mailbox, as the client named it
	command string      // verb being executed, "" when idle
	began   time.Time   // when the last command began
	came    int64       // octets up to that

	stop    context.CancelFunc // of ctx; nil while parked
	ending  *farewell
	parked  ticket      // while the driver is no goroutine; else 0
	alarm   *time.Timer // rouses it
	waiting bool        // the driver waits for the client, between two lines
	dead    bool
	severed bool
	moved   bool                // the selected mailbox is elsewhere now
	alerts  map[string]struct{} // texts of alerts the client has seen
}

// run serves the client until it leaves, or is parked for the first time.
func (s *session) run() { s.drive(s.begin) }

// resume goes on after the session has been parked.
func (s *session) resume() {
	s.awaken()
	s.drive(func() bool { return true })
}

// awaken gives the driver its context: one that lasted as long as the session would cost more than all else that a
// parked one needs.
func (s *session) awaken() {
	ctx, stop := context.WithCancel(s.srv.ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx, s.stop = ctx, stop; s.severed {
		stop()
	}
}

// rest ends the driver's context.
func (s *session) rest() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop()
	s.stop = nil
}

// log names the connection, and the user who is logged in. It is put together anew each time: a session logs little.
// Any goroutine may call it.
func (s *session) log() *slog.Logger {
	s.mu.Lock()
	user := s.user
	s.mu.Unlock()
	if user == "" {
		return s.bare()
	}
	return s.cfg.Logger.With("conn", s.id, "peer", s.peer, "user", user)
}

// bare names the connection only.
func (s *session) bare() *slog.Logger { return s.cfg.Logger.With("conn", s.id, "peer", s.peer) }

// drive is the driver; begin reports whether there is anything for it to do.
func (s *session) drive(begin func() bool) {
	parked := false
	defer func() {
		if !parked {
			s.close()
		}
	}()
	defer s.guard("driver")
	for more := begin(); more; more = s.step() {
		if !s.restUntil.IsZero() && s.park() {
			parked = true
			return
		}
	}
}

func (s *session) begin() bool {
	if !s.cfg.Directory.Synced() {
		s.sayBye("UNAVAILABLE", "The mailbox list is still being loaded, try again later")
		return false
	}
	s.greet()
	return true
}

// step executes one command, or a part of IDLE, or finds that the session can be parked; false ends the session.
func (s *session) step() bool {
	if s.idling != nil {
		return s.goOnIdling()
	}
	line, err := s.awaitCommand()
	if err == errQuiet {
		return true
	}
	s.idleFrom = time.Time{}
	if err != nil {
		return s.readFailed(err)
	}
	ok := s.execute(line)
	if cap(s.buf) > 4<<10 {
		s.buf = nil
	}
	return ok
}

// await reads the next line of the client. It fails with os.ErrDeadlineExceeded when the client has
// been silent until then, or when the session is to end, and with errQuiet when the session can be parked
// meanwhile: it is to be called again then.
func (s *session) await(until time.Time) ([]byte, error) {
	if !s.woken && bytes.IndexByte(s.in.buffered(), '\n') < 0 {
		if s.sel != nil {
			s.sel.push()
		}
		if s.out.TryLock() { // else it is a pump's, maybe for a long message, who flushes when he waits
			s.out.flush()
			s.out.Unlock()
		}
	}
	quiet := time.Now().Add(s.srv.hot)
	if s.idling != nil && !s.woken {
		quiet = time.Now().Add(-s.srv.slack()) // a client that has just begun IDLE is silent for long
	}
	s.woken = false
	if s.mayPark() && quiet.Before(until) {
		line, err := s.awaitLine(quiet)
		if s.wish() != nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return line, err
		}
		if s.part == 0 {
			s.restUntil = until
			return nil, errQuiet
		}
	}
	return s.awaitLine(until)
}

// awaitLine is await without parking.
func (s *session) awaitLine(until time.Time) ([]byte, error) {
	s.mu.Lock()
	if s.ending != nil {
		s.mu.Unlock()
		return nil, os.ErrDeadlineExceeded
	}
	if s.phase != fresh { // before login one deadline holds for everything
		// Up to a second late, so that not every command has to set it.
		if slack := s.srv.slack(); until.After(s.deadline) || s.deadline.Sub(until) > slack {
			s.deadline = until.Add(slack)
			s.clear.SetReadDeadline(s.deadline)
		}
	}
	s.waiting = true
	s.mu.Unlock()
	line, err := s.in.finishLine(s.buf[:s.part], 0, s.cfg.Limits.Line)
	s.buf, s.part = line, 0
	if errors.Is(err, os.ErrDeadlineExceeded) {
		s.part = len(line)
	}
	s.mu.Lock()
	s.waiting = false
	s.mu.Unlock()
	return line, err
}

// allow gives the client that long for what it sends from now on, which is not the next command.
func (s *session) allow(d time.Duration) {
	s.deadline = time.Time{}
	s.clear.SetReadDeadline(time.Now().Add(d))
}

// awaitCommand waits for a command for as long as a client may be idle, and meanwhile closes
// connections that have not been of use for long. A client that still gets answers is not idle.
func (s *session) awaitCommand() ([]byte, error) {
	if s.idleFrom.IsZero() {
		s.idleFrom = time.Now()
	}
	for {
		until := s.idleFrom.Add(s.cfg.Limits.Idle)
		if s.idleConns() {
			if look := time.Now().Add(s.cfg.Limits.BackendIdle); look.Before(until) {
				until = look
			}
		}
		line, err := s.await(until)
		if s.phase == fresh || s.wish() != nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return line, err
		}
		if s.sel != nil {
			if at := s.sel.lastBusy(); at.After(s.idleFrom) {
				s.idleFrom = at
			}
		}
		if time.Since(s.idleFrom) >= s.cfg.Limits.Idle {
			return line, err
		}
	}
}

// readFailed says good-bye where there is somebody to hear it.
func (s *session) readFailed(err error) bool {
	switch {
	case errors.Is(err, imapwire.ErrLineTooLong):
		s.sayBye("", "Line too long")
	case errors.Is(err, errFlood):
		s.sayBye("UNAVAILABLE", "Too much data after a refused command")
	case errors.Is(err, os.ErrDeadlineExceeded):
		if f := s.wish(); f != nil {
			if f.patient && s.sel != nil && s.sel.drainUntil(s.ctx) != nil {
				s.sel.nc.Close() // else the pump may keep the client's writer
				s.abort("outstanding commands took too long")
				return false
			}
			s.sayBye(f.code, f.text)
		} else {
			s.sayBye("", "Idle for too long")
		}
	case !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed):
		s.log().Debug("client connection failed", "err", err)
	}
	return false
}

func (s *session) execute(line []byte) bool {
	c, err := parseCommand(line)
	c.began = time.Now()
	if err == nil {
		c.verb = verbs[c.name]
	}
	if s.first && (err != nil || c.verb == nil) {
		// Some other protocol, or a browser made to speak to us.
		s.sayBye("", "This is an IMAP server")
		return false
	}
	s.first = false
	s.busy(c.name, c.began)
	if s.sel != nil && (c.verb == nil || c.verb.route != routeRelay || c.verb.bare && c.open) { // the last has a literal to be skipped
		s.sel.drain() // answers come in the order of the commands
	}
	switch {
	case errors.Is(err, imapwire.ErrBadLiteral):
		s.sayBye("", "Literal too large")
		return false
	case err != nil:
	case c.verb == nil:
		err = s.refuseLiteral(c, bad("Unknown command"))
	default:
		err = s.dispatch(c)
	}
	if s.idling == nil {
		s.busy("", c.began)
	}
	return s.finish(c, err)
}

// dispatch does what the table says about a command.
func (s *session) dispatch(c *command) error {
	v := c.verb
	switch {
	case v.phases&s.phase == 0:
		return s.refuseLiteral(c, s.wrongPhase(v))
	case v.admin && !s.admin:
		return s.refuseLiteral(c, errPermission)
	case v.bare && len(bytes.TrimRight(c.line[c.args:], " ")) > 0:
		return s.refuseLiteral(c, fmt.Errorf("%w: %s takes no arguments", errSyntax, v.name))
	case v.stream || v.route == routeRelay || v.bare:
	default:
		if err := s.readWhole(c); err != nil {
			return err
		}
	}
	if v.route != routeRelay {
		s.refreshGroups()
	}
	return v.run(s, c)
}

// groupsFor is how long a session may see by a membership that its user has no more.
const groupsFor = 5 * time.Minute

// refreshGroups asks for the user's groups again once in a while. What cannot be asked is believed.
func (s *session) refreshGroups() {
	if s.phase == fresh || time.Since(s.groupsAt) < groupsFor {
		return
	}
	s.groupsAt = time.Now()
	groups, err := s.cfg.Auth.Groups(s.ctx, string(s.user))
	switch {
	case err == nil, errors.Is(err, auth.ErrUnknownUser):
		s.groups = groups
	default:
		s.log().Warn("groups not confirmed", "err", err)
	}
}

func (s *session) wrongPhase(v *verb) *result {
	switch {
	case s.phase == fresh:
		return errNeedsLogin
	case v.phases&loggedIn == 0:
		return errAlreadyKnown
	}
	return errNotSelected
}

// finish sends the result of a command that has one.
func (s *session) finish(c *command, err error) bool {
	if err == nil { // answered already, or by the pump
		s.bad = 0
		return s.alive()
	}
	if errors.Is(err, errClient) || errors.Is(err, errLogout) {
		if !errors.Is(err, errLogout) {
			s.readFailed(err)
		}
		return false
	}
	if c.open {
		// Whatever failed, failed before the literal was taken.
		if err = s.refuseLiteral(c, err); errors.Is(err, errClient) {
			return s.readFailed(err)
		}
	}
	r := answer(err)
	if r.code == "SERVERBUG" {
		s.log().Error("command failed", "cmd", c.name, "err", err)
	} else if r.code == "UNAVAILABLE" {
		s.log().Warn("command refused for now", "cmd", c.name, "err", err)
	}
	s.reply(c, r)
	if r.status != "BAD" {
		s.bad = 0
	} else if s.bad++; s.bad >= s.cfg.Limits.BadLines {
		s.sayBye("", "Too many invalid commands")
		return false
	}
	return s.alive()
}

// reply ends a command.
func (s *session) reply(c *command, r *result) {
	s.say(c.tag + " " + r.Error() + "\r\n")
	s.srv.metrics.command(c, r.status, r.code)
}

func (s *session) alive() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.dead
}

// say sends text to the client at once.
func (s *session) say(text string) error {
	s.out.Lock()
	defer s.out.Unlock()
	s.out.puts(text)
	if err := s.out.flush(); err != nil {
		return fmt.Errorf("%w: %w", errClient, err)
	}
	return nil
}

// writeRaw queues whole lines for the client.
func (s *session) writeRaw(p []byte) {
	s.out.Lock()
	defer s.out.Unlock()
	s.out.put(p)
}

func (s *session) flush() {
	s.out.Lock()
	defer s.out.Unlock()
	s.out.flush()
}

// byeStall is how long the last word may take.
const byeStall = 5 * time.Second

func (s *session) sayBye(code, text string) {
	if code != "" {
		code = "[" + code + "] "
	}
	// A client that does not read is not waited for: neither by a pump that is writing now nor by us.
	s.sock.SetWriteDeadline(time.Now().Add(byeStall))
	s.out.Lock()
	s.out.stall, s.out.armed = byeStall, time.Time{}
	s.out.Unlock()
	s.say("* BYE " + code + text + "\r\n")
}

// maxAlerts is how many different alerts of backends one session is shown.
const maxAlerts = 100

// newAlert reports whether the client has not been shown an alert yet: every connection to a backend
// may tell the same once more.
func (s *session) newAlert(line []byte) bool {
	_, _, text := condition(line)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, seen := s.alerts[text]; seen || len(s.alerts) == maxAlerts {
		return false
	}
	if s.alerts == nil {
		s.alerts = make(map[string]struct{})
	}
	s.alerts[text] = struct{}{}
	return true
}

// busy notes what the session is doing, for operators.
func (s *session) busy(cmd string, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.command, s.began, s.came = cmd, at, s.in.total
}

// authConn describes the client to package auth.
func (s *session) authConn() auth.Conn {
	c := auth.Conn{Protocol: "imap", Peer: s.peer, Local: s.local, SessionID: s.id}
	if conn, ok := s.conn.(*tls.Conn); ok {
		state := conn.ConnectionState()
		c.TLS = &state
	}
	return c
}

// secure reports whether the client's connection is encrypted.
func (s *session) secure() bool {
	_, ok := s.conn.(*tls.Conn)
	return ok
}
