package imap

import (
	"bytes"

	"murder/internal/mbox"
)

// atMailbox executes commands whose first argument is a mailbox at that mailbox's backend, and
// relays the answer as it is.
func (s *session) atMailbox(c *command) error {
	ext, err := c.mailbox()
	if err != nil {
		return err
	}
	s.noteCondstore(c.line)
	x, err := s.atPlace(ext, func(e mbox.Entry) (*exchange, error) {
		return s.pass(e.Location.Server(), c)
	})
	if err != nil {
		return err
	}
	return s.conclude(c, x)
}

// conclude relays the tagged line of a command that may have changed the map: the map must show it
// before the client hears OK.
func (s *session) conclude(c *command, x *exchange) error {
	if st, _, _ := condition(x.tagged); st == statusOK && c.verb.barrier {
		s.mapChanged()
	}
	return s.tagged(c, x)
}

// atHome executes a command at the backend of the user's INBOX.
func (s *session) atHome(c *command) error {
	server, err := s.home()
	if err != nil {
		return err
	}
	x, err := s.pass(server, c)
	if err != nil {
		return err
	}
	return s.tagged(c, x)
}

// subscribe executes SUBSCRIBE and UNSUBSCRIBE. The home backend keeps the list; it cannot know
// mailboxes elsewhere, so we check that there is one (and it needs "allowallsubscribe: yes").
func (s *session) subscribe(c *command) error {
	args, err := c.exactly(1)
	if err != nil {
		return err
	}
	server, err := s.home()
	if err != nil {
		return err
	}
	var e mbox.Entry
	if c.name == "SUBSCRIBE" {
		if err := s.upToDate(); err != nil {
			return err
		}
		if e, err = s.resolve(args[0]); err != nil {
			return err
		}
		if e, err = s.allowed(e, s.shown); err != nil {
			return err
		}
	}
	x, err := s.pass(server, c)
	if err != nil {
		return err
	}
	if st, _, _ := condition(x.tagged); st != statusOK && e.Location.Server() != server && c.name == "SUBSCRIBE" {
		s.log().Warn("home backend refuses a subscription to a mailbox elsewhere", "backend", server,
			"mailbox", e.Name, "hint", "set allowallsubscribe: yes there", "answer", string(bytes.TrimSpace(x.tagged)))
	}
	return s.tagged(c, x)
}

// quota executes GETQUOTA and SETQUOTA, whose argument is a quota root: the name of the mailbox at
// its top.
func (s *session) quota(c *command) error {
	root, err := c.mailbox()
	if err != nil {
		return err
	}
	e, err := s.look(root)
	if err != nil {
		return err
	}
	server := e.Location.Server()
	elsewhere := false
	mbox.Subtree(s.cfg.Directory.View(), e.Name, func(child mbox.Entry) bool {
		elsewhere = child.State == mbox.Active && child.Location.Server() != server
		return !elsewhere
	})
	if elsewhere {
		return no("CANNOT", "Mailboxes below this quota root are on several servers")
	}
	x, err := s.pass(server, c)
	if err != nil {
		return err
	}
	return s.tagged(c, x)
}
