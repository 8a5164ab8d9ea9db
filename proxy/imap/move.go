package imap

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"murder/internal/mbox"
)

// maxMove bounds how many mailboxes one XFER names.
const maxMove = 10_000

// xfer executes "XFER pattern server [partition]". The source backends do the work; a frontend has
// nothing to send.
func (s *session) xfer(c *command) error {
	if !c.eat(' ') {
		return fmt.Errorf("%w: an argument is missing", errSyntax)
	}
	pattern, err := c.astring(true)
	if err != nil {
		return err
	}
	server, err := c.arg()
	if err != nil {
		return err
	}
	partition := ""
	if !c.end() {
		if partition, err = c.arg(); err != nil {
			return err
		}
	}
	if err := c.finish(); err != nil {
		return err
	}
	if !s.srv.knows(mbox.Server(server)) {
		return no("NONEXISTENT", "No such server")
	}
	if partition != "" && !isTag([]byte(partition)) {
		return no("CANNOT", "Invalid partition name")
	}
	list, err := s.matching(pattern)
	if err != nil {
		return err
	}
	return s.move(c, list, mbox.At(mbox.Server(server), partition))
}

// matching returns the mailboxes a pattern names. A pattern with wildcards means whole users and
// shared mailboxes, because folders of a user do not travel alone.
func (s *session) matching(pattern string) ([]mbox.Entry, error) {
	if !strings.ContainsAny(pattern, "*%") {
		e, err := s.resolve(pattern)
		return []mbox.Entry{e}, err
	}
	if err := s.upToDate(); err != nil {
		return nil, err
	}
	p := mbox.CompilePattern("", pattern, s.view.Separator())
	var list []mbox.Entry
	s.cfg.Directory.View().Ascend("", func(e mbox.Entry) bool {
		_, owned := e.Name.User()
		if e.State != mbox.Active || owned && !e.Name.IsInbox() || s.cfg.Namespace.IsDeleted(e.Name) {
			return true
		}
		if ext, ok := s.view.External(e.Name); ok && p.Match(ext) {
			list = append(list, e)
		}
		return len(list) <= maxMove
	})
	switch {
	case len(list) == 0:
		return nil, errNoMailbox
	case len(list) > maxMove:
		return nil, no("LIMIT", "Too many mailboxes in one command")
	}
	return list, nil
}

// move sends each mailbox from where it is to want, one after the other, relays the progress the
// backends report, and believes the map about the end of it.
func (s *session) move(c *command, list []mbox.Entry, want mbox.Location) error {
	target := want.Server()
	list = slices.DeleteFunc(list, func(e mbox.Entry) bool { return e.Location.Server() == target })
	if len(list) == 0 {
		return ok("All of them are there already")
	}
	failed := make(map[mbox.Name]bool)
	for _, e := range list {
		x, err := s.xferOne(e, want)
		if st, _, text := condition(x.tagged); err != nil || st != statusOK {
			failed[e.Name] = true
			s.log().Warn("mailbox not moved", "mailbox", e.Name, "backend", target, "err", err, "answer", text)
			if len(list) > 1 {
				continue
			}
			if err != nil {
				return err
			}
			x.tagged = append([]byte(c.tag+" "), bytes.SplitN(x.tagged, []byte(" "), 2)[1]...)
			return s.tagged(c, x)
		}
	}
	s.mapChanged()
	var first mbox.Extern
	for _, e := range list {
		failed[e.Name] = failed[e.Name] || s.leftBehind(e, target)
		if ext, ok := s.view.External(e.Name); ok && failed[e.Name] && first == "" {
			first = ext
		}
	}
	maps.DeleteFunc(failed, func(_ mbox.Name, yes bool) bool { return !yes })
	if len(failed) > 0 {
		return no("CANNOT", fmt.Sprintf("%d of %d mailboxes were not moved, the first is %s", len(failed), len(list), first))
	}
	return ok("Completed")
}

// xferOne has one mailbox, with what belongs to it, sent from where it is.
func (s *session) xferOne(e mbox.Entry, want mbox.Location) (*exchange, error) {
	// Cyrus: an XFER may take as long as the mailbox is large.
	x := &exchange{stall: 24 * time.Hour}
	ext, ok := s.view.External(e.Name)
	if !ok {
		return x, errBadName
	}
	err := s.ask(e.Location.Server(), false, x, func(tag string) []byte {
		raw := appendName([]byte(tag+" XFER"), string(ext))
		raw = appendName(raw, string(want.Server()))
		if p := want.Partition(); p != "" {
			raw = append(append(raw, ' '), p...)
		}
		return append(raw, "\r\n"...)
	})
	s.flush()
	return x, err
}

// leftBehind reports whether anything of a mailbox is still elsewhere after a move that was said to be
// complete.
func (s *session) leftBehind(e mbox.Entry, target mbox.Server) (left bool) {
	if s.unsynced {
		return false
	}
	mbox.Subtree(s.cfg.Directory.View(), e.Name, func(child mbox.Entry) bool {
		if _, owned := child.Name.User(); !owned && child.Name != e.Name {
			return false // shared mailboxes move one by one
		}
		if child.State == mbox.Active && child.Location.Server() != target {
			left = true
			s.log().Warn("mailbox still elsewhere after a move", "mailbox", child.Name, "backend", child.Location.Server())
		}
		return true
	})
	return left
}
