package imap

import (
	"errors"
	"math/rand/v2"
	"os"
	"strings"
	"time"
)

const (
	// idleRenew is how often IDLE is renewed at a backend, which ends it after 30 minutes or so.
	idleRenew = 25 * time.Minute
	// idlePoll is how often a backend without IDLE is asked for news. Cyrus: imapidlepoll.
	idlePoll = time.Minute
)

// idle executes IDLE (RFC 2177). The client's consent is not made to wait for the backend's; a
// backend without IDLE is polled.
func (s *session) idle(c *command) error {
	start := time.Now()
	tag := c.tag
	if err := s.say("+ idling\r\n"); err != nil {
		return err
	}
	limit := time.Now().Add(s.cfg.Limits.Idle)
	for {
		x := s.startIdle()
		patience := idleRenew - rand.N(time.Minute)
		if x == nil && s.sel != nil {
			patience = idlePoll
		}
		if left := time.Until(limit); left < patience {
			patience = max(left, 0)
		}
		line, err := s.await(patience)
		if stopErr := s.stopIdle(x); stopErr != nil && err == nil {
			err = os.ErrDeadlineExceeded // the session has been asked to end
		}
		switch {
		case err == nil && strings.EqualFold(string(line), "DONE"):
			s.say(tag + " OK Completed\r\n")
			s.srv.metrics.command(c, "OK", "", start)
			return nil
		case err == nil:
			return bad("DONE expected")
		case !errors.Is(err, os.ErrDeadlineExceeded) || s.wish() != nil || !time.Now().Before(limit):
			return errors.Join(errClient, err)
		}
		if x == nil && s.sel != nil {
			s.sel.do(&exchange{all: true, stall: s.cfg.Limits.BackendReply}, func(tag string) []byte { return []byte(tag + " NOOP\r\n") })
		}
	}
}

// startIdle begins IDLE at the backend of the selected mailbox; nil means that it must be polled.
func (s *session) startIdle() *exchange {
	if s.sel == nil || !s.sel.caps.has("IDLE") {
		return nil
	}
	x := &exchange{all: true, hold: true, stall: idleRenew + time.Minute}
	if s.sel.begin(x) != nil || s.sel.write([]byte(x.tag+" IDLE\r\n")) != nil {
		return nil
	}
	return x
}

// stopIdle ends IDLE at the backend, once that has agreed to it.
func (s *session) stopIdle(x *exchange) error {
	if x == nil {
		return nil
	}
	timeout := time.NewTimer(s.cfg.Limits.BackendReply)
	defer timeout.Stop()
	select {
	case <-x.more:
		if err := s.sel.write([]byte("DONE\r\n")); err != nil {
			s.sel.lost(err, true)
		}
	case <-x.done:
		return x.err
	case <-timeout.C:
		s.sel.lost(os.ErrDeadlineExceeded, true)
	}
	// After a timeout it is done already, or will be at once.
	select {
	case <-x.done:
	case <-timeout.C:
		s.sel.lost(os.ErrDeadlineExceeded, true)
		<-x.done
	}
	return x.err
}
