package imap

import (
	"bytes"
	"errors"
	"slices"
	"time"
)

// relay passes a command about messages on to the backend of the selected mailbox, literals and all, and returns
// before the answer, which the pump relays. Commands that the client has sent in one piece go on in one piece: the last
// of them is sent when the driver waits (see push).
func (s *session) relay(c *command) error {
	s.noteCondstore(c.line)
	b := s.sel
	b.room()
	x := &exchange{tag: c.tag, all: true, relayMore: true, finish: func(st status) {
		s.srv.metrics.command(c, st.String(), "")
		s.srv.metrics.atBackend(b.server, st)
	}}
	if c.open {
		x.more = make(chan struct{}, 1)
	}
	if err := b.begin(x); err != nil {
		return s.refuseLiteral(c, errBackendDown)
	}
	return s.stream(c, b, x, c.line)
}

// noteCondstore remembers that a command turns CONDSTORE on (RFC 7162 section 3.1), so that a
// backend opened later is told.
func (s *session) noteCondstore(line []byte) {
	if !s.promised.has("CONDSTORE") || slices.Contains(s.enabled, "CONDSTORE") || slices.Contains(s.enabled, "QRESYNC") {
		return
	}
	upper := bytes.ToUpper(line[:min(len(line), 4096)])
	for _, word := range []string{"CONDSTORE", "MODSEQ", "CHANGEDSINCE", "UNCHANGEDSINCE"} {
		if bytes.Contains(upper, []byte(word)) {
			s.enabled = append(s.enabled, "CONDSTORE")
			return
		}
	}
}

// stream queues a command whose first line is head for b while it arrives from the client. A
// synchronising literal waits for the backend's consent, which the pump relays; if the backend
// refuses instead, the client does not send the rest of its command. When the backend is lost, what
// the client still sends of this command is dropped. The error is about the client only.
func (s *session) stream(c *command, b *conn, x *exchange, head []byte) error {
	err := s.streamOn(c, b, x, head)
	if err == error(errTooBig) {
		return s.giveUp(c, b, x, err)
	}
	return err
}

// streamOn is stream from the line text on. No line goes to b that announces a message beyond our limit.
func (s *session) streamOn(c *command, b *conn, x *exchange, text []byte) error {
	for {
		if c.verb.stream && s.tooBig(c) {
			return errTooBig
		}
		b.out.put(text)
		b.out.put([]byte("\r\n"))
		if !c.open {
			return nil
		}
		if !c.lit.NonSync {
			if b.out.flush() != nil {
				c.open = false // nobody grants the literal now
				return nil
			}
			if !x.granted() {
				c.open = false
				return nil
			}
		}
		if err := s.copyLiteral(c, b); err != nil {
			return err
		}
		text = s.buf
	}
}

// copyLiteral passes the next literal, which has been granted, to b as it arrives, and reads the line
// behind it into s.buf. The error is about the client only.
func (s *session) copyLiteral(c *command, b *conn) error {
	left := c.lit.Size
	var armed time.Time
	arm := func() {
		armed = time.Now()
		s.allow(s.cfg.Limits.Idle)
	}
	s.in.wait = func() { // within the line behind it too
		arm()
		b.out.flush()
	}
	defer func() { s.in.wait = nil }()
	err := s.in.copyN(c.lit.Size, func(p []byte) error {
		// A lost backend is found out at the end, unless that is far away.
		if b.out.put(p) != nil && left > maxSwallow {
			return errFlood
		}
		left -= int64(len(p))
		// Neither is silent: the client sends, and the backend cannot answer yet.
		b.extend()
		if time.Since(armed) > time.Second {
			arm()
		}
		return nil
	})
	if err != nil {
		// The backend must never see a complete command that the client has not sent.
		b.nc.Close()
		return errors.Join(errClient, err)
	}
	if s.buf, err = s.nextLine(s.buf[:0], c); err != nil {
		b.nc.Close()
	}
	return err
}
