package imap

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"murder/internal/mbox"
)

// serverEntry is the one annotation that the map itself can answer.
const serverEntry = "/shared/vendor/cmu/cyrus-imapd/server"

// getMetadata executes GETMETADATA (RFC 5464): each mailbox's backend is asked. Cyrus also takes a
// list of mailboxes, which may lie on several.
func (s *session) getMetadata(c *command) error {
	options, mailboxes, err := metadataTarget(c)
	if err != nil {
		return err
	}
	entries := string(c.rest())
	if !strings.HasPrefix(entries, " ") {
		return fmt.Errorf("%w: entries are missing", errSyntax)
	}
	targets, first := s.metadataMailboxes(mailboxes)
	fromMap := strings.EqualFold(strings.Trim(entries, ` ()"`), serverEntry)
	long := int64(0)
	for len(targets) > 0 {
		n := min(len(targets), batch)
		asked := make([]*question, n)
		for i, t := range targets[:n] {
			server := t.entry.Location.Server()
			if fromMap {
				s.writeRaw([]byte("* METADATA " + s.nameString(string(t.ext)) + " (" + quote(serverEntry) + " " + quote(string(server)) + ")\r\n"))
			} else if asked[i], err = s.question(server, "GETMETADATA"+options, t.ext, entries[1:], "METADATA"); err != nil && first == nil {
				first = err
			}
		}
		s.flushAll()
		for _, q := range asked {
			if q == nil {
				continue
			}
			<-q.x.done
			s.writeRaw(q.lines)
			st, code, _ := condition(q.x.tagged)
			if n, ok := strings.CutPrefix(code, "METADATA LONGENTRIES "); ok {
				long = max(long, number(n)) // the longest of all
			}
			switch {
			case first != nil:
			case q.x.err != nil:
				first = q.x.err
			case st != statusOK:
				first = refusalOf(q.x.tagged)
			}
		}
		targets = targets[n:]
	}
	if first != nil {
		return first
	}
	if long > 0 {
		return okCode("METADATA LONGENTRIES "+strconv.FormatInt(long, 10), "Completed")
	}
	return ok("Completed")
}

// metadataMailboxes finds the mailboxes meant by names and, as Cyrus allows, patterns. It returns
// those there are, and the first error. An empty name stands for the server: nothing that clients
// may see is kept here.
func (s *session) metadataMailboxes(names []string) (list []listed, first error) {
	l := &listing{}
	for _, ext := range names {
		if strings.ContainsAny(ext, "*%") {
			l.patterns = append(l.patterns, mbox.CompilePattern("", ext, s.view.Separator()))
			continue
		}
		if ext == "" {
			continue
		}
		e, err := s.resolve(ext)
		if err == nil {
			e, err = s.allowed(e, s.shown)
		}
		if err == nil {
			list = append(list, listed{ext: mbox.Extern(ext), entry: e})
		} else if first == nil {
			first = err
		}
	}
	if len(l.patterns) > 0 {
		if err := s.upToDate(); err != nil {
			return nil, err
		}
		err := s.walk(l, func(item listed) bool {
			if item.entry.State == mbox.Active {
				list = append(list, item)
			}
			return len(list) <= maxMetadata
		})
		if err != nil {
			return nil, err
		}
	}
	if len(list) > maxMetadata {
		return nil, no("LIMIT", "Too many mailboxes in one command")
	}
	return list, first
}

// maxMetadata bounds the mailboxes of one GETMETADATA.
const maxMetadata = 10_000

// metadataTarget reads the options, as they are, and the mailboxes of GETMETADATA.
func metadataTarget(c *command) (options string, mailboxes []string, err error) {
	if !c.eat(' ') {
		return "", nil, fmt.Errorf("%w: a mailbox is missing", errSyntax)
	}
	if c.next() == '(' {
		start := c.pos
		items, err := c.list()
		if err != nil {
			return "", nil, err
		}
		if len(items) == 0 || !slices.Contains([]string{"MAXSIZE", "DEPTH"}, strings.ToUpper(items[0])) {
			return "", items, nil
		}
		options = " " + string(c.b[start:c.pos])
		if !c.eat(' ') {
			return "", nil, fmt.Errorf("%w: a mailbox is missing", errSyntax)
		}
	}
	if c.next() == '(' {
		mailboxes, err = c.list()
		return options, mailboxes, err
	}
	one, err := c.astring(true)
	return options, []string{one}, err
}

// setMetadata executes SETMETADATA at the mailbox's backend.
func (s *session) setMetadata(c *command) error {
	ext, err := c.mailbox()
	if err != nil {
		return err
	}
	if ext == "" {
		return errPermission // server entries belong to each server's own configuration
	}
	x, err := s.atPlace(ext, func(e mbox.Entry) (*exchange, error) {
		e, err := s.allowed(e, s.shown)
		if err != nil {
			return nil, err
		}
		return s.pass(e.Location.Server(), c)
	})
	if err != nil {
		return err
	}
	s.special.forget()
	return s.tagged(c, x)
}
