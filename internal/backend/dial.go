package backend

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"murder/internal/mbox"
	"murder/internal/socket"
)

const (
	dialEach = 2 * time.Second
	// dialLast is for the last address. A server whose queue is full drops what comes: within this time it is asked
	// a third time.
	dialLast = 4 * time.Second
	dialAll  = 5 * time.Second
	// approach is how many connections to one service may wait for its greeting. Cyrus: the queue that the kernel
	// keeps for a service is 32 long, and whoever comes when it is full has to wait for seconds; so others wait here
	// for their turn, which costs the server nothing.
	approach     = 32
	approachWait = 25 * time.Second // with dialAll, as long as a SELECT may take
)

// keepAlive asks a silent server three times whether it is there.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: time.Minute, Interval: 10 * time.Second, Count: 3}

// Dial connects to a service of a server, over TLS if the policy is Implicit. It tries every address
// for at most 2 s, the last one for 4 s, for 5 s in all. A server that failed three times in a row, or once after 2 s,
// is left alone for 5 s, doubling to 60 s, then tried by one caller at a time; not one that has greeted others
// meanwhile. At most 32 connections to a service wait for its greeting; more callers wait for their turn, for up to
// 25 s.
//
// A connection counts as good once the first octet has been read from it, and as failed if reading
// ends or times out before that, though not within 2 s: set a read deadline for the greeting.
func (s *Set) Dial(ctx context.Context, name mbox.Server, svc Service) (*Conn, error) {
	conn, err := s.dial(ctx, name, svc)
	result := "ok"
	switch {
	case err == nil:
		return conn, nil
	case errors.Is(err, ErrBreakerOpen):
		result = "breaker"
	case errors.Is(err, ErrBusy):
		result = "busy"
	case errors.Is(err, ErrTLS):
		result = "tls"
	case errors.Is(err, ErrLoop):
		result = "loop"
	default:
		result = "unreachable"
	}
	s.metrics.dials.WithLabelValues(string(name), svc.String(), result).Inc()
	return nil, fmt.Errorf("dialling %s of %s: %w", svc, name, err)
}

func (s *Set) dial(ctx context.Context, name mbox.Server, svc Service) (*Conn, error) {
	terms, srv := s.use(name)
	if n := srv.conns.Add(1); terms.MaxConns > 0 && n > int64(terms.MaxConns) {
		srv.conns.Add(-1)
		return nil, ErrBusy
	}
	b := &srv.breakers[svc]
	probe, err := srv.admit(ctx, svc, s.metrics.waiting.WithLabelValues(string(name), svc.String()))
	if err != nil {
		srv.conns.Add(-1)
		return nil, err
	}
	b.count(1)
	began := time.Now()
	c := &Conn{set: s, terms: terms, srv: srv, svc: svc, probe: probe, began: began}
	if err := c.open(ctx); err != nil {
		switch {
		case errors.Is(err, ErrLoop):
			s.looped(srv, svc, err)
			c.judge(nil, false)
		case errors.Is(ctx.Err(), context.Canceled):
			c.judge(nil, false)
		default:
			c.judge(err, true)
		}
		c.Close()
		return nil, err
	}
	s.metrics.dials.WithLabelValues(string(name), svc.String(), "ok").Inc()
	s.metrics.seconds.WithLabelValues(svc.String()).Observe(time.Since(began).Seconds())
	return c, nil
}

// admit waits for a caller's turn. The turn is over once the connection has been judged.
func (srv *server) admit(ctx context.Context, svc Service, waiting prometheus.Gauge) (probe bool, err error) {
	b, turns := &srv.breakers[svc], srv.turns[svc]
	if err := b.refuses(time.Now()); err != nil {
		return false, err
	}
	select {
	case turns <- struct{}{}:
	default:
		waiting.Inc()
		defer waiting.Dec()
		timeout := time.NewTimer(approachWait)
		defer timeout.Stop()
		select {
		case turns <- struct{}{}:
		case <-timeout.C:
			return false, fmt.Errorf("%w: %d others wait for its greeting", ErrBusy, approach)
		case <-ctx.Done():
			return false, fmt.Errorf("%w: %d others wait for its greeting: %w", ErrBusy, approach, ctx.Err())
		}
	}
	if probe, err = b.admit(time.Now()); err != nil {
		<-turns
	}
	return probe, err
}

// open tries the addresses in the order in which the resolver prefers them.
func (c *Conn) open(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, dialAll)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", c.terms.Host)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	port := c.terms.port(c.svc)
	dialer := net.Dialer{
		KeepAliveConfig: keepAlive,
		Control:         boundRetransmission,
	}
	if c.terms.Bind.IsValid() {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.terms.Bind, 0))
	}
	dial := c.set.cfg.Dial
	if dial == nil {
		dial = func(ctx context.Context, address string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", address)
		}
	}
	var errs []error
	for i, addr := range addrs {
		if bind := c.terms.Bind; bind.IsValid() && bind.Is4() != addr.Unmap().Is4() {
			continue
		}
		at := netip.AddrPortFrom(addr.Unmap(), uint16(port))
		if own := c.set.cfg.Own; own != nil && own(at) {
			return fmt.Errorf("%w: %s", ErrLoop, at)
		}
		patience := dialEach
		if i == len(addrs)-1 {
			patience = dialLast
		}
		each, stop := context.WithTimeout(ctx, patience)
		conn, err := dial(each, at.String())
		stop()
		if err == nil {
			c.raw = socket.New(conn)
			c.Conn = c.raw
			c.set.metrics.conns.WithLabelValues(string(c.srv.name), c.svc.String()).Inc()
			break
		}
		if errs = append(errs, err); ctx.Err() != nil {
			break
		}
	}
	if c.Conn == nil {
		return fmt.Errorf("%w: %w", ErrUnreachable, errors.Join(errs...))
	}
	if c.terms.TLS == Implicit {
		return c.StartTLS(ctx)
	}
	return nil
}

// Conn is a connection to a backend. Reading and writing may go on at the same time; Close and the
// deadlines may be called at any time, also during StartTLS.
type Conn struct {
	net.Conn          // replaced by StartTLS
	raw      net.Conn // the socket

	set    *Set
	terms  *terms
	srv    *server
	svc    Service
	began  time.Time
	mu     sync.Mutex // for replacing Conn against Close
	judged atomic.Bool
	closed atomic.Bool
	probe  bool
	secure bool
}

// judge tells the breaker, once, what this connection says about the server.
func (c *Conn) judge(err error, decided bool) {
	if c.judged.Load() || c.judged.Swap(true) {
		return
	}
	b := &c.srv.breakers[c.svc]
	switch {
	case decided && err == nil:
		b.ok(time.Now())
	case decided && !c.hurried(err):
		b.failed(c.began, time.Now(), c.probe, err)
	case c.probe:
		b.undecided()
	}
	<-c.srv.turns[c.svc]
}

// hurried reports whether a caller gave up too soon to say anything of the server: most of his time was over when it
// was his turn.
func (c *Conn) hurried(err error) bool {
	late := errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
	return late && time.Since(c.began) < dialEach
}

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.judge(nil, true)
	} else if err != nil && !errors.Is(err, net.ErrClosed) {
		c.judge(fmt.Errorf("connected, but no greeting: %w", err), true)
	}
	return n, err
}

// Close implements net.Conn.
func (c *Conn) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	c.judge(nil, false)
	c.srv.conns.Add(-1)
	c.srv.breakers[c.svc].count(-1)
	c.mu.Lock()
	conn := c.Conn
	c.mu.Unlock()
	if conn == nil {
		return nil
	}
	c.set.metrics.conns.WithLabelValues(string(c.srv.name), c.svc.String()).Dec()
	return conn.Close()
}

// NetConn returns the socket below, on which only waiting for something to read is safe.
func (c *Conn) NetConn() net.Conn { return c.raw }

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error { return c.raw.SetDeadline(t) }

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.raw.SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.raw.SetWriteDeadline(t) }

// Acknowledge tells the server's system that all has arrived that has come so far. A server without TCP_NODELAY that answers
// in several packets, as Cyrus does with long answers and with several commands, sends the last one only when those
// before it are acknowledged: that would take the system 40 ms. It forgets the wish soon, so it is to be uttered before
// each wait for the rest of an answer; what has come before a command is acknowledged by that.
func (c *Conn) Acknowledge() {
	if sys, ok := c.raw.(syscall.Conn); ok {
		if raw, err := sys.SyscallConn(); err == nil {
			socket.AckNow(raw)
		}
	}
}

// CloseWrite ends our direction; the server's may go on.
func (c *Conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// Server returns the name the connection was dialled by.
func (c *Conn) Server() mbox.Server { return c.srv.name }

// Service returns the protocol spoken.
func (c *Conn) Service() Service { return c.svc }
