package imap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"murder/internal/mbox"
)

const (
	maxSearched = 1000 // mailboxes of one ESEARCH
	searchers   = 4    // backends that are asked at a time
)

// esearch executes ESEARCH (RFC 7377): each mailbox is opened read-only on a connection of its own, so
// that the client's selected mailbox is left alone.
func (s *session) esearch(c *command) error {
	list, criteria, err := s.searchSources(c)
	if err != nil {
		return err
	}
	groups := make(map[mbox.Server][]listed)
	for _, item := range list {
		server := item.entry.Location.Server()
		groups[server] = append(groups[server], item)
	}
	var work sync.WaitGroup
	var mu sync.Mutex
	var first error
	slots := make(chan struct{}, searchers)
	for server, items := range groups {
		slots <- struct{}{}
		work.Go(func() {
			defer func() { <-slots }()
			defer s.guard("search")
			if err := s.searchAt(c.tag, server, items, criteria); err != nil {
				mu.Lock()
				defer mu.Unlock()
				if first == nil || !isDown(err) {
					first = err
				}
			}
		})
	}
	work.Wait()
	if first != nil {
		return first
	}
	return ok("Completed")
}

// searchAt searches mailboxes at one server and sends the results.
func (s *session) searchAt(tag string, server mbox.Server, items []listed, criteria []byte) error {
	so, err := s.aside(server)
	if err != nil {
		return err
	}
	defer so.close()
	for _, item := range items {
		validity, err := so.examine(string(item.ext))
		var refused *refusedError
		if errors.As(err, &refused) {
			continue // gone or forbidden meanwhile: not among the mailboxes to be searched
		}
		if err != nil {
			return err
		}
		so.nc.SetDeadline(time.Now().Add(s.cfg.Limits.BackendStall))
		untagged, err := so.ask("UID SEARCH " + string(criteria))
		if errors.As(err, &refused) {
			return &result{refused.status.String(), refused.code, refused.text}
		}
		if err != nil {
			return err
		}
		for _, line := range untagged {
			// "* ESEARCH (TAG "ours") UID ALL 1:3"; without a match nothing is to be said.
			_, found, ok := strings.Cut(line, ")")
			if !strings.HasPrefix(line, "* ESEARCH ") || !ok || strings.TrimSpace(found) == "UID" || strings.TrimSpace(found) == "" {
				continue
			}
			s.writeRaw([]byte("* ESEARCH (TAG " + quote(tag) + " MAILBOX " + s.nameString(string(item.ext)) +
				" UIDVALIDITY " + validity + ")" + found + "\r\n"))
		}
	}
	return nil
}

// aside opens a connection that is signed on as the user and belongs to one command only.
func (s *session) aside(server mbox.Server) (*signOn, error) {
	so, err := s.signOn(server)
	if err != nil {
		return nil, err
	}
	so.nc.SetDeadline(time.Now().Add(s.cfg.Limits.BackendReply))
	if so.hello != "" && so.caps.has("ID") {
		_, err = so.ask(so.hello)
	}
	if err == nil {
		err = so.enable(s.enabled)
	}
	if err == nil {
		err = s.checkNamespace(so)
	}
	if err != nil {
		so.nc.Close()
		return nil, err
	}
	so.unhook = context.AfterFunc(s.ctx, func() { so.nc.Close() })
	return so, nil
}

// close ends a connection that aside has opened.
func (so *signOn) close() {
	so.unhook()
	so.nc.Close()
}

// examine opens a mailbox read-only and returns its UIDVALIDITY.
func (so *signOn) examine(ext string) (validity string, err error) {
	untagged, err := so.ask(string(appendName([]byte("EXAMINE"), ext)))
	for _, line := range untagged {
		if _, code, _ := condition([]byte(line)); codeName(code) == "UIDVALIDITY" {
			validity = strings.TrimPrefix(code[len("UIDVALIDITY"):], " ")
		}
	}
	return validity, err
}

// searchSources reads "[IN (source...)] [RETURN (...)] criteria" and finds the mailboxes meant that the
// user may read.
func (s *session) searchSources(c *command) (list []listed, criteria []byte, err error) {
	if !c.eat(' ') {
		return nil, nil, fmt.Errorf("%w: criteria are missing", errSyntax)
	}
	found := make(map[mbox.Extern]bool)
	add := func(item listed) bool {
		if item.entry.State == mbox.Active && !found[item.ext] && !special(item.entry.Name) &&
			(s.admin || s.rights(item.entry).Has(mbox.Lookup|mbox.Read)) {
			found[item.ext] = true
			list = append(list, item)
		}
		return len(list) <= maxSearched
	}
	source := []byte("(selected)")
	if hasPrefixFold(c.rest(), "IN ") {
		c.pos += len("IN ")
		start := c.pos
		if c.next() != '(' {
			return nil, nil, fmt.Errorf("%w: a list of sources is missing", errSyntax)
		}
		if err := c.skipList(0); err != nil {
			return nil, nil, err
		}
		source = c.b[start:c.pos]
		if !c.eat(' ') {
			return nil, nil, fmt.Errorf("%w: criteria are missing", errSyntax)
		}
	}
	if err := s.upToDate(); err != nil {
		return nil, nil, err
	}
	p := parser{b: source}
	words, err := p.list()
	if err != nil {
		return nil, nil, err
	}
	for i := 0; i < len(words); {
		kind := strings.ToLower(words[i])
		i++
		var names []string
		switch kind {
		case "mailboxes", "subtree", "subtree-one":
			for ; i < len(words) && !slices.Contains(sourceWords, strings.ToLower(words[i])); i++ {
				if !strings.HasPrefix(words[i], "(") {
					names = append(names, words[i])
					continue
				}
				inner := parser{b: []byte(words[i])}
				more, err := inner.list()
				if err != nil {
					return nil, nil, err
				}
				names = append(names, more...)
			}
			if len(names) == 0 {
				return nil, nil, fmt.Errorf("%w: a mailbox is missing", errSyntax)
			}
		}
		if err := s.searchSource(kind, names, add); err != nil {
			return nil, nil, err
		}
	}
	if len(list) > maxSearched {
		return nil, nil, no("LIMIT", "Too many mailboxes in one search")
	}
	criteria = c.rest()
	if !hasPrefixFold(criteria, "RETURN ") {
		criteria = append([]byte("RETURN (ALL) "), criteria...)
	} else if options, _, _ := bytes.Cut(criteria, []byte(")")); bytes.Contains(bytes.ToUpper(options), []byte("SAVE")) {
		return nil, nil, bad("SAVE is for one mailbox only")
	}
	return list, criteria, nil
}

var sourceWords = []string{"selected", "selected-delayed", "inboxes", "personal", "subscribed", "subtree", "subtree-one", "mailboxes"}

// searchSource adds the mailboxes of one source (RFC 5465 section 6).
func (s *session) searchSource(kind string, names []string, add func(listed) bool) error {
	sep := s.view.Separator()
	all := &listing{patterns: []mbox.Pattern{mbox.CompilePattern("", "*", sep)}}
	switch kind {
	case "selected", "selected-delayed":
		if s.sel == nil {
			return errNotSelected
		}
		names = []string{s.selExt}
		fallthrough
	case "mailboxes":
		for _, ext := range names {
			if item := s.lookAt(mbox.Extern(ext)); s.admin || item.entry.State == mbox.Active {
				add(item)
			}
		}
	case "inboxes":
		add(s.lookAt("INBOX"))
	case "personal":
		return s.walk(all, func(item listed) bool { return !s.view.Owns(item.entry.Name) || add(item) })
	case "subscribed":
		subs, err := s.subscriptions()
		if err != nil {
			return err
		}
		for _, item := range s.subscribed(all, subs) {
			add(item)
		}
	case "subtree", "subtree-one":
		wild := map[string]string{"subtree": "*", "subtree-one": "%"}[kind]
		for _, ext := range names {
			add(s.lookAt(mbox.Extern(ext)))
			l := &listing{patterns: []mbox.Pattern{mbox.CompilePattern("", ext+string(sep)+wild, sep)}}
			if err := s.walk(l, add); err != nil {
				return err
			}
		}
	default:
		return fmt.Errorf("%w: unknown source of a search", errSyntax)
	}
	return nil
}
