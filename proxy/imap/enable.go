package imap

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/flate"

	"murder/internal/inflate"
)

// known are the extensions that ENABLE can turn on. Others are ignored (RFC 5161 section 3.1).
var known = []string{"CONDSTORE", "QRESYNC", "UTF8=ACCEPT"}

// enable executes ENABLE: at every backend that is open now, and at those opened later (see open).
// The answer is ours, once, whatever they say.
func (s *session) enable(c *command) error {
	names := strings.Fields(strings.ToUpper(string(c.rest())))
	if len(names) == 0 {
		return bad("ENABLE needs an extension")
	}
	var added []string
	for _, name := range names {
		if slices.Contains(known, name) && s.promised.has(name) && !slices.Contains(s.enabled, name) && !slices.Contains(added, name) {
			added = append(added, name)
		}
	}
	if len(added) > 0 {
		s.enabled = append(s.enabled, added...)
		for _, b := range s.conns {
			if err := s.enableAt(b); err != nil {
				if b == s.sel {
					return err
				}
				s.drop(b)
			}
		}
		if slices.Contains(added, "UTF8=ACCEPT") {
			s.view = s.cfg.Namespace.View(s.user, s.admin, true)
		}
	}
	if err := s.say(strings.TrimRight("* ENABLED "+strings.Join(added, " "), " ") + "\r\n"); err != nil {
		return err
	}
	return ok("Completed")
}

// enableAt brings a connection up to date with what the session has enabled.
func (s *session) enableAt(b *conn) error {
	if b.enabled == len(s.enabled) {
		return nil
	}
	names := s.enabled[b.enabled:]
	got := make(capSet)
	x := &exchange{stall: s.cfg.Limits.BackendReply, quiet: b != s.sel, all: b == s.sel, take: func(line []byte) bool {
		rest, ok := strings.CutPrefix(strings.ToUpper(string(line)), "* ENABLED")
		if ok {
			got = parseCaps(rest)
		}
		return ok
	}}
	err := b.do(x, func(tag string) []byte { return []byte(tag + " ENABLE " + strings.Join(names, " ") + "\r\n") })
	if err == nil {
		err = enabledAll(names, got)
	}
	if err == nil {
		b.enabled = len(s.enabled)
	}
	return err
}

// compress executes COMPRESS DEFLATE (RFC 4978) on the client's side; the backends' sides are not
// concerned.
func (s *session) compress(c *command) error {
	args, err := c.exactly(1)
	if err != nil {
		return err
	}
	if !strings.EqualFold(args[0], "DEFLATE") {
		return bad("Unknown compression")
	}
	if s.deflated {
		return no("COMPRESSIONACTIVE", "DEFLATE is active already")
	}
	// A flush is several writes of the compressor's, but one packet.
	packet := bufio.NewWriter(s.conn)
	w, err := flate.NewWriter(packet, flate.BestSpeed)
	if err != nil {
		return err
	}
	// Whatever anybody says after this answer is compressed.
	s.out.Lock()
	s.out.puts(c.tag + " OK DEFLATE active\r\n")
	err = s.out.flush()
	s.out.dst, s.out.after = w, func() error { return errors.Join(w.Flush(), packet.Flush()) }
	s.out.Unlock()
	if err != nil {
		return fmt.Errorf("%w: %w", errClient, err)
	}
	s.srv.metrics.command(c, "OK", "")
	s.deflated = true
	s.inflate()
	return nil
}

// inflate puts a goroutine that decompresses between the connection and the session. The session waits
// on a pipe, because a decompressor whose read has ended by a deadline is of no use any more.
func (s *session) inflate() {
	near, far := net.Pipe()
	s.sock.SetReadDeadline(time.Time{}) // before the goroutine reads: one may be over
	s.pumps.Go(func() {
		defer s.guard("inflate")
		defer far.Close()
		io.Copy(far, inflate.NewReader(s.conn))
	})
	total := s.in.total
	s.in.release()
	s.in = s.newReader(near)
	s.in.total = total
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clear, s.deadline = near, time.Time{}
}
