package imap

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"murder/internal/mbox"
)

// serverEntry is the one annotation that the map itself can answer.
const serverEntry = "/shared/vendor/cmu/cyrus-imapd/server"

// getMetadata executes GETMETADATA (RFC 5464): each mailbox's backend is asked. Cyrus also takes a
// list of mailboxes, which may lie on several.
func (s *session) getMetadata(c *command) error {
	if err := s.readWhole(c); err != nil {
		return err
	}
	options, mailboxes, err := metadataTarget(c)
	if err != nil {
		return err
	}
	entries := string(c.rest())
	if !strings.HasPrefix(entries, " ") {
		return fmt.Errorf("%w: entries are missing", errSyntax)
	}
	fromMap := strings.EqualFold(strings.Trim(entries, ` ()"`), serverEntry)
	var first error
	long := int64(0)
	for _, ext := range mailboxes {
		if ext == "" {
			continue // server entries: nothing that clients may see is kept here
		}
		e, err := s.resolve(ext)
		if err == nil && !s.visible(e) {
			err = errNoMailbox
		}
		if err == nil && fromMap {
			s.writeRaw([]byte("* METADATA " + s.nameString(ext) + " (" + quote(serverEntry) + " " + quote(string(e.Location.Server())) + ")\r\n"))
			continue
		}
		var x *exchange
		if err == nil {
			x = &exchange{stall: s.cfg.Limits.BackendReply}
			err = s.ask(e.Location.Server(), true, x, func(tag string) []byte {
				raw := appendName([]byte(tag+" GETMETADATA"+options), ext)
				return append(append(raw, entries...), "\r\n"...)
			})
		}
		if err == nil {
			st, code, text := condition(x.tagged)
			if st == statusOK {
				if n, ok := strings.CutPrefix(code, "METADATA LONGENTRIES "); ok {
					long = max(long, number(n)) // the longest of all
				}
				continue
			}
			err = &result{[...]string{"BAD", "NO"}[st], code, text}
		}
		if first == nil {
			first = err
		}
	}
	if first != nil {
		return first
	}
	if long > 0 {
		return okCode("METADATA LONGENTRIES "+strconv.FormatInt(long, 10), "Completed")
	}
	return ok("Completed")
}

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
	start := time.Now()
	if err := s.readWhole(c); err != nil {
		return err
	}
	ext, err := c.arg()
	if err != nil {
		return err
	}
	if ext == "" {
		return errPermission // server entries belong to each server's own configuration
	}
	x, err := s.atPlace(ext, func(e mbox.Entry) (*exchange, error) {
		if !s.visible(e) {
			return nil, errNoMailbox
		}
		return s.pass(e.Location.Server(), c)
	})
	if err != nil {
		return err
	}
	s.special.forget()
	return s.tagged(c, x, start)
}
