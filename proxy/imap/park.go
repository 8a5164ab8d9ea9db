package imap

import (
	"errors"
	"net"
	"os"
	"time"
)

// A session whose client has said nothing for a moment holds no goroutine: its socket is in the lot, and a
// goroutine is started when there is something to read, when the session has to do something by itself, or when
// it is to end. The same goes for the pump of the connection that has its mailbox selected. Both are sleepers.
//
// Nothing is lost on the way into the lot and out of it. Whoever parks has sent what he had gathered, and holds nothing that
// has been read: his last read has ended by its deadline, which TLS looks at only when it has no whole record left; or there
// is no TLS, and his buffer is empty. He enters under his lock. What is in the socket by then wakes him at once, as does what
// comes later, and for both wake takes that lock. Whoever reads next leaves the lot under it, gives the peer a new deadline,
// and tries to read before he waits.

// hotFor is how long a goroutine goes on waiting for its peer before it parks: those who are busy never do. In IDLE it
// parks at once, so that when all clients come back together not each of them needs two goroutines.
const hotFor = 2 * time.Second

// errQuiet means that the client has been silent long enough for the session to be parked.
var errQuiet = errors.New("the client is silent")

var errNoSocket = errors.New("not a socket")

// lot watches the sockets of those who are parked.
type lot interface {
	// enter watches conn for who, whose lock is held. When it has something to read or has ended, who.wake is
	// called once, from another goroutine, unless leave comes first. A connection that we close ourselves
	// tells nothing any more: whoever closes it must wake who waits for it.
	enter(conn net.Conn, who sleeper) (ticket, error)
	leave(ticket)
	// close forgets all sleepers, and admits no more.
	close()
}

// ticket is the stay of one sleeper, never 0. None is given twice, so that what is said of a stay that has
// ended cannot be mistaken for news.
type ticket uint64

// sleeper is somebody who can be parked.
type sleeper interface {
	// wake may be called for a stay that has ended, and does nothing then.
	wake(ticket)
}

// mayPark reports whether the session can be parked while it waits for a line. Before login one deadline holds
// for everything, and a decompressor has a goroutine of its own that reads.
func (s *session) mayPark() bool {
	return s.srv.lot != nil && s.phase != fresh && !s.deflated && !s.restless
}

// late is asked when a read has met the deadline. One within a command has met that of the pause before it: then it is
// to read on, for as long as a client may be silent.
func (s *session) late() bool {
	if s.waiting || s.deadline.IsZero() {
		return false
	}
	s.allow(s.cfg.Limits.Idle)
	return true
}

// park gives the session to the lot, until s.restUntil at the latest. After true it may belong to another
// goroutine already.
func (s *session) park() bool {
	until := s.restUntil
	s.restUntil = time.Time{}
	s.buf, s.in.first = nil, nil
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending != nil || s.dead || s.severed {
		return false
	}
	t, err := s.srv.lot.enter(s.sock, s)
	if err != nil {
		s.restless = true
		return false
	}
	s.parked = t
	s.stop()
	s.ctx, s.stop = nil, nil
	if left := time.Until(until); s.alarm == nil {
		s.alarm = time.AfterFunc(left, s.rouse)
	} else {
		s.alarm.Reset(left)
	}
	return true
}

func (s *session) wake(t ticket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.parked == t {
		s.unpark()
	}
}

// rouse wakes the session if it is parked. It looks by itself what there is to do.
func (s *session) rouse() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unpark()
}

// unpark is rouse with s.mu held.
func (s *session) unpark() {
	if s.parked == 0 {
		return
	}
	s.srv.lot.leave(s.parked)
	s.parked = 0
	s.alarm.Stop()
	s.woken = true
	go s.resume() // which is the server's work since the session was admitted
}

// quiet is called by the pump when the backend has been silent for a moment between two responses. True means
// that the pump is to end: it is parked, or there is nothing to wait for. Otherwise it is to read on.
func (c *conn) quiet(goroutine bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if goroutine && c.over() == nil {
		idle := len(c.queue) == 1 && c.queue[0].rests
		switch {
		case len(c.queue) == 0 && !c.selected:
			c.pumping = false
			return true
		case (len(c.queue) == 0 || idle) && c.rest():
			c.pumping = false
			c.in.first = nil
			return true
		}
	}
	c.patient()
	return false
}

// rest gives the pump to the lot, if it can; c.mu is held.
func (c *conn) rest() bool {
	if c.s.srv.lot == nil {
		return false
	}
	t, err := c.s.srv.lot.enter(c.nc.NetConn(), c)
	c.parked = t
	return err == nil
}

// listen has somebody hear what the backend says next, if there is anything to hear; c.mu is held, and nothing is being
// read. A selected mailbox alone needs no goroutine: below TLS, however, something may have been read already.
func (c *conn) listen() {
	switch {
	case c.pumping || c.parked != 0 || c.err != nil:
	case len(c.queue) > 0:
		c.start()
	case c.selected && (c.in.raw == nil || len(c.in.buffered()) > 0 || !c.rest()):
		c.start()
	}
}

// calm has the pump parked as soon as what has come from a backend in IDLE is handled: it is silent for long. A read that
// is too late from the outset is what finds out that nothing is left, below TLS too.
func (c *conn) calm() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.s.srv.lot != nil && len(c.queue) == 1 && c.queue[0].rests {
		c.deadline = c.armed
		c.nc.SetReadDeadline(c.deadline)
	}
}

func (c *conn) wake(t ticket) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.parked == t {
		c.start()
	}
}

// rouse wakes the pump if it is parked.
func (c *conn) rouse() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.parked != 0 {
		c.start()
	}
}

// unpark takes a parked pump from the lot; c.mu is held.
func (c *conn) unpark() {
	if c.parked != 0 {
		c.s.srv.lot.leave(c.parked)
		c.parked = 0
	}
}

// late is asked when a read within a response has met the deadline, which may have been meant for the pause
// between two: it reports whether to read on.
func (c *conn) late() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.patient()
}

// patient makes the next read wait for as long as the backend may be silent, and reports whether that is not
// over; c.mu is held.
func (c *conn) patient() bool {
	if c.err != nil || !c.due.IsZero() && !time.Now().Before(c.due) {
		return false
	}
	c.deadline = c.due
	c.nc.SetReadDeadline(c.deadline)
	return true
}

// pause waits for the next response, and reports whether there is one to read. False ends the pump.
func (c *conn) pause(goroutine bool) bool {
	for len(c.in.buffered()) == 0 {
		err := c.in.fillOnce()
		if err == nil {
			return true
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) || c.overdue() {
			c.lost(err, true)
			return false
		}
		began := time.Now()
		c.s.flush() // a read that is too late from the outset does not call waiting
		if time.Since(began) > time.Second {
			c.extend() // which is the client's fault
		}
		if c.quiet(goroutine) {
			return false
		}
	}
	return true
}

func (c *conn) overdue() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.due.IsZero() && !time.Now().Before(c.due)
}
