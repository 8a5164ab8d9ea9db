package imap

import (
	"runtime/debug"
	"time"
)

// farewell is why a session is to end.
type farewell struct {
	code, text string
	patient    bool // what has been sent to the backend is answered first
}

// end asks the session to say BYE at the next line boundary. Any goroutine may call it.
func (s *session) end(code, text string) { s.endAs(farewell{code: code, text: text}) }

// endAs is end in a way of its own.
func (s *session) endAs(f farewell) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending == nil {
		s.ending = &f
	}
	if s.waiting {
		s.clear.SetReadDeadline(time.Unix(1, 0))
	}
	s.unpark()
}

func (s *session) wish() *farewell {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ending
}

// abort cuts the client off: its stream stands where no text may follow.
func (s *session) abort(why string) {
	s.log().Warn("session cut", "why", why)
	s.kill()
}

func (s *session) kill() {
	s.mu.Lock()
	s.dead = true
	s.mu.Unlock()
	s.sock.Close()
	s.rouse()
}

// breakOff ends a session from outside, whatever it waits for. Any goroutine may call it.
func (s *session) breakOff(why string) {
	s.bare().Warn("session cut", "why", why)
	s.kill()
	s.sever()
}

// sever closes all its connections, and those to come.
func (s *session) sever() {
	s.sock.Close()
	s.mu.Lock()
	s.severed = true
	if s.stop != nil {
		s.stop()
	}
	opened := s.conns
	s.unpark()
	s.mu.Unlock()
	for _, c := range opened {
		c.nc.Close()
		c.rouse()
	}
}

// lostSelected ends the session after the backend of its mailbox has gone.
func (s *session) lostSelected(c *conn, cause error) {
	s.log().Warn("backend of the selected mailbox lost", "backend", c.server, "err", cause)
	if !s.endIfMoved() {
		s.end("UNAVAILABLE", "Mailbox server lost")
	}
}

// guard keeps a panic to its session.
func (s *session) guard(where string) {
	if p := recover(); p != nil {
		s.log().Error("panic", "where", where, "panic", p, "stack", string(debug.Stack()))
		s.srv.metrics.panics.Inc()
		s.abort("panic")
	}
}

// close releases everything the session holds.
func (s *session) close() {
	s.flush()
	s.srv.follow.unwatch(s)
	s.conn.Close()
	s.sock.Close()
	s.mu.Lock()
	s.clear.Close()
	s.dead = true
	if s.alarm != nil {
		s.alarm.Stop()
	}
	s.mu.Unlock()
	for _, c := range s.conns {
		c.close()
		s.gone(c)
	}
	s.rest()
	s.pumps.Wait()
	s.in.release()
	s.leave()
	s.srv.forget(s)
}
