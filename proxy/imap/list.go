package imap

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"murder/internal/mbox"
)

// listing is a LIST command (RFC 5258, RFC 5819, RFC 6154, RFC 8440, RFC 9590), read.
type listing struct {
	word      string // LIST or XLIST, in the answer
	patterns  []mbox.Pattern
	extended  bool
	onlySub   bool // select SUBSCRIBED
	recursive bool // select RECURSIVEMATCH
	onlyUse   bool // select SPECIAL-USE
	children  bool
	subs      bool
	use       bool
	rights    bool
	status    string // items with parentheses, "" for none
	metadata  string // entries with parentheses, "" for none
}

// listed is one line of an answer.
type listed struct {
	ext      mbox.Extern
	entry    mbox.Entry // State Absent for a level that is no mailbox
	children bool
	sub      bool
	childSub bool // CHILDINFO ("SUBSCRIBED")
	use      string
}

// list executes LIST and RLIST. The map alone decides which names there are, their order and their
// children; backends are asked only for what it does not hold.
func (s *session) list(c *command) error {
	l, err := s.parseList(c)
	if err != nil {
		return err
	}
	if l == nil {
		return s.answerSeparator("LIST")
	}
	return s.answerList(l)
}

// xlist executes XLIST, which some old clients prefer: LIST with special-use flags.
func (s *session) xlist(c *command) error {
	l, err := s.parseList(c)
	if err != nil {
		return err
	}
	if l == nil {
		return s.answerSeparator("XLIST")
	}
	l.word, l.use = "XLIST", true
	return s.answerList(l)
}

// answerSeparator answers a LIST of the empty pattern, which asks for the separator.
func (s *session) answerSeparator(word string) error {
	s.writeRaw([]byte("* " + word + ` (\Noselect) ` + quote(string(s.view.Separator())) + ` ""` + "\r\n"))
	return ok("Completed")
}

// parseList reads the arguments; nil stands for the question for the separator.
func (s *session) parseList(c *command) (*listing, error) {
	l := &listing{word: "LIST", use: s.cfg.SpecialUse}
	if !c.eat(' ') {
		return nil, fmt.Errorf("%w: a reference is missing", errSyntax)
	}
	if c.next() == '(' {
		l.extended = true
		options, err := c.list()
		if err != nil {
			return nil, err
		}
		for _, o := range options {
			switch strings.ToUpper(o) {
			case "SUBSCRIBED":
				l.onlySub, l.subs = true, true
			case "RECURSIVEMATCH":
				l.recursive = true
			case "SPECIAL-USE":
				l.onlyUse, l.use = true, true
			case "REMOTE": // there is no other kind
			default:
				return nil, fmt.Errorf("%w: unknown selection option", errSyntax)
			}
		}
		if l.recursive && !l.onlySub && !l.onlyUse {
			return nil, fmt.Errorf("%w: RECURSIVEMATCH needs another option", errSyntax)
		}
		if !c.eat(' ') {
			return nil, fmt.Errorf("%w: a reference is missing", errSyntax)
		}
	}
	ref, err := c.astring(true)
	if err != nil {
		return nil, err
	}
	if !c.eat(' ') {
		return nil, fmt.Errorf("%w: a pattern is missing", errSyntax)
	}
	var patterns []string
	if c.next() == '(' {
		l.extended = true
		if patterns, err = c.list(); err == nil && len(patterns) == 0 {
			err = fmt.Errorf("%w: a pattern is missing", errSyntax)
		}
	} else {
		var one string
		one, err = c.astring(true)
		patterns = []string{one}
	}
	if err != nil {
		return nil, err
	}
	if err := l.parseReturn(c); err != nil {
		return nil, err
	}
	if len(patterns) == 1 && patterns[0] == "" && !l.extended {
		return nil, nil
	}
	if len(patterns) > 100 {
		return nil, no("LIMIT", "Too many patterns")
	}
	for _, p := range patterns {
		if len(ref)+len(p) <= mbox.MaxNameLen {
			l.patterns = append(l.patterns, mbox.CompilePattern(ref, p, s.view.Separator()))
		}
	}
	return l, nil
}

func (l *listing) parseReturn(c *command) error {
	if !c.eat(' ') {
		return c.finish()
	}
	word, err := c.astring(false)
	if err != nil || !strings.EqualFold(word, "RETURN") || !c.eat(' ') {
		return fmt.Errorf("%w: RETURN expected", errSyntax)
	}
	l.extended = true
	options, err := c.list()
	if err != nil {
		return err
	}
	for i := 0; i < len(options); i++ {
		switch strings.ToUpper(options[i]) {
		case "CHILDREN":
			l.children = true
		case "SUBSCRIBED":
			l.subs = true
		case "SPECIAL-USE":
			l.use = true
		case "MYRIGHTS":
			l.rights = true
		case "STATUS", "METADATA":
			which := &l.status
			if strings.EqualFold(options[i], "METADATA") { // RFC 9590
				which = &l.metadata
			}
			if i++; i == len(options) || !strings.HasPrefix(options[i], "(") || options[i] == "()" {
				return fmt.Errorf("%w: STATUS and METADATA need a list", errSyntax)
			}
			*which = options[i]
		default:
			return fmt.Errorf("%w: unknown return option", errSyntax)
		}
	}
	return c.finish()
}

// answerList gathers and sends the lines.
func (s *session) answerList(l *listing) error {
	if err := s.upToDate(); err != nil {
		return err
	}
	var subs map[mbox.Extern]bool
	if l.subs {
		var err error
		if subs, err = s.subscriptions(); err != nil {
			return err // an empty or partial list would make clients forget folders
		}
	}
	out := &lister{s: s, l: l, subs: subs}
	if l.onlySub {
		for _, item := range s.subscribed(l, subs) {
			out.add(item)
		}
	} else {
		if err := s.walk(l, func(item listed) bool { return out.add(item) }); err != nil {
			return err
		}
	}
	out.send()
	switch {
	case out.err != nil:
		return fmt.Errorf("%w: %w", errClient, out.err)
	case out.down == nil:
		return ok("Completed")
	case l.onlyUse:
		return no("UNAVAILABLE", "Some servers are not available: there may be more") // lest a client make a second Sent
	}
	s.writeRaw([]byte("* NO [UNAVAILABLE] Some servers are not available, their part of the answer is missing\r\n"))
	return ok("Completed")
}

func (l *listing) matches(ext mbox.Extern) bool {
	for _, p := range l.patterns {
		if p.Match(ext) {
			return true
		}
	}
	return false
}

// level reports whether ext is asked for as a level of hierarchy.
func (l *listing) level(ext mbox.Extern) bool {
	for _, p := range l.patterns {
		if p.Levels() && p.Match(ext) {
			return true
		}
	}
	return false
}

// walk yields the lines for all visible mailboxes that match, with children known, and for "%" the
// levels between them that are no mailboxes themselves. It fails before the first line or not at all.
func (s *session) walk(l *listing, yield func(listed) bool) error {
	sep := s.view.Separator()
	var last listed // seen, not yielded: its children come next, if it has any
	have, on := false, true
	err := s.eachVisible(l, func(item listed) bool {
		if have {
			last.children = s.below(item.ext, last.ext)
			if l.matches(last.ext) {
				on = yield(last)
			}
		}
		// Levels above this name that the previous one did not share.
		path, domain := s.cut(item.ext)
		for i := 0; on && i < len(path); i++ {
			if path[i] != sep {
				continue
			}
			above := path[:i] + domain
			if have && (last.ext == above || s.below(last.ext, above)) {
				continue
			}
			if l.level(above) {
				on = yield(listed{ext: above, children: true})
			}
		}
		last, have = item, true
		return on
	})
	if have && on && l.matches(last.ext) {
		yield(last)
	}
	return err
}

// below reports whether a lies below b.
func (s *session) below(a, b mbox.Extern) bool {
	a, domainA := s.cut(a)
	b, domainB := s.cut(b)
	return domainA == domainB && len(a) > len(b) && a[:len(b)] == b && a[len(b)] == s.view.Separator()
}

// cut splits a name into its path and the "@domain" that administrators see behind it.
func (s *session) cut(ext mbox.Extern) (path, domain mbox.Extern) {
	if s.admin && s.cfg.Namespace.Virtual {
		if i := strings.LastIndexByte(string(ext), '@'); i > strings.LastIndexByte(string(ext), s.view.Separator()) {
			return ext[:i], ext[i:]
		}
	}
	return ext, ""
}

// eachVisible yields what the user may see, parents before and next to their children.
func (s *session) eachVisible(l *listing, yield func(listed) bool) error {
	view := s.cfg.Directory.View()
	if s.admin {
		var from mbox.Name
		if len(l.patterns) == 1 {
			from = s.view.ScanFrom(l.patterns[0])
		}
		view.Ascend(from, func(e mbox.Entry) bool {
			if !strings.HasPrefix(string(e.Name), string(from)) {
				return false
			}
			if !listable(e) {
				return true
			}
			ext, ok := s.view.External(e.Name)
			return !ok || yield(listed{ext: ext, entry: e})
		})
		return nil
	}
	names, err := s.letIn(l, view)
	if err != nil {
		return err
	}
	see := func(e mbox.Entry) (listed, bool) {
		// A mailbox being moved has no ACL for a while; it was visible before, or it would not be
		// looked at here.
		moving := e.Transfer && e.ACL == ""
		if !listable(e) || special(e.Name) || !moving && !s.rights(e).Has(mbox.Lookup) {
			return listed{}, false
		}
		ext, ok := s.view.External(e.Name)
		return listed{ext: ext, entry: e}, ok
	}
	// In the order of class.
	var own []listed
	mbox.Subtree(view, s.view.Inbox(), func(e mbox.Entry) bool {
		if item, ok := see(e); ok {
			own = append(own, item)
		}
		return true
	})
	slices.SortStableFunc(own, func(a, b listed) int { return s.class(a.ext) - s.class(b.ext) })
	for _, item := range own {
		if !yield(item) {
			return nil
		}
	}
	for _, users := range []bool{true, false} {
		each(view, names, func(e mbox.Entry) bool {
			if _, owned := s.cfg.Namespace.Owner(e.Name); owned != users || s.view.Owns(e.Name) {
				return true
			}
			item, ok := see(e)
			return !ok || yield(item)
		})
	}
	return nil
}

// each yields those of names, which are sorted, that are in the map. Often many are next to one another there.
func each(view mbox.View, names []mbox.Name, yield func(mbox.Entry) bool) {
	for on := true; on && len(names) > 0; {
		gone := true
		view.Ascend(names[0], func(e mbox.Entry) bool {
			if e.Name != names[0] {
				return false
			}
			names, gone = names[1:], false
			on = yield(e)
			return on && len(names) > 0
		})
		if gone {
			names = names[1:]
		}
	}
}

// personal reports whether no pattern can match beyond the user's own mailboxes.
func (l *listing) personal(s *session) bool {
	for _, p := range l.patterns {
		prefix := p.Prefix()
		if len(prefix) < 6 || !strings.EqualFold(prefix[:5], "INBOX") || prefix[5] != s.view.Separator() {
			return false
		}
	}
	return true
}

// grantsLimit is how long LIST waits for the tables of who is let in where. They are behind the map for a moment
// after a change, and for seconds after the start of a frontend whose map is large.
const grantsLimit = 20 * time.Second

// letIn returns the mailboxes of others that may be visible to the user, in the order of the map.
func (s *session) letIn(l *listing, view mbox.View) ([]mbox.Name, error) {
	if l.personal(s) {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(s.ctx, grantsLimit)
	defer cancel()
	if !s.srv.follow.reach(ctx, view.Index()) {
		return nil, no("UNAVAILABLE", "The list of shared mailboxes is not ready yet, try again")
	}
	return s.srv.follow.others(s.user, s.groups), nil
}

// class is the place of a name in an answer: INBOX, what is below it, the user's own, other users', shared.
// Cyrus: the same order.
func (s *session) class(ext mbox.Extern) int {
	other, shared := s.view.Prefixes()
	_, personal := s.view.Personal()
	first, _, _ := strings.Cut(string(ext), string(s.view.Separator()))
	switch {
	case ext == "INBOX":
		return 0
	case first == "INBOX":
		return 1
	case first == other:
		return 3
	case !personal || shared == "" || first == shared:
		return 4
	}
	return 2
}

// listable reports whether a record is a mailbox for listings: one being moved has not gone away,
// one being created is not there yet.
func listable(e mbox.Entry) bool {
	return e.State == mbox.Active || e.State == mbox.Reserved && e.Transfer
}

// special reports whether a mailbox holds something else than mail, which the map can tell by its
// name only. Cyrus: calendarprefix, addressbookprefix and the like.
func special(n mbox.Name) bool {
	_, local := n.Split()
	rest, ok := strings.CutPrefix(string(local), "user.")
	if !ok {
		return false
	}
	_, folder, _ := strings.Cut(rest, ".")
	top, _, _ := strings.Cut(folder, ".")
	return slices.Contains([]string{"#calendars", "#addressbooks", "#drive", "#notifications", "#sieve", "#jmap", "#jmapnotification", "#jmapsubmission", "#jmappushsubscription"}, top)
}
