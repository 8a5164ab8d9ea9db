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

// idling is an IDLE command under way. It is the driver's, whichever goroutine that is.
type idling struct {
	tag          string
	start, limit time.Time
	until        time.Time // when something is to be done if nothing comes
	x            *exchange // at the backend; nil: there is nobody to tell, or who must be polled
}

// idle begins IDLE (RFC 2177). The client's consent is not made to wait for the backend's; a
// backend without IDLE is polled.
func (s *session) idle(c *command) error {
	now := time.Now()
	if err := s.say("+ idling\r\n"); err != nil {
		return err
	}
	s.idling = &idling{tag: c.tag, start: now, limit: now.Add(s.cfg.Limits.Idle)}
	if !s.endIfMoved() {
		s.renewIdle()
	}
	return nil
}

// renewIdle has the backend tell its news, until it must be asked again.
func (s *session) renewIdle() {
	i := s.idling
	i.x = s.startIdle()
	patience := idleRenew - rand.N(time.Minute)
	if i.x == nil && s.sel != nil {
		patience = idlePoll
	}
	if i.until = time.Now().Add(patience); i.until.After(i.limit) {
		i.until = i.limit
	}
}

// goOnIdling waits for the client's DONE, or for the next thing to do until then; false ends the session.
func (s *session) goOnIdling() bool {
	i := s.idling
	line, err := s.await(i.until)
	if err == errQuiet {
		return true
	}
	if stopErr := s.stopIdle(i.x); stopErr != nil && err == nil {
		err = os.ErrDeadlineExceeded // the session has been asked to end
	}
	c := &command{tag: i.tag, name: "IDLE", verb: verbs["IDLE"], began: i.start}
	switch {
	case err == nil && strings.EqualFold(string(line), "DONE"):
		s.say(i.tag + " OK Completed\r\n")
		s.srv.metrics.command(c, "OK", "")
	case err == nil:
		err = bad("DONE expected")
	case !errors.Is(err, os.ErrDeadlineExceeded) || s.wish() != nil || !time.Now().Before(i.limit):
		err = errors.Join(errClient, err)
	default:
		if i.x == nil && s.sel != nil {
			s.sel.do(&exchange{all: true, stall: s.cfg.Limits.BackendReply}, func(tag string) []byte { return []byte(tag + " NOOP\r\n") })
		}
		s.renewIdle()
		return true
	}
	s.idling = nil
	s.busy("", i.start)
	return s.finish(c, err)
}

// startIdle begins IDLE at the backend of the selected mailbox; nil means that it must be polled.
func (s *session) startIdle() *exchange {
	if s.sel == nil || !s.sel.caps.has("IDLE") {
		return nil
	}
	x := &exchange{all: true, hold: true, rests: true, more: make(chan struct{}, 1), stall: idleRenew + time.Minute}
	if s.sel.begin(x) != nil {
		return nil
	}
	s.sel.write([]byte(x.tag + " IDLE\r\n"))
	return x
}

// stopIdle ends IDLE at the backend, once that has agreed to it, unless it has ended already.
func (s *session) stopIdle(x *exchange) error {
	if x == nil {
		return nil
	}
	timeout := time.NewTimer(s.cfg.Limits.BackendReply)
	defer timeout.Stop()
	select {
	case <-x.more:
		if !x.ended() { // else DONE would be a command
			s.sel.write([]byte("DONE\r\n"))
		}
	case <-x.done:
	case <-timeout.C:
		s.sel.hangUp(os.ErrDeadlineExceeded)
	}
	// After a timeout it is done already, or will be at once.
	select {
	case <-x.done:
	case <-timeout.C:
		s.sel.hangUp(os.ErrDeadlineExceeded)
		<-x.done
	}
	return x.err
}
