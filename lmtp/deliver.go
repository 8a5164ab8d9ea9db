package lmtp

import (
	"context"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"murder/internal/backend"
	"murder/internal/mbox"
)

// delivery carries one message to all its backends at once: to the first in the goroutine of the
// session, to the others in goroutines of their own. Each recipient is settled exactly once.
type delivery struct {
	srv   *Server
	cfg   *Config
	log   *slog.Logger
	tx    *transaction
	msg   *message
	ctx   context.Context // ends at the overall deadline
	began time.Time
	work  sync.WaitGroup
	answers
}

// group is the recipients on one backend.
type group struct {
	server mbox.Server
	rcpts  []*recipient
	hold   *hold // where they have been accepted already, if not nil
}

// settle keeps the final word on a recipient. Whoever settles calls tell before it waits for something else.
func (d *delivery) settle(rc *recipient, rep reply) {
	rc.settled = true
	d.note(rc, rep)
}

// run looks every recipient up again, because mailboxes may have moved while the message came in, and
// delivers to all backends at once. When it returns, everybody is settled.
//
// Where something stands in for a mailbox the map is asked whether it still does, before anything is sent: two
// recipients with one mailbox must not get there in two transactions at once.
// Cyrus: whether it has a message already is looked up before that is delivered.
//
// The session has nothing else to do meanwhile, so it spares itself a goroutine.
func (d *delivery) run() {
	var ready, standIns, open []*recipient
	poster := mbox.UserID(d.tx.poster)
	for _, rc := range d.tx.rcpts {
		route, sure := d.cfg.Resolver.Peek(rc.address, poster)
		asBefore := route.Status == Found && route.Server == rc.route.Server
		rc.route = route
		switch {
		case sure:
			ready = append(ready, rc)
		case asBefore:
			ready, standIns = append(ready, rc), append(standIns, rc)
		default:
			open = append(open, rc)
		}
	}
	if len(open) > 0 {
		d.work.Go(func() { d.late(open, poster) })
	}
	d.resolve(standIns, poster)
	groups := d.groups(ready)
	d.tx.take(groups)
	for _, g := range groups[min(1, len(groups)):] {
		d.work.Go(func() { d.deliver(g) })
	}
	d.tell()
	if len(groups) > 0 {
		d.deliver(groups[0])
	}
	d.work.Wait()
}

// late asks for the recipients who may be elsewhere now, and delivers to those who turn up. The others do not wait
// for them.
func (d *delivery) late(rcpts []*recipient, poster mbox.UserID) {
	defer d.rescue(rcpts)
	d.resolve(rcpts, poster)
	for _, g := range d.groups(rcpts) {
		d.work.Go(func() { d.deliver(g) })
	}
	d.tell()
}

// resolve asks the map for recipients of whom the local copy is not sure, for all of them at once.
func (d *delivery) resolve(rcpts []*recipient, poster mbox.UserID) {
	var wait sync.WaitGroup
	for _, rc := range rcpts {
		rc.route.Status = Unsure
		wait.Go(func() {
			defer d.rescue(nil)
			rc.route = d.cfg.Resolver.Resolve(d.ctx, rc.address, poster)
		})
	}
	wait.Wait()
}

// groups sorts recipients by their backends, in the order of RCPT, and settles those who have none.
func (d *delivery) groups(rcpts []*recipient) (groups []*group) {
	of := make(map[mbox.Server]*group, 1)
	for _, rc := range rcpts {
		if rc.route.Status != Found {
			d.settle(rc, d.srv.replyFor(rc.route))
			continue
		}
		g := of[rc.route.Server]
		if g == nil {
			g = &group{server: rc.route.Server}
			of[g.server] = g
			groups = append(groups, g)
		}
		g.rcpts = append(g.rcpts, rc)
	}
	return groups
}

// deliver delivers to the recipients of one backend. What has not been delivered for certain is tried
// once more on a new connection; a connection that was there before and proves dead does not count.
func (d *delivery) deliver(g *group) {
	defer d.rescue(g.rcpts)
	p := d.srv.pools.of(g.server)
	fresh, retried := false, false
	for {
		f := d.attempt(p, g, fresh)
		g.hold = nil
		if f == nil {
			break
		}
		g.rcpts = slices.DeleteFunc(slices.Clone(g.rcpts), func(rc *recipient) bool { return rc.settled })
		d.log.Warn("backend failed", "backend", string(g.server), "err", f.err, "left", len(g.rcpts))
		switch {
		case d.ctx.Err() != nil:
			f.reply = replyLost
		case f.stale:
			fresh = true
			continue
		case f.retry && !retried:
			fresh, retried = true, true
			continue
		}
		d.settleAll(g.rcpts, f.reply)
		break
	}
	d.tell()
	p.seconds.Observe(time.Since(d.began).Seconds())
}

// rescue keeps a panic from hurting more than the recipients at hand. It must be deferred.
func (d *delivery) rescue(rcpts []*recipient) {
	if p := recover(); p != nil {
		d.srv.metrics.alerts.WithLabelValues("panic").Inc()
		d.log.Error("delivery panicked", "panic", p, "stack", string(debug.Stack()))
		d.settleAll(rcpts, replyInternal)
		d.tell()
	}
}

func (d *delivery) settleAll(rcpts []*recipient, rep reply) {
	for _, rc := range rcpts {
		if !rc.settled {
			d.settle(rc, rep)
		}
	}
}

// attempt delivers over one connection. It returns nil if all recipients are settled, or will be.
func (d *delivery) attempt(p *pool, g *group, fresh bool) *failure {
	var c *client
	if g.hold != nil {
		c = g.hold.c
	} else {
		var err error
		if c, err = p.get(d.ctx, fresh, true); err != nil {
			return asFailure(err)
		}
	}
	usable := false
	defer func() {
		if usable {
			p.put(c)
		} else {
			p.drop(c)
		}
	}()
	stop := context.AfterFunc(d.ctx, func() { c.conn.Close() })
	defer stop()
	t := &transfer{delivery: d, c: c}
	f := t.run(g)
	usable = stop() && f == nil && !t.spent
	return f
}

// absent deals with a recipient whom the backend does not know although the map says that he is
// there. It never becomes a permanent failure unless the map has changed its mind.
func (d *delivery) absent(rc *recipient, server mbox.Server) {
	defer d.rescue([]*recipient{rc})
	route := d.cfg.Resolver.ResolveFresh(d.ctx, rc.address, mbox.UserID(d.tx.poster))
	switch {
	case route.Status == Unknown:
		d.settle(rc, d.srv.replyFor(route))
		d.tell()
	case route.Status == Found && route.Server != server && !rc.moved:
		rc.moved, rc.route = true, route
		d.deliver(&group{server: route.Server, rcpts: []*recipient{rc}})
	default:
		d.srv.alertAbsent(d.log, rc, server, route.Status)
		d.settle(rc, replyNotAtBackend)
		d.tell()
	}
}

func (s *Server) alertAbsent(log *slog.Logger, rc *recipient, server mbox.Server, now Status) {
	s.metrics.alerts.WithLabelValues("not_at_backend").Inc()
	log.Error("mailbox is not where the map says", "mailbox", string(rc.route.Name), "backend", string(server), "status", now.String())
}

// transfer is one transaction with one backend.
type transfer struct {
	*delivery
	c     *client
	spent bool // the connection is of no more use although all went well
}

// run sends the envelope, unless the backend has it already, and the message. The recipients that it
// settles stay settled whatever it returns.
func (t *transfer) run(g *group) *failure {
	// Room for the fields that the backend adds itself. One that finds a message too big at the end
	// gives one answer for all recipients.
	const added = 1024
	if t.c.size > 0 && t.msg.size+added > t.c.size {
		t.settleAll(g.rcpts, replyTooBig)
		t.spent = g.hold != nil && g.hold.ahead // it waits for the message
		return nil
	}
	accepted := g.rcpts
	var data reply
	var f *failure
	if g.hold != nil && !g.hold.ahead {
		data, f = t.data()
	} else {
		accepted, data, f = t.envelope(g)
	}
	switch {
	case f != nil:
		return f
	case len(accepted) == 0:
		t.spent = data.code == 354 // it waits for a message, and would store an empty one
		return nil
	case data.code != 354:
		return t.refused("DATA", data, accepted)
	}
	whole, err := t.msg.sendTo(t.c.conn, func() time.Time { return time.Now().Add(t.cfg.Limits.Stall) })
	if err != nil && !whole {
		return lost("sending the message", err)
	}
	return t.replies(accepted)
}

// envelope sends MAIL, RCPT and DATA in one flight, unless they have been sent ahead, and returns the
// recipients accepted and the answer to DATA. Without PIPELINING there is no DATA when nobody has been
// accepted.
//
// DATA goes along, as RFC 2920 section 3.1 allows, because to ask for it alone would cost every message one exchange
// more. It is safe because a backend stores nothing without the final dot.
// Cyrus: after a refused MAIL it accepts RCPT and answers 354. Then there is no dot: the connection is closed.
func (t *transfer) envelope(g *group) (accepted []*recipient, data reply, f *failure) {
	rcpts := g.rcpts
	reused, refused := t.c.uses > 0, false
	var commands []string
	if g.hold == nil {
		commands = t.c.envelope(&t.tx.envelope, t.msg.size, rcpts)
	}
	mail := 0
	if t.c.reset {
		mail = 1
	}
	last := mail + len(rcpts) + 1 // where DATA stands
	take := func(i int, rep reply) error {
		switch {
		case i == last:
			data = rep
		case refused: // what it says to RCPT now means nothing; the next RSET clears it up
		case i < mail && rep.code != 250:
			f = unexpected("RSET", rep, replyBackendState)
		case i == mail && !rep.is2xx():
			refused = true
			f = t.refused("MAIL", rep, rcpts)
		case i > mail && rep.is2xx():
			accepted = append(accepted, rcpts[i-mail-1])
		case i > mail:
			f = t.refusedRcpt(rep, rcpts[i-mail-1])
		}
		if f != nil {
			f.stale = reused && i == 0 && rep.code == 421
			return f
		}
		return nil
	}
	var n int
	var err error
	if g.hold != nil {
		n, err = t.c.replies(0, last+1, t.cfg.Limits.Envelope, take)
	} else {
		if t.c.pipelining {
			commands = append(commands, "DATA")
		}
		n, err = t.c.exchange(commands, t.cfg.Limits.Envelope, take)
	}
	if err == nil && len(accepted) > 0 && !t.c.pipelining {
		_, err = t.c.exchange([]string{"DATA"}, t.cfg.Limits.Envelope, func(_ int, rep reply) error { return take(last, rep) })
	}
	switch {
	case f != nil:
		return nil, data, f
	case err != nil:
		f = lost("envelope", err)
		f.stale = reused && n == 0 && f.retry
		return nil, data, f
	}
	return accepted, data, nil
}

// data sends DATA in a transaction that was begun while the client talked. Whatever goes wrong before
// 354 is put down to the time that has passed since.
func (t *transfer) data() (data reply, f *failure) {
	_, err := t.c.exchange([]string{"DATA"}, t.cfg.Limits.Envelope, func(_ int, rep reply) error {
		data = rep
		return nil
	})
	switch {
	case err != nil:
		f = lost("DATA", err)
	case data.code != 354:
		f = unexpected("DATA", data, replyBackendState)
	default:
		return data, nil
	}
	f.stale = true
	return data, f
}

// fatal returns the failure that a reply of c means for the whole connection, or nil if it is about
// the message or the recipient.
func (s *Server) fatal(c *client, doing string, rep reply) *failure {
	switch rep.code {
	case 421:
		return unexpected(doing, rep, replyBackendBye)
	case 430, 530, 535:
		f := unexpected(doing, rep, replyBackendAuth)
		s.metrics.alerts.WithLabelValues("identity").Inc()
		s.cfg.Backends.LoginFailed(c.server, backend.LMTP, f)
		return f
	case 500, 503:
		return unexpected(doing, rep, replyBackendState)
	case 501:
		if doing != "RCPT" { // which may name a mailbox that the backend cannot have
			return unexpected(doing, rep, replyBackendState)
		}
	}
	if rep.code/100 != 4 && rep.code/100 != 5 {
		return unexpected(doing, rep, replyBackendState)
	}
	return nil
}

// refused passes a refusal of MAIL or DATA on to the recipients, unless it says that the connection
// is in no state to deliver.
func (t *transfer) refused(doing string, rep reply, rcpts []*recipient) *failure {
	if f := t.srv.fatal(t.c, doing, rep); f != nil {
		return f
	}
	t.settleAll(rcpts, rep.passedOn())
	return nil
}

func (t *transfer) refusedRcpt(rep reply, rc *recipient) *failure {
	if f := t.srv.fatal(t.c, "RCPT", rep); f != nil {
		return f
	}
	t.judge(rc, rep)
	return nil
}

// denies reports whether a backend says that a recipient is not there although the map says he is.
func (rep reply) denies(rc *recipient) bool {
	code := rep.enhanced()
	return rep.code == 550 && (code == "" || code == "5.1.1") && !rc.route.Instead
}

// judge settles a recipient by the backend's word, unless it says that he is not there: the map knows
// better.
func (t *transfer) judge(rc *recipient, rep reply) {
	if rep.denies(rc) {
		server, away := t.c.server, *rc
		rc.settled = true // as far as this group is concerned
		t.work.Go(func() { t.absent(&away, server) })
		return
	}
	t.settle(rc, rep.passedOn())
}

// replies reads one reply for each recipient. From here on nothing is tried again.
func (t *transfer) replies(rcpts []*recipient) *failure {
	taken := true
	for i, rc := range rcpts {
		if t.c.waits() {
			t.tell()
			if i > 0 {
				t.c.conn.Acknowledge()
			}
			t.c.conn.SetReadDeadline(time.Now().Add(t.cfg.Limits.Reply))
		}
		rep, err := readReply(t.c.in)
		f := (*failure)(nil)
		if err != nil {
			f = lost("waiting for the outcome", err)
			f.retry = false
		} else if !rep.is2xx() {
			taken = false
			f = t.srv.fatal(t.c, "outcome", rep)
		}
		if f != nil {
			t.srv.metrics.uncertain.Add(float64(len(rcpts) - i))
			return f
		}
		if i == 0 && len(rcpts) > 1 && t.forAll(rep) {
			t.settleAll(rcpts, replyTooBig)
			t.spent = true
			return nil
		}
		t.judge(rc, rep) // the mailbox may have moved away since RCPT
	}
	t.c.clean = taken
	return nil
}

// forAll reports whether a first reply is meant for all recipients.
//
// Cyrus: lmtpd says once that a message is too big, however many recipients there are.
func (t *transfer) forAll(rep reply) bool {
	code := rep.enhanced()
	if rep.code != 552 || code != "5.2.3" && code != "5.3.4" {
		return false
	}
	t.c.conn.Acknowledge()
	t.c.conn.SetReadDeadline(time.Now().Add(t.cfg.Limits.Straggle))
	_, err := t.c.in.Peek(1)
	return err != nil
}
