package imap

import (
	"fmt"
	"strings"

	"murder/internal/mbox"
)

// create executes CREATE. The parent's backend gets the mailbox; where there is no parent, the
// administrator's choice or the placement policy decides.
func (s *session) create(c *command) error {
	ext, err := c.mailbox()
	if err != nil {
		return err
	}
	// A separator at the end only announces that names will be created below (RFC 9051 section 6.3.4).
	if trimmed := strings.TrimSuffix(ext, string(s.view.Separator())); trimmed != "" {
		ext = trimmed
	}
	want, params, err := s.createParams(c)
	if err != nil {
		return err
	}
	name, err := s.view.Internal(mbox.Extern(ext))
	if err != nil {
		return errBadName
	}
	if err := s.vacant(name); err != nil {
		return err
	}
	servers, err := s.placesFor(name, want.Server())
	if err != nil {
		return err
	}
	raw := appendName([]byte(c.tag+" CREATE"), ext)
	if part := want.Partition(); part != "" {
		raw = append(append(raw, ' '), part...)
	}
	raw = append(append(raw, params...), "\r\n"...)
	for i, server := range servers {
		x := &exchange{tag: c.tag, stall: s.cfg.Limits.BackendReply}
		err := s.ask(server, false, x, func(string) []byte { return raw })
		if err != nil && !x.answered && x.done == nil && isDown(err) && i < len(servers)-1 {
			continue // never connected: the next candidate will do
		}
		if err != nil {
			return err
		}
		s.special.forget()
		return s.conclude(c, x)
	}
	return no("UNAVAILABLE", "No server accepts new mailboxes now")
}

// vacant refuses a name that is taken. The backend's own reservation decides between two who want one
// name; this is courtesy, and brings the map up to date.
func (s *session) vacant(name mbox.Name) error {
	e, err := s.confirm(name)
	switch {
	case err == nil && s.visible(e):
		return no("ALREADYEXISTS", "Mailbox already exists")
	case err == nil:
		return errPermission
	case err == error(errNoMailbox):
		return nil
	}
	return err
}

// createParams reads what follows the name: an administrator's "server", "server!partition" or
// "partition" as a word, or the parameter list of RFC 4466, of which SERVER is for us.
//
// Cyrus: its frontend takes the word for a partition and, without a parent, dies.
func (s *session) createParams(c *command) (want mbox.Location, params string, err error) {
	if c.end() {
		return "", "", nil
	}
	if !c.eat(' ') {
		return "", "", fmt.Errorf("%w: unexpected argument", errSyntax)
	}
	if c.next() != '(' {
		word, err := c.astring(false)
		if err != nil {
			return "", "", err
		}
		if err := c.finish(); err != nil {
			return "", "", err
		}
		if !s.admin {
			return "", "", no("NOPERM", "Only administrators choose a server")
		}
		want, err := s.location(word)
		return want, "", err
	}
	items, err := c.list()
	if err != nil {
		return "", "", err
	}
	var server, partition string
	var others []string
	for i := 0; i+1 < len(items); i += 2 {
		switch strings.ToUpper(items[i]) {
		case "SERVER":
			server = items[i+1]
		case "PARTITION":
			partition = items[i+1]
		default:
			value := items[i+1]
			if !strings.HasPrefix(value, "(") {
				value = astring(value)
			}
			others = append(others, items[i]+" "+value)
		}
	}
	if len(items)%2 != 0 {
		return "", "", fmt.Errorf("%w: a parameter lacks its value", errSyntax)
	}
	if (server != "" || partition != "") && !s.admin {
		return "", "", no("NOPERM", "Only administrators choose a server")
	}
	if server != "" && !s.srv.knows(mbox.Server(server)) {
		return "", "", no("NONEXISTENT", "No such server")
	}
	if partition != "" && !isTag([]byte(partition)) {
		return "", "", no("CANNOT", "Invalid partition name")
	}
	if len(others) > 0 {
		params = " (" + strings.Join(others, " ") + ")"
	}
	if server == "" && partition == "" {
		return "", params, nil
	}
	return mbox.At(mbox.Server(server), partition), params, nil
}

// location reads an administrator's "server", "server!partition", "!partition" or "partition". A
// server must be known, so that a slip of the pen moves nothing.
func (s *session) location(word string) (mbox.Location, error) {
	server, partition, both := strings.Cut(word, "!")
	if partition != "" && !isTag([]byte(partition)) {
		return "", no("CANNOT", "Invalid partition name")
	}
	switch {
	case server == "" && partition != "":
		return mbox.At("", partition), nil
	case s.srv.knows(mbox.Server(server)):
		return mbox.At(mbox.Server(server), partition), nil
	case both:
		return "", no("NONEXISTENT", "No such server")
	case s.srv.hasPartition(word):
		return mbox.At("", word), nil
	}
	return "", no("NONEXISTENT", "No such server or partition")
}

func (srv *Server) knows(server mbox.Server) bool {
	return srv.cfg.Backends.Known(server) || srv.follow.population()[server] > 0
}

// hasPartition reports whether any mailbox lies on a partition of that name.
func (srv *Server) hasPartition(partition string) bool {
	for server := range srv.follow.population() {
		if srv.follow.holds(mbox.At(server, partition)) {
			return true
		}
	}
	return false
}

// placesFor returns the servers that may get a new mailbox, the best first.
func (s *session) placesFor(name mbox.Name, want mbox.Server) ([]mbox.Server, error) {
	if e, ok := s.ancestor(name); ok {
		server := e.Location.Server()
		if want != "" && want != server {
			return nil, no("CANNOT", "The parent mailbox is on another server")
		}
		return []mbox.Server{server}, nil
	}
	if !s.admin {
		return nil, errPermission
	}
	if want != "" {
		return []mbox.Server{want}, nil
	}
	list := s.srv.place.order(s.srv, name)
	switch {
	case len(list) > 0:
		return list, nil
	case s.cfg.Placement.Policy == Explicit:
		return nil, no("CANNOT", "Say on which server: CREATE name server")
	}
	return nil, no("UNAVAILABLE", "No server accepts new mailboxes now")
}

// ancestor returns the nearest mailbox above name.
func (s *session) ancestor(name mbox.Name) (mbox.Entry, bool) {
	view := s.cfg.Directory.View()
	for {
		parent, more := name.Parent()
		if !more {
			return mbox.Entry{}, false
		}
		if e, ok := view.Get(parent); ok && e.State == mbox.Active {
			return e, true
		}
		name = parent
	}
}
