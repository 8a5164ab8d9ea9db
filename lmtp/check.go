package lmtp

import (
	"context"
	"errors"
	"slices"
	"time"

	"murder/internal/mbox"
)

// hold is a connection to a backend that knows of recipients while the client still talks. What happens
// to it until the message is there costs nothing: the envelope is then sent anew.
type hold struct {
	pool  *pool
	c     *client
	rcpts []*recipient
	paths []string // the addresses under which it knows them

	// For one that has been told ahead:
	ahead  bool // no reply has been read
	unread int  // how many there will be
	data   bool // it waits for the message
}

func (h *hold) add(rc *recipient) {
	h.rcpts = append(h.rcpts, rc)
	h.paths = append(h.paths, rc.route.Path)
}

// fits reports whether the backend knows of exactly these recipients.
func (h *hold) fits(rcpts []*recipient) bool {
	if !slices.Equal(h.rcpts, rcpts) {
		return false
	}
	for i, rc := range rcpts {
		if h.paths[i] != rc.route.Path {
			return false
		}
	}
	return true
}

// ask puts a recipient to his backend and returns its answer. One whom it does not know although the
// map does is looked for again, as at the delivery.
func (ss *session) ask(rc *recipient) reply {
	if ss.flush() != nil { // what has been answered so far need not wait
		ss.over = true
		return replyInternal
	}
	rep := ss.offer(rc)
	if !rep.denies(rc) {
		return rep.passedOn()
	}
	server := rc.route.Server
	route := ss.cfg.Resolver.ResolveFresh(ss.srv.ctx, rc.address, mbox.UserID(ss.tx.poster))
	switch {
	case route.Status == Unknown:
		return ss.srv.replyFor(route)
	case route.Status == Found && route.Server != server:
		rc.moved, rc.route = true, route
		if rep = ss.offer(rc); !rep.denies(rc) {
			return rep.passedOn()
		}
	}
	ss.srv.alertAbsent(ss.log, rc, server, route.Status)
	return replyNotAtBackend
}

// offer sends RCPT to the recipient's backend, in the transaction begun there or a new one.
//
// It never waits for a connection to become free: two transactions could each hold what the other
// waits for. The map's word must do then.
func (ss *session) offer(rc *recipient) reply {
	server := rc.route.Server
	if h := ss.tx.holds[server]; h != nil {
		rep, f := ss.rcptAt(h, rc)
		if f == nil {
			return rep
		}
		ss.log.Warn("backend failed", "backend", string(server), "err", f.err)
		delete(ss.tx.holds, server) // those accepted before get another at the delivery
		h.pool.drop(h.c)
	}
	p := ss.srv.pools.of(server)
	for fresh := false; ; fresh = true {
		c, err := p.get(ss.srv.ctx, fresh, false)
		if errors.Is(err, errBusy) {
			return replyRecipient
		}
		if err != nil {
			ss.log.Warn("backend failed", "backend", string(server), "err", err)
			return asFailure(err).reply
		}
		h := &hold{pool: p, c: c}
		rep, f := ss.rcptAt(h, rc)
		switch {
		case f == nil && len(h.rcpts) == 0: // MAIL or RCPT was refused; RSET at the next use clears up
			p.put(c)
			return rep
		case f == nil:
			ss.tx.hold(server, h)
			return rep
		}
		p.drop(c)
		if fresh || !f.stale && !f.retry {
			ss.log.Warn("backend failed", "backend", string(server), "err", f.err)
			return f.reply
		}
	}
}

// rcptAt asks on a connection, with all that has to come first.
func (ss *session) rcptAt(h *hold, rc *recipient) (answer reply, f *failure) {
	begin, reused := len(h.rcpts) == 0, h.c.uses > 0
	commands := []string{h.c.rcpt(rc)}
	if begin {
		commands = h.c.envelope(&ss.tx.envelope, h.c.announced(ss.tx.size), []*recipient{rc})
	}
	last, refused := len(commands)-1, false
	stop := context.AfterFunc(ss.srv.ctx, func() { h.c.conn.Close() })
	defer stop()
	n, err := h.c.exchange(commands, ss.cfg.Limits.Envelope, func(i int, rep reply) error {
		doing := "MAIL"
		switch {
		case refused: // MAIL was: what is said to RCPT means nothing
			return nil
		case i == last:
			doing = "RCPT"
		case begin && h.c.reset && i == 0 && rep.code != 250:
			f = unexpected("RSET", rep, replyBackendState)
		}
		if f == nil && !rep.is2xx() {
			refused, answer = true, rep
			f = ss.srv.fatal(h.c, doing, rep)
		}
		if f != nil {
			f.stale = begin && reused && i == 0 && rep.code == 421
			return f
		}
		return nil
	})
	switch {
	case f != nil:
		return reply{}, f
	case err != nil:
		f = lost("asking for a recipient", err)
		f.stale = reused && n == 0 && f.retry
		return reply{}, f
	case refused:
		return answer, nil
	}
	h.add(rc)
	return replyRecipient, nil
}

func (tx *transaction) hold(server mbox.Server, h *hold) {
	if tx.holds == nil {
		tx.holds, tx.since = make(map[mbox.Server]*hold), time.Now()
	}
	tx.holds[server] = h
}

// take gives groups the connections to backends that know of exactly their recipients, and gives the
// others back.
func (tx *transaction) take(groups []*group) {
	for _, g := range groups {
		if h := tx.holds[g.server]; h != nil && h.fits(g.rcpts) {
			g.hold = h
			delete(tx.holds, g.server)
		}
	}
	tx.release()
}

// release gives the connections back on which nothing will be delivered.
func (tx *transaction) release() {
	for _, h := range tx.holds {
		if h.ahead {
			go h.giveBack()
		} else {
			h.pool.put(h.c)
		}
	}
	tx.holds = nil
}
