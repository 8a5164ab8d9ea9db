package imap

import (
	"bytes"
	"fmt"
	"time"

	"murder/internal/mbox"
)

// copyMessages executes COPY, MOVE and their UID forms. Within one server they are relayed.
func (s *session) copyMessages(c *command) error {
	start := time.Now()
	if err := s.readWhole(c); err != nil {
		return err
	}
	set, err := c.arg()
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
		return s.copyAcross(c, set, e, start)
	}
	x := &exchange{tag: c.tag, all: true}
	if err := s.sel.do(x, func(string) []byte { return append(bytes.Clone(c.line), "\r\n"...) }); err != nil {
		return err
	}
	return s.tagged(c, x, start)
}

// isSequenceSet reports whether set is one (RFC 9051 section 9), or "$" (RFC 5182).
func isSequenceSet(set string) bool {
	if set == "$" {
		return true
	}
	for i := 0; i < len(set); i++ {
		if c := set[i]; (c < '0' || c > '9') && c != ':' && c != ',' && c != '*' {
			return false
		}
	}
	return set != ""
}

func (s *session) copyAcross(c *command, set string, to mbox.Entry, start time.Time) error {
	return no("CANNOT", "The destination is on another server")
}
