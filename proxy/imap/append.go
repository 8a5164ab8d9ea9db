package imap

import (
	"errors"

	"murder/internal/mbox"
)

// appendMessage executes APPEND, with any number of messages (RFC 3502): the mailbox is found and its
// backend ready before the first message is taken, and the messages pass through as they come. They
// are never kept, so a command whose backend is lost is never sent again.
func (s *session) appendMessage(c *command) error {
	ext, head, err := s.firstArg(c)
	if err != nil {
		return err
	}
	e, err := s.look(ext)
	if err != nil {
		return s.refuseLiteral(c, s.tryCreate(err))
	}
	var x *exchange
	if at, ok := catenateAt(head, c.args); ok {
		x, err = s.catenateTo(e.Location.Server(), c, head, at)
	} else {
		x, err = s.streamTo(e.Location.Server(), c, head)
	}
	if err != nil {
		return err
	}
	if st, code, _ := condition(x.tagged); st == statusNo && (isMissing(x.tagged) || codeName(code) == "REFERRAL") {
		return s.tryCreate(s.whyMissing(e)) // the client still has the message, and knows when to come again
	}
	return s.tagged(c, x)
}

// whyMissing explains the answer of a backend that does not know a mailbox of the map: it has been
// moved, which is a matter of time, or it is gone.
func (s *session) whyMissing(e mbox.Entry) error {
	if err := s.barrier(); err != nil {
		return err
	}
	now, ok := s.cfg.Directory.View().Get(e.Name)
	if !ok || now.State == mbox.Active && !s.visible(now) { // one that is being moved has no ACL
		return errNoMailbox
	}
	if now.State == mbox.Active && now.Location.Server() == e.Location.Server() {
		s.suspect(now)
	}
	return errMoving
}

// tryCreate turns "no such mailbox" into what invites a client to create it (RFC 9051 section 6.3.12).
func (s *session) tryCreate(err error) error {
	if errors.Is(err, errNoMailbox) {
		return errTryCreate
	}
	return err
}

// streamTo sends a command to server as it arrives and waits for the answer. A reused connection
// that fails before anything was taken from the client is replaced first.
func (s *session) streamTo(server mbox.Server, c *command, head []byte) (*exchange, error) {
	if s.tooBig(c) {
		return nil, s.refuseLiteral(c, errTooBig)
	}
	b, err := s.to(server)
	if err != nil {
		return nil, s.refuseLiteral(c, err)
	}
	x := &exchange{tag: c.tag, hold: true, relayMore: true, more: make(chan struct{}, 1), all: b == s.sel}
	if err := b.begin(x); err != nil {
		return nil, s.refuseLiteral(c, err)
	}
	if err := s.stream(c, b, x, head); err != nil {
		return nil, err
	}
	b.push()
	<-x.done
	st, _, _ := condition(x.tagged)
	s.srv.metrics.atBackend(server, st)
	return x, x.err
}

// tooBig reports whether the next literal is a message beyond our limit.
func (s *session) tooBig(c *command) bool {
	limit := s.cfg.Limits.Append
	return limit > 0 && c.open && c.lit.Size > limit
}

// giveUp ends a command of which b has been sent a part with what no server takes for the end of one, drops
// what the client still sends of it, and waits for the refusal. The error is
// because, or about the client.
func (s *session) giveUp(c *command, b *conn, x *exchange, because error) error {
	b.out.puts(" (\r\n")
	b.out.flush()
	if err := s.refuseLiteral(c, because); errors.Is(err, errClient) {
		b.nc.Close()
		return err
	}
	<-x.done
	if st, _, _ := condition(x.tagged); x.err == nil && st == statusOK {
		s.log().Error("backend has taken an incomplete command", "cmd", c.name, "backend", b.server)
	}
	return because
}

// firstArg reads the first argument of a command that is to be streamed, also if it is a literal,
// and returns it with the command as far as it has been read.
func (s *session) firstArg(c *command) (arg string, head []byte, err error) {
	head = append([]byte(nil), c.line...)
	p := parser{b: head, pos: c.args}
	// A literal right behind the verb is the argument itself.
	if c.open && literalIsFirst(head[c.args:]) {
		if c.lit.Size > mbox.MaxNameLen {
			return "", nil, s.refuseLiteral(c, errBadName)
		}
		if !c.lit.NonSync {
			head = append(head[:len(head)-1], "+}"...)
			if err := s.say("+ Go ahead\r\n"); err != nil {
				return "", nil, err
			}
		}
		head = append(head, "\r\n"...)
		err := s.in.copyN(c.lit.Size, func(b []byte) error { head = append(head, b...); return nil })
		if err != nil {
			return "", nil, errors.Join(errClient, err)
		}
		if head, err = s.nextLine(head, c); err != nil {
			return "", nil, err
		}
		p.b = head
	}
	arg, err = p.arg()
	return arg, head, err
}

// literalIsFirst reports whether the arguments consist of nothing but a literal announcement.
func literalIsFirst(args []byte) bool {
	if len(args) < 2 || args[0] != ' ' {
		return false
	}
	for _, c := range args[1:] {
		if c == ' ' {
			return false
		}
	}
	return args[1] == '{' || args[1] == '~'
}
