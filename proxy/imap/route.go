package imap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"murder/internal/backend"
	"murder/internal/mbox"
)

// barrier waits until the map shows everything that was committed before the call.
func (s *session) barrier() error { return s.barrierWithin(s.cfg.Limits.Barrier) }

func (s *session) barrierWithin(limit time.Duration) error {
	ctx, cancel := context.WithTimeout(s.ctx, limit)
	defer cancel()
	_, err := s.cfg.Directory.Barrier(ctx)
	if err != nil {
		s.srv.unconfirmed.Store(true)
		s.srv.metrics.barriers.WithLabelValues("failed").Inc()
		return fmt.Errorf("%w: %w", mbox.ErrUnavailable, err)
	}
	s.unsynced = false
	s.srv.unconfirmed.Store(false)
	s.srv.metrics.barriers.WithLabelValues("ok").Inc()
	return nil
}

// mapChanged is called when a backend has said OK to a command that changes the map.
func (s *session) mapChanged() {
	if err := s.barrier(); err != nil {
		// It has been done: saying otherwise would be wrong. The session's next look-up waits instead,
		// so that it can never read its own past.
		s.unsynced = true
		s.log().Warn("map not confirmed after a change", "err", err)
	}
}

// patience is how long a listing waits for the map while there is known to be no quorum.
const patience = 100 * time.Millisecond

// upToDate lets a command that shows the map itself show what anybody has been told before it was
// given. Mail can be read without a quorum: then the map must do as it is, unless the session itself
// has changed something that it may lack.
func (s *session) upToDate() error {
	limit := s.cfg.Limits.Barrier
	if !s.unsynced && s.srv.unconfirmed.Load() {
		limit = min(limit, patience)
	}
	if err := s.barrierWithin(limit); err != nil && s.unsynced {
		return err
	}
	return nil
}

// find returns the record of an active mailbox. Presence is believed at once; absence, and a
// reservation, only after a barrier. Errors: errNoMailbox, errMoving, or mbox.ErrUnavailable when
// absence cannot be proved.
func (s *session) find(name mbox.Name) (mbox.Entry, error) {
	if !s.unsynced {
		if e, ok := s.active(name); ok {
			return e, nil
		}
	}
	e, err := s.confirm(name)
	if errors.Is(err, mbox.ErrUnavailable) {
		// Reading mail works without a quorum.
		if e, ok := s.active(name); ok {
			return e, nil
		}
	}
	return e, err
}

// active looks at the local copy.
func (s *session) active(name mbox.Name) (mbox.Entry, bool) {
	e, ok := s.cfg.Directory.View().Get(name)
	return e, ok && e.State == mbox.Active
}

// confirm is find after a barrier in any case.
func (s *session) confirm(name mbox.Name) (mbox.Entry, error) {
	if err := s.barrier(); err != nil {
		return mbox.Entry{}, err
	}
	e, ok := s.cfg.Directory.View().Get(name)
	switch {
	case ok && e.State == mbox.Active:
		return e, nil
	case ok && e.Transfer:
		return s.awaitMove(name)
	}
	return mbox.Entry{}, errNoMailbox
}

// awaitMove waits for a mailbox that is being moved.
func (s *session) awaitMove(name mbox.Name) (mbox.Entry, error) {
	ctx, cancel := context.WithTimeout(s.ctx, s.cfg.Limits.MoveWait)
	defer cancel()
	for {
		step := s.srv.follow.next()
		e, ok := s.cfg.Directory.View().Get(name)
		switch {
		case ok && e.State == mbox.Active:
			return e, nil
		case !ok:
			return mbox.Entry{}, errNoMailbox
		}
		select {
		case <-step:
		case <-ctx.Done():
			return mbox.Entry{}, errMoving
		}
	}
}

// resolve translates a name of the client and finds its record.
func (s *session) resolve(ext string) (mbox.Entry, error) {
	name, err := s.view.Internal(mbox.Extern(ext))
	if err != nil {
		return mbox.Entry{}, err
	}
	return s.find(name)
}

// allowed applies a check of rights to a record. A refusal is believed only of a map that shows whatever
// anybody has been told.
func (s *session) allowed(e mbox.Entry, check func(mbox.Entry) error) (mbox.Entry, error) {
	if check(e) == nil {
		return e, nil
	}
	e, err := s.confirm(e.Name)
	if err == nil {
		err = check(e)
	}
	return e, err
}

// look is resolve for a user to whom a hidden mailbox shall look like none, even if its backend is down.
func (s *session) look(ext string) (mbox.Entry, error) {
	e, err := s.resolve(ext)
	if err != nil {
		return e, err
	}
	return s.allowed(e, func(e mbox.Entry) error {
		if s.hidden(e) {
			return errNoMailbox
		}
		return nil
	})
}

// shown is a check for allowed: the user may know of the mailbox.
func (s *session) shown(e mbox.Entry) error {
	if s.visible(e) {
		return nil
	}
	return errNoMailbox
}

// home finds the backend of the user's INBOX, where subscriptions are kept.
func (s *session) home() (mbox.Server, error) {
	e, err := s.find(s.view.Inbox())
	if errors.Is(err, errNoMailbox) {
		return "", no("NONEXISTENT", "You have no INBOX on any server")
	}
	return e.Location.Server(), err
}

// pingAfter is how long an unused connection is trusted to be alive.
const pingAfter = 30 * time.Second

// to returns the session's connection to server, opened if necessary.
func (s *session) to(server mbox.Server) (*conn, error) {
	if c := s.at(server); c != nil {
		if c == s.sel || s.usable(c) && s.enableAt(c) == nil {
			return c, nil
		}
		s.drop(c)
	}
	return s.open(server)
}

// usable reports whether a connection that has been lying about still works.
func (s *session) usable(c *conn) bool {
	c.mu.Lock()
	dead, pumping := c.over() != nil, c.pumping
	c.mu.Unlock()
	if dead || !pumping && !c.in.silent() {
		return false
	}
	if time.Since(c.used) < pingAfter {
		return true
	}
	x := &exchange{quiet: true, stall: 2 * time.Second}
	err := c.do(x, func(tag string) []byte { return []byte(tag + " NOOP\r\n") })
	return err == nil
}

// drop forgets a connection at once.
func (s *session) drop(c *conn) {
	c.close()
	s.gone(c)
}

// gone takes a closed connection off the session's books.
func (s *session) gone(c *conn) {
	if i := slices.Index(s.conns, c); i >= 0 {
		s.noteConns(slices.Delete(slices.Clone(s.conns), i, i+1))
		s.srv.metrics.conns.WithLabelValues(string(c.server)).Dec()
	}
}

// idleConns closes connections that have not been of use for long, as each costs a backend a
// process, and reports whether any unused ones are left.
func (s *session) idleConns() bool {
	left := false
	for _, c := range s.conns {
		switch unused := time.Since(c.used); {
		case c == s.sel:
		case c.broken() != nil, unused >= s.cfg.Limits.HomeIdle, unused >= s.cfg.Limits.BackendIdle && !s.isHome(c.server):
			s.drop(c)
		default:
			left = true
		}
	}
	return left
}

// isHome reports whether the user's INBOX is on a server.
func (s *session) isHome(server mbox.Server) bool {
	inbox, _ := s.cfg.Directory.View().Get(s.view.Inbox())
	return inbox.Location.Server() == server
}

// at is the connection to a server, nil if there is none.
func (s *session) at(server mbox.Server) *conn {
	for _, c := range s.conns {
		if c.server == server {
			return c
		}
	}
	return nil
}

// noteConns replaces the list of connections, which other goroutines read too.
func (s *session) noteConns(list []*conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns = list
	for _, c := range s.conns {
		if s.severed { // maybe before this one was there
			c.nc.Close()
		}
	}
}

// ask runs one whole command at server and returns the exchange, whose tagged line is for the
// caller. format gets the tag: the client's if tag is not empty, else one of ours. A reused connection
// that ends before any answer is replaced once, if the command may be sent twice.
func (s *session) ask(server mbox.Server, again bool, x *exchange, format func(tag string) []byte) error {
	tag, all := x.tag, x.all
	for {
		c, err := s.to(server)
		if err != nil {
			return err
		}
		reused := c.asked
		x.tag, x.all = tag, all || c == s.sel
		err = c.do(x, format)
		st, _, _ := condition(x.tagged)
		s.srv.metrics.atBackend(server, st)
		if err == nil || c == s.sel || !reused || !again || x.answered || errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		s.drop(c)
		x.renew()
	}
}

// pass sends the client's whole command to server as it is, and relays everything but the tagged
// line, which it returns.
func (s *session) pass(server mbox.Server, c *command) (*exchange, error) {
	x := &exchange{tag: c.tag, stall: s.cfg.Limits.BackendReply}
	err := s.ask(server, c.verb.idempotent, x, func(string) []byte {
		return append(bytes.Clone(c.line), "\r\n"...)
	})
	return x, err
}

// tagged relays a backend's tagged line and counts the command.
func (s *session) tagged(c *command, x *exchange) error {
	s.refresh()
	x.tagged = withCode(x.tagged)
	if err := s.say(string(x.tagged)); err != nil {
		return err
	}
	st, code, _ := condition(x.tagged)
	s.srv.metrics.command(c, st.String(), code)
	return nil
}

// silence is how long the selected backend may have had no occasion to tell news.
const silence = 15 * time.Second

// refresh gives the backend of the selected mailbox an occasion to report new mail when the client
// has been busy elsewhere for long.
func (s *session) refresh() {
	c := s.sel
	if c == nil {
		return
	}
	c.mu.Lock()
	due := c.err == nil && time.Since(c.heard) > silence
	c.mu.Unlock()
	if due {
		c.do(&exchange{all: true, stall: s.cfg.Limits.BackendReply}, func(tag string) []byte { return []byte(tag + " NOOP\r\n") })
	}
}

// atPlace runs a command at the backend of the mailbox ext. When that backend does not know the
// mailbox, or refers elsewhere, the map may have been late: it is asked once more.
func (s *session) atPlace(ext string, run func(mbox.Entry) (*exchange, error)) (*exchange, error) {
	e, err := s.look(ext)
	if err != nil {
		return nil, err
	}
	for second := false; ; second = true {
		x, err := run(e)
		if err != nil {
			return x, err
		}
		st, code, _ := condition(x.tagged)
		refers := codeName(code) == "REFERRAL"
		if second || st != statusNo || !(refers || isMissing(x.tagged)) {
			if refers {
				return nil, errMoving
			}
			return x, nil
		}
		if s.barrier() != nil {
			return nil, errMapUnknown
		}
		now, err := s.find(e.Name)
		if err != nil {
			return nil, err
		}
		if now.Location.Server() == e.Location.Server() {
			if refers {
				return nil, errMoving
			}
			s.suspect(now)
			return x, nil
		}
		e = now
	}
}

// isMissing reports whether a backend's NO says that the mailbox is not there.
//
// Cyrus 3.6: "NO Mailbox does not exist", without a code in most commands.
func isMissing(tagged []byte) bool {
	_, code, text := condition(tagged)
	name := codeName(code)
	return name == "NONEXISTENT" || name == "TRYCREATE" || name == "" && strings.Contains(strings.ToLower(text), "does not exist")
}

// isDown reports whether an error means that a backend cannot be used now.
func isDown(err error) bool { return errors.Is(err, backend.ErrDown) || errors.Is(err, errLost) }
