package imap

import (
	"fmt"
	"slices"
	"strings"

	"murder/internal/mbox"
)

// subscriptions asks the home backend what the user is subscribed to. A failure is a failure: an
// empty list would make clients drop their folders.
func (s *session) subscriptions() (map[mbox.Extern]bool, error) {
	server, err := s.home()
	if err != nil {
		return nil, err
	}
	subs := make(map[mbox.Extern]bool)
	x := &exchange{stall: s.cfg.Limits.BackendReply, take: func(line []byte) bool {
		_, name, ok := parseListLine(line, "LSUB")
		if ok && len(subs) < 100_000 {
			subs[name] = true
		}
		return ok
	}}
	if err := s.ask(server, true, x, func(tag string) []byte { return []byte(tag + ` LSUB "" "*"` + "\r\n") }); err != nil {
		return nil, err
	}
	if st, _, text := condition(x.tagged); st != statusOK {
		return nil, no("UNAVAILABLE", "Subscriptions cannot be read: "+text)
	}
	return subs, nil
}

// subscribed returns the lines for the subscribed names that match, in order. Names whose mailbox
// has gone stay on the list until the user unsubscribes.
func (s *session) subscribed(l *listing, subs map[mbox.Extern]bool) []listed {
	sep := string(s.view.Separator())
	items := make(map[mbox.Extern]*listed)
	for ext := range subs {
		if l.matches(ext) {
			item := s.lookAt(ext)
			item.sub = true
			items[ext] = &item
		}
	}
	if l.recursive {
		for ext := range subs {
			parent, found := l.nearest(ext, sep[0])
			if !found {
				continue
			}
			item := items[parent]
			if item == nil {
				one := s.lookAt(parent)
				item = &one
				items[parent] = item
			}
			item.childSub = true
			item.children = true
		}
	}
	list := make([]listed, 0, len(items))
	for _, item := range items {
		list = append(list, *item)
	}
	s.sortListed(list)
	return list
}

// nearest returns the name that is listed because of ext below it.
//
// Cyrus: a subscribed name that is on the list itself says nothing about those above it, and one that is not, only
// about the nearest.
func (l *listing) nearest(ext mbox.Extern, sep byte) (parent mbox.Extern, found bool) {
	if l.matches(ext) {
		return "", false
	}
	for i := len(ext) - 1; i > 0; i-- {
		if ext[i] == sep && l.matches(ext[:i]) {
			return ext[:i], true
		}
	}
	return "", false
}

// lookAt makes the line of one name.
func (s *session) lookAt(ext mbox.Extern) listed {
	item := listed{ext: ext}
	name, err := s.view.Internal(ext)
	if err != nil {
		return item
	}
	view := s.cfg.Directory.View()
	if e, ok := view.Get(name); ok && listable(e) && s.visible(e) {
		item.entry = e
	}
	mbox.Subtree(view, name, func(e mbox.Entry) bool {
		// What lies below in the map need not lie below in the client's eyes: INBOX.
		child, ok := s.view.External(e.Name)
		item.children = ok && s.below(child, ext) && listable(e) && s.visible(e)
		return !item.children
	})
	return item
}

func (s *session) sortListed(list []listed) {
	sep := string(s.view.Separator())
	key := func(ext mbox.Extern) string { return strings.ReplaceAll(string(ext), sep, "\x1f") }
	slices.SortFunc(list, func(a, b listed) int {
		if d := s.class(a.ext) - s.class(b.ext); d != 0 {
			return d
		}
		return strings.Compare(key(a.ext), key(b.ext))
	})
}

// lsub executes LSUB and RLSUB (RFC 3501 section 6.3.9). The home backend has the names; whether they
// are mailboxes still, the map says.
func (s *session) lsub(c *command) error {
	if !c.eat(' ') {
		return fmt.Errorf("%w: a reference is missing", errSyntax)
	}
	ref, err := c.astring(true)
	if err != nil {
		return err
	}
	if !c.eat(' ') {
		return fmt.Errorf("%w: a pattern is missing", errSyntax)
	}
	pattern, err := c.astring(true)
	if err != nil {
		return err
	}
	if err := c.finish(); err != nil {
		return err
	}
	if len(ref)+len(pattern) > mbox.MaxNameLen {
		return ok("Completed")
	}
	p := mbox.CompilePattern(ref, pattern, s.view.Separator())
	l := &listing{word: "LSUB", patterns: []mbox.Pattern{p}, recursive: p.Levels()}
	if err := s.upToDate(); err != nil {
		return err
	}
	subs, err := s.subscriptions()
	if err != nil {
		return err
	}
	out := &lister{s: s, l: l}
	for _, item := range s.subscribed(l, subs) {
		if !item.sub {
			// Only something below it is subscribed.
			item.entry.State = mbox.Absent
		}
		item.childSub = false
		out.add(item)
	}
	out.send()
	return ok("Completed")
}
