package imap

import (
	"fmt"

	"murder/internal/mbox"
)

// rename executes RENAME at the old name's backend, subtree and all. With a location, which only
// administrators may give, it moves the mailbox instead (see move.go).
func (s *session) rename(c *command) error {
	from, err := c.arg()
	if err != nil {
		return err
	}
	to, err := c.arg()
	if err != nil {
		return err
	}
	if !c.end() {
		word, err := c.arg()
		if err != nil {
			return err
		}
		if err := c.finish(); err != nil {
			return err
		}
		return s.renameTo(c, from, to, word)
	}
	name, err := s.view.Internal(mbox.Extern(to))
	if err != nil {
		return errBadName
	}
	if err := s.vacant(name); err != nil {
		return err
	}
	x, err := s.atPlace(from, func(e mbox.Entry) (*exchange, error) {
		if above, ok := s.ancestor(name); ok && above.Location.Server() != e.Location.Server() {
			return nil, no("CANNOT", "The new place is on another server")
		}
		x := &exchange{tag: c.tag, stall: s.cfg.Limits.BackendStall}
		return x, s.ask(e.Location.Server(), false, x, func(tag string) []byte {
			raw := appendName(appendName([]byte(tag+" RENAME"), from), to)
			return append(raw, "\r\n"...)
		})
	})
	if err != nil {
		return err
	}
	s.special.forget()
	return s.conclude(c, x)
}

// renameTo executes "RENAME name name location": between partitions of a server, or to another.
func (s *session) renameTo(c *command, from, to, word string) error {
	if !s.admin {
		return no("NOPERM", "Only administrators move mailboxes")
	}
	if from != to {
		return no("CANNOT", "Rename and move one after the other")
	}
	want, err := s.location(word)
	if err != nil {
		return err
	}
	e, err := s.resolve(from)
	if err != nil {
		return err
	}
	if server := want.Server(); server != "" && server != e.Location.Server() {
		return s.move(c, []mbox.Entry{e}, want)
	}
	if want.Partition() == "" {
		return ok("Mailbox is there already")
	}
	x := &exchange{tag: c.tag}
	err = s.ask(e.Location.Server(), false, x, func(tag string) []byte {
		raw := appendName(appendName([]byte(tag+" RENAME"), from), to)
		// Cyrus: the location must be an atom.
		return fmt.Appendf(raw, " %s\r\n", want.Partition())
	})
	if err != nil {
		return err
	}
	return s.conclude(c, x)
}
