package mupdate

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"murder/internal/imapwire"
	"murder/internal/listen"
	"murder/internal/mbox"
)

// bye ends a session with a last untagged line.
type bye string

func (b bye) Error() string { return string(b) }

// Ways for a session to end, beside bye and failures of the connection.
var (
	errLogout = errors.New("logged out")
	// errNoReply closes without a word, because nothing true can be said (RFC 3656 knows no "maybe").
	errNoReply = errors.New("outcome unknown, closing without a reply")
)

// conn is one session. One goroutine runs it; once a stream has begun, a second one owns out.
type conn struct {
	srv  *Server
	log  *slog.Logger
	base net.Conn // what was accepted: for deadlines and closing
	nc   net.Conn // base, or TLS on it
	in   input
	out  output
	peer netip.AddrPort

	tls      *tls.ConnectionState
	deflate  bool
	loggedIn bool
	evicted  atomic.Bool
	failures int
	started  time.Time
	since    time.Time // from when the client has been waiting for the commands at hand

	session mbox.Session
	role    Role
	bound   []mbox.Server // the session may speak for these only; empty means any
	order   mbox.Order
	unified bool

	verb    string // of the command at hand, for metrics
	pending []mbox.Write
	tags    []string  // of pending
	wrote   bool      // something was proposed
	open    mbox.Name // of the last write made, until the client shows that it knows
	ending  ending
	fresh   bool // a barrier covers everything received so far
	stream  *stream

	// Of a session that compares a server's list with the map.
	syncing    mbox.Server // whose
	listed     uint64      // index of the LIST
	misordered bool        // has been logged
	conflicts  int
	withheld   mbox.Name // of the last name that FIND did not show
	brake      conflictBrake
}

func newConn(s *Server, nc net.Conn) *conn {
	c := &conn{srv: s, base: nc, nc: nc, started: time.Now()}
	c.since = c.started
	c.in = input{r: nc, p: parser{literal: maxLoginLiteral}}
	c.out.w = nc
	c.session.ID = s.sessionID()
	c.log = s.log.With("conn", c.session.ID)
	return c
}

// identify finds out who has connected. Behind a proxy that waits for the proxy's word, so it is for
// the session's own goroutine.
func (c *conn) identify() {
	addr := c.base.RemoteAddr()
	c.peer = listen.AddrPort(addr)
	c.session.Peer = addr.String()
	c.log = c.log.With("peer", c.session.Peer)
}

// serve runs the session and closes the connection.
func (c *conn) serve() {
	err := c.greetAndConverse()
	if c.stream != nil {
		c.stream.finish(err)
		c.nc.Close()
		return
	}
	var last bye
	if errors.As(err, &last) {
		c.out.status("*", "BYE", string(last))
	}
	if !isClosed(err) {
		c.flush()
	}
	if last != "" {
		c.linger()
	}
	c.nc.Close()
	if last != "" || !(errors.Is(err, errLogout) || errors.Is(err, io.EOF)) {
		c.log.Debug("session ended", "user", c.session.Identity, "err", err)
	}
}

func (c *conn) greetAndConverse() error {
	c.identify()
	if tc, ok := c.base.(*tls.Conn); ok {
		if err := c.handshake(tc); err != nil {
			return err
		}
	}
	if !c.srv.cfg.Directory.Synced() {
		return bye("not synchronised")
	}
	c.greet()
	for {
		f, ok, goAheads, err := c.in.next()
		if err != nil {
			return c.lost(err)
		}
		if goAheads > 0 {
			if err := c.commit(); err != nil {
				return err
			}
			for range goAheads {
				c.goAhead()
			}
		}
		if !ok {
			err = c.fill()
		} else {
			err = c.dispatch(&f)
		}
		if err != nil {
			return err
		}
		if c.stream == nil && len(c.out.buf) > flushAt {
			if err := c.flush(); err != nil {
				return err
			}
		}
	}
}

// lost answers input after which the next command cannot be found.
func (c *conn) lost(err error) error {
	if err2 := c.commit(); err2 != nil {
		return err2
	}
	c.log.Info("session ended by malformed input", "user", c.session.Identity, "err", err)
	return bye(err.Error())
}

// fill waits for more input, after everything received so far has been answered.
func (c *conn) fill() error {
	if err := c.commit(); err != nil {
		return err
	}
	if c.stream == nil {
		if err := c.flush(); err != nil {
			return err
		}
		c.out.quiet()
	}
	deadline := c.started.Add(c.srv.cfg.LoginTimeout)
	if c.loggedIn {
		deadline = time.Now().Add(c.srv.cfg.IdleTimeout)
	}
	c.base.SetReadDeadline(deadline)
	// The deadline that Shutdown or a dead stream sets to wake us may have come before ours.
	if err := c.interrupted(); err != nil {
		return err
	}
	c.fresh = false
	err := c.in.fill()
	if err == nil {
		c.open = ""
		c.since = time.Now()
		return nil
	}
	if stop := c.interrupted(); stop != nil {
		return stop
	}
	if errors.Is(err, errBomb) {
		return c.lost(err)
	}
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		return bye("no activity for too long")
	}
	return err
}

// interrupt makes a blocked or future fill return.
func (c *conn) interrupt() { c.base.SetReadDeadline(time.Unix(1, 0)) }

func (c *conn) interrupted() error {
	if c.stream != nil && c.stream.ended() {
		return io.EOF
	}
	switch {
	case c.srv.closing.Load():
		return bye("shutting down")
	case c.evicted.Load():
		return bye("Server Unable")
	}
	return nil
}

func (c *conn) flush() error { return c.flushBy(time.Time{}) }

// flushBy writes what is gathered; a client that does not read is given WriteTimeout, and no longer
// than until limit if that is set.
func (c *conn) flushBy(limit time.Time) error {
	if len(c.out.buf) == 0 {
		return nil
	}
	deadline := time.Now().Add(c.srv.cfg.WriteTimeout)
	if !limit.IsZero() && limit.Before(deadline) {
		deadline = limit
	}
	c.base.SetWriteDeadline(deadline)
	begun := time.Now()
	err := c.out.flush()
	if c.stream == nil {
		c.since = c.since.Add(time.Since(begun)) // the client's own time
	}
	return err
}

// linger lets the client read a BYE although it may have sent more than we have read: closing with
// unread input would make the system throw the BYE away.
func (c *conn) linger() {
	half, ok := c.base.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	c.base.SetReadDeadline(time.Now().Add(time.Second))
	io.CopyN(io.Discard, c.base, 1<<20)
}

func isClosed(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe)
}

// context bounds one command so that its answer is out d after it came: what has been pipelined shares
// the time, and a twentieth is left for the answer itself.
func (c *conn) context(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithDeadline(c.srv.ctx, c.since.Add(d-d/20))
}

// reply completes the command at hand.
func (c *conn) reply(tag, word, text string) { c.replyTo(c.verb, tag, word, text) }

func (c *conn) replyTo(verb, tag, word, text string) {
	c.srv.metrics.commands.WithLabelValues(verb, word).Inc()
	if c.stream != nil {
		c.stream.post(post{tag: tag, word: word, text: text})
		return
	}
	c.out.status(tag, word, text)
}

func (c *conn) goAhead() {
	if c.stream != nil {
		c.stream.post(post{})
		return
	}
	c.out.line(goAheadLine)
}

const goAheadLine = "+ go ahead"

// barrier confirms that the view reflects everything committed before the commands received so far.
func (c *conn) barrier(d time.Duration) error {
	if c.fresh {
		return nil
	}
	if c.stream == nil {
		if err := c.flush(); err != nil {
			return err
		}
	}
	ctx, cancel := c.context(d)
	defer cancel()
	start := time.Now()
	_, err := c.srv.cfg.Directory.Barrier(ctx)
	c.srv.metrics.barrier.Observe(time.Since(start).Seconds())
	c.fresh = err == nil
	return err
}

const noQuorum = "no quorum, try again"

// learn notes a server name that the client has used, for DELETE, which carries none.
func (c *conn) learn(server mbox.Server) {
	const most = 16
	if server == "" {
		return
	}
	if len(c.bound) == 0 && len(c.session.Servers) < most && !slices.Contains(c.session.Servers, server) {
		c.session.Servers = append(c.session.Servers, server)
	}
}

func (c *conn) speaksFor(server mbox.Server) bool { return slices.Contains(c.session.Servers, server) }

// greet sends the greeting (RFC 3656 section 3.8), in Cyrus's order and quoting.
func (c *conn) greet() {
	cfg := &c.srv.cfg
	c.out.buf = append(c.out.buf, "* AUTH"...)
	for _, mech := range c.mechanisms() {
		c.out.buf = append(c.out.buf, ' ')
		c.out.buf = imapwire.AppendString(c.out.buf, mech)
	}
	c.out.line("")
	if cfg.TLS != nil && c.tls == nil {
		c.out.line("* STARTTLS")
	}
	c.out.line(`* COMPRESS "DEFLATE"`)
	c.out.line("* PARTIAL-UPDATE")
	c.out.buf = append(c.out.buf, "* OK MUPDATE"...)
	role := "(master)"
	if cfg.Upstream != "" {
		role = "mupdate://" + cfg.Upstream
	}
	for _, s := range []string{cfg.ServerName, cfg.Implementation, cfg.Version, role} {
		c.out.buf = append(c.out.buf, ' ')
		c.out.buf = imapwire.AppendString(c.out.buf, s)
	}
	c.out.line("")
}
