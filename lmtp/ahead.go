package lmtp

import (
	"context"
	"io"
	"time"

	"murder/internal/mbox"
)

// Backends are told of a message while the client is still at it, which saves the time that they take for its
// envelope: of the sender and the first recipient once he has been accepted, of the rest at DATA. That is done only for
// clients whose last message came at once, over connections that are there unused, and for a while only: slow clients
// hold no backend.
const (
	// swiftMessage is how long a message may take to count as one that came at once.
	swiftMessage = 100 * time.Millisecond
	// aheadBackends is how many are told of a message at most.
	aheadBackends = 4
)

// tells reports whether backends are told ahead.
func (ss *session) tells() bool { return ss.swift && !ss.cfg.CheckAtBackend }

// told reports whether a backend waits for what the client says next.
func (ss *session) told() bool { return ss.tx != nil && len(ss.tx.holds) > 0 && !ss.cfg.CheckAtBackend }

// ahead is how much longer backends that have been told wait. What the client says meanwhile gives it no more time.
func (ss *session) ahead() time.Duration { return ss.cfg.Limits.Ahead - time.Since(ss.tx.since) }

// tellFirst tells the backend of the first recipient, unless the client has sent more already: then it is soon told of
// everything in one piece.
func (ss *session) tellFirst() {
	if rcpts := ss.tx.rcpts; len(rcpts) == 1 && ss.tells() && ss.in.Buffered() == 0 && ss.flush() == nil {
		ss.tell(rcpts[0].route.Server, rcpts)
	}
}

// tellAll tells the backends of all recipients and of the message to come.
func (ss *session) tellAll() {
	if !ss.tells() {
		return
	}
	groups := make(map[mbox.Server][]*recipient, 1)
	for _, rc := range ss.tx.rcpts {
		groups[rc.route.Server] = append(groups[rc.route.Server], rc)
	}
	if len(groups) > aheadBackends || len(ss.tx.rcpts) > flight-3 || ss.flush() != nil {
		ss.tx.release()
		return
	}
	for server, rcpts := range groups {
		ss.tell(server, rcpts, "DATA")
	}
}

// tell sends a backend what it does not know yet of its recipients, and more. The replies are left for the delivery.
func (ss *session) tell(server mbox.Server, rcpts []*recipient, more ...string) {
	h := ss.tx.holds[server]
	var commands []string
	if h == nil {
		p := ss.srv.pools.of(server)
		c := p.spare()
		switch {
		case c == nil:
			return
		case !c.pipelining:
			p.put(c)
			return
		}
		h = &hold{pool: p, c: c, ahead: true}
		ss.tx.hold(server, h)
		commands = c.envelope(&ss.tx.envelope, c.announced(ss.tx.size), rcpts)
	} else {
		for _, rc := range rcpts[len(h.rcpts):] {
			commands = append(commands, h.c.rcpt(rc))
		}
	}
	for _, rc := range rcpts[len(h.rcpts):] {
		h.add(rc)
	}
	commands = append(commands, more...)
	h.unread, h.data = h.unread+len(commands), len(more) > 0
	if h.c.send(commands, ss.cfg.Limits.Envelope) != nil {
		delete(ss.tx.holds, server)
		h.pool.drop(h.c)
	}
}

// giveBack makes a connection useful to others again on which nothing will be delivered. Its replies are read first,
// whatever they say: RSET comes before the next envelope. One that waits for a message can only be closed: the
// backend stores nothing then.
func (h *hold) giveBack() {
	if h.data {
		h.pool.drop(h.c)
		return
	}
	stop := context.AfterFunc(h.pool.ctx, func() { h.c.conn.Close() })
	defer stop()
	_, err := h.c.replies(0, h.unread, h.pool.cfg.Limits.Envelope, func(_ int, rep reply) error {
		if rep.code == 421 {
			return io.EOF
		}
		return nil
	})
	if err != nil {
		h.pool.drop(h.c)
	} else {
		h.pool.put(h.c)
	}
}
