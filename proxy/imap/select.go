package imap

import (
	"bytes"
	"errors"

	"murder/internal/mbox"
)

// selectMailbox executes SELECT and EXAMINE (RFC 9051 section 6.3.2). The client sees what the
// backend says, and exactly one CLOSED code when another mailbox was open (RFC 7162 section
// 3.2.11): from the backend when both are there, else from us. Whatever fails, the old mailbox is closed,
// unless its own backend does not understand the command.
func (s *session) selectMailbox(c *command) error {
	ext, err := c.mailbox()
	if err != nil {
		return err
	}
	s.noteCondstore(c.line)
	x, err := s.atPlace(ext, func(e mbox.Entry) (*exchange, error) { return s.selectAt(c, ext, e) })
	if err != nil {
		s.leaveMailbox()
		if errors.Is(err, mbox.ErrBadName) {
			err = errNoMailbox
		}
		return err
	}
	return s.tagged(c, x)
}

// selectAt opens a mailbox at its backend. That connection is made first, so that a backend that
// cannot be reached costs little.
func (s *session) selectAt(c *command, ext string, e mbox.Entry) (*exchange, error) {
	server := e.Location.Server()
	b, err := s.to(server)
	if err != nil {
		return nil, err
	}
	here, old, oldExt := s.sel == b, s.selName, s.selExt
	if here {
		// The backend closes the old mailbox by itself, and says so.
		s.deselect()
	} else {
		s.leaveMailbox()
	}
	x := &exchange{tag: c.tag, all: true, opens: true, stall: s.cfg.Limits.BackendReply}
	err = s.ask(server, c.verb.idempotent, x, func(string) []byte {
		return append(bytes.Clone(c.line), "\r\n"...)
	})
	if err != nil {
		return nil, err
	}
	switch st, _, _ := condition(x.tagged); {
	case st == statusOK:
		s.selName = ""
		s.mu.Lock()
		s.moved = false
		s.mu.Unlock()
		s.opened(s.at(server), e.Name, ext)
	case st == statusBad && here && s.at(server) == b:
		s.opened(b, old, oldExt) // Cyrus: what is not understood closes nothing
	}
	return x, nil
}

// opened notes which mailbox is selected.
func (s *session) opened(b *conn, name mbox.Name, ext string) {
	s.setSelected(b, ext)
	s.srv.follow.watch(s, name, b.server)
	b.setSelected(true)
}

// deselect notes that nothing is selected; what the backend thinks is the caller's business.
func (s *session) deselect() {
	if s.sel == nil {
		return
	}
	s.sel.setSelected(false)
	s.srv.follow.unwatch(s)
	s.selName = ""
	s.setSelected(nil, "")
}

// setSelected notes which mailbox is open, and where; nil stands for none.
func (s *session) setSelected(b *conn, ext string) {
	s.phase = authed
	if b != nil {
		s.phase = selected
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sel, s.selExt = b, ext
}

// leaveMailbox closes the selected mailbox at its backend, without expunging, and tells the client.
func (s *session) leaveMailbox() {
	b := s.sel
	if b == nil {
		return
	}
	s.deselect()
	done := false
	if b.caps.has("UNSELECT") {
		x := &exchange{all: true, stall: s.cfg.Limits.BackendReply}
		err := b.do(x, func(tag string) []byte { return []byte(tag + " UNSELECT\r\n") })
		st, _, _ := condition(x.tagged)
		done = err == nil && st == statusOK
	}
	if !done {
		s.drop(b) // CLOSE would expunge
	}
	s.writeRaw([]byte("* OK [CLOSED] Previous mailbox closed\r\n"))
}

// unselect executes CLOSE and UNSELECT.
func (s *session) unselect(c *command) error {
	b, name, ext := s.sel, s.selName, s.selExt
	s.deselect() // from here the loss of this backend is no longer the end
	x := &exchange{tag: c.tag, all: true}
	err := b.do(x, func(string) []byte { return append(bytes.Clone(c.line), "\r\n"...) })
	if err != nil {
		s.drop(b)
		if c.name == "UNSELECT" {
			return ok("Completed") // nothing can be lost by it
		}
		return err
	}
	if st, _, _ := condition(x.tagged); st != statusOK {
		s.opened(b, name, ext)
	}
	return s.tagged(c, x)
}

// noop executes NOOP: the backend of the selected mailbox tells its news.
func (s *session) noop(c *command) error {
	if s.sel == nil {
		return ok("Completed")
	}
	if s.endIfMoved() {
		s.sel.drain()
		return ok("Completed")
	}
	return s.relay(c)
}

// mailboxMoved is called by the follower: the selected mailbox is on another server now. The old
// server goes on serving it until it stops by itself; a client in IDLE is told at once.
func (s *session) mailboxMoved() {
	s.mu.Lock()
	s.moved = true
	idle := s.command == "IDLE"
	s.mu.Unlock()
	if idle {
		s.endIfMoved()
	}
}

// endIfMoved asks the session to end if its selected mailbox is on another server now, and reports whether it is.
func (s *session) endIfMoved() bool {
	s.mu.Lock()
	moved := s.moved && s.sel != nil
	s.mu.Unlock()
	if moved {
		s.end("UNAVAILABLE", "Mailbox moved, reconnect")
	}
	return moved
}
