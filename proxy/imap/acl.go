package imap

import (
	"strings"

	"murder/internal/mbox"
)

// rights returns what the user may do with a mailbox, without what owners and administrators have
// by being that.
func (s *session) rights(e mbox.Entry) mbox.Rights { return e.ACL.RightsOf(s.user, s.groups) }

// visible reports whether the user may know of a mailbox.
func (s *session) visible(e mbox.Entry) bool {
	return s.admin || s.view.Owns(e.Name) || s.rights(e).Has(mbox.Lookup)
}

// hidden reports whether the user has no right to a mailbox but to send mail to it. Where a group has some,
// the backend may know better who its members are.
func (s *session) hidden(e mbox.Entry) bool {
	return !s.visible(e) && s.rights(e)&^mbox.Post == 0 && !strings.Contains(string(e.ACL), "group:")
}

// Rights that nobody can take from an owner or an administrator. Cyrus: implicit_owner_rights and
// the admin's own.
var (
	ownerRights = mbox.ParseRights("lkxan")
	adminRights = mbox.ParseRights("la")
)

// effective adds the implied rights.
func (s *session) effective(e mbox.Entry) mbox.Rights {
	r := s.rights(e)
	if s.view.Owns(e.Name) {
		r |= ownerRights
	}
	if s.admin {
		r |= adminRights
	}
	return r
}

// aclTarget reads the arguments of a command about an ACL and finds the mailbox, which must pass a check.
func (s *session) aclTarget(c *command, n int, check func(mbox.Entry) error) ([]string, mbox.Entry, error) {
	args, err := c.exactly(n)
	if err != nil {
		return nil, mbox.Entry{}, err
	}
	if err := s.upToDate(); err != nil {
		return nil, mbox.Entry{}, err
	}
	e, err := s.resolve(args[0])
	if err == nil {
		e, err = s.allowed(e, check)
	}
	return args, e, err
}

// administers is a check for allowed: the user may see and change the ACL.
func (s *session) administers(e mbox.Entry) error {
	switch {
	case s.effective(e).Has(mbox.Administer):
		return nil
	case s.visible(e):
		return errPermission
	}
	return errNoMailbox
}

// anyOfMyRights are those of which it takes one to be told about all (RFC 4314 section 4).
const anyOfMyRights = mbox.Lookup | mbox.Read | mbox.Insert | mbox.CreateMbox | mbox.DeleteMbox | mbox.Administer

// getACL executes GETACL (RFC 4314 section 3.3) from the map.
func (s *session) getACL(c *command) error {
	args, e, err := s.aclTarget(c, 1, s.administers)
	if err != nil {
		return err
	}
	var b strings.Builder
	b.WriteString("* ACL " + s.nameString(args[0]))
	e.ACL.Entries(func(id, rights string) bool {
		b.WriteString(" " + astring(id) + " " + astring(rights))
		return true
	})
	if err := s.say(b.String() + "\r\n"); err != nil {
		return err
	}
	return ok("Completed")
}

// myRights executes MYRIGHTS (RFC 4314 section 3.5) from the map.
func (s *session) myRights(c *command) error {
	args, e, err := s.aclTarget(c, 1, func(e mbox.Entry) error {
		if s.effective(e)&anyOfMyRights == 0 {
			return errNoMailbox
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := s.say("* MYRIGHTS " + s.nameString(args[0]) + " " + astring(s.effective(e).String()) + "\r\n"); err != nil {
		return err
	}
	return ok("Completed")
}

// listRights executes LISTRIGHTS (RFC 4314 section 3.4) from the map.
func (s *session) listRights(c *command) error {
	args, e, err := s.aclTarget(c, 2, s.administers)
	if err != nil {
		return err
	}
	// Cyrus: anybody may send mail to an INBOX.
	always := mbox.Rights(0)
	if owner, ok := s.cfg.Namespace.Owner(e.Name); ok && string(owner) == args[1] {
		always = ownerRights
	} else if e.Name.IsInbox() {
		always = mbox.Post
	}
	line := "* LISTRIGHTS " + s.nameString(args[0]) + " " + astring(args[1]) + " " + astring(always.String())
	for _, letter := range (mbox.AllRights &^ always).String() {
		line += " " + string(letter)
	}
	if err := s.say(line + "\r\n"); err != nil {
		return err
	}
	return ok("Completed")
}
