package imap

import (
	"bytes"
	"fmt"
	"strings"

	"murder/internal/mbox"
)

// copyMessages executes COPY, MOVE and their UID forms. Within one server they are relayed;
// between two, messages go from one to the other through here (see copyacross.go).
func (s *session) copyMessages(c *command) error {
	if !c.eat(' ') {
		return fmt.Errorf("%w: a set of messages is needed", errSyntax)
	}
	set, err := c.astring(true)
	if err != nil {
		return err
	}
	ext, err := c.arg()
	if err != nil {
		return err
	}
	if err := c.finish(); err != nil {
		return err
	}
	if !isSequenceSet(set) {
		return fmt.Errorf("%w: a set of messages is needed", errSyntax)
	}
	e, err := s.resolve(ext)
	if err != nil {
		return s.tryCreate(err)
	}
	if e.Location.Server() != s.sel.server {
		return s.copyAcross(c, set, ext, e)
	}
	x := &exchange{tag: c.tag, all: true}
	if err := s.sel.do(x, func(string) []byte { return append(bytes.Clone(c.line), "\r\n"...) }); err != nil {
		return err
	}
	return s.tagged(c, x)
}

// isSequenceSet reports whether set is one (RFC 9051 section 9), or "$" (RFC 5182).
func isSequenceSet(set string) bool {
	return set == "$" || set != "" && strings.Trim(set, "0123456789:,*") == ""
}

// mayCopy checks the rights before anything is done: the user may insert there and, for a move,
// remove here.
func (s *session) mayCopy(to mbox.Entry, move bool) error {
	_, err := s.allowed(to, func(to mbox.Entry) error {
		switch {
		case !s.visible(to):
			return errNoMailbox
		case special(to.Name):
			return no("CANNOT", "Not a mailbox for mail")
		case !s.rights(to).Has(mbox.Insert):
			return errPermission
		}
		return nil
	})
	if err != nil || !move {
		return s.tryCreate(err)
	}
	from, _ := s.active(s.selName)
	from.Name = s.selName
	_, err = s.allowed(from, func(from mbox.Entry) error {
		if !s.rights(from).Has(mbox.DeleteMsg | mbox.Expunge) {
			return errPermission
		}
		return nil
	})
	return err
}
