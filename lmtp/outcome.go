package lmtp

import (
	"context"
	"log/slog"
	"time"
)

// verbData receives a message and answers for each recipient in the order of RCPT.
func (ss *session) verbData(args string) {
	switch {
	case args != "":
		ss.wrong(replySyntax)
		return
	case ss.tx == nil:
		ss.wrong(replySequence)
		return
	case len(ss.tx.rcpts) == 0:
		ss.wrong(replyNoRecipients) // RFC 2033 section 4.2
		return
	}
	if err := ss.srv.store.room(); err != nil {
		ss.log.Error("no space for messages", "err", err)
		ss.say(replySpoolFull)
		return
	}
	ss.say(replyData)
	ss.tellAll()
	msg, err := ss.receive()
	if err != nil {
		ss.log.Info("client left before the end of its message", "from", ss.tx.from, "err", err)
		ss.farewell(err)
		ss.over = true
		return
	}
	defer msg.spool.close()
	ss.deliver(msg)
	ss.reset()
}

// deliver hands the message to the backends, which write the replies. A client that is gone changes
// nothing: the backends finish.
func (ss *session) deliver(msg *message) {
	rcpts := ss.tx.rcpts
	ctx, cancel := context.WithTimeout(ss.srv.ctx, ss.cfg.Limits.Handling)
	defer cancel()
	d := &delivery{
		srv: ss.srv, cfg: ss.cfg, log: ss.log, tx: ss.tx, msg: msg, ctx: ctx, began: time.Now(),
		answers: answers{write: ss.write, known: make([]result, len(rcpts)), gone: ss.flush() != nil},
	}
	if msg.refusal.code == 0 {
		d.run()
		msg.refusal = replyInternal
	}
	for _, rc := range rcpts { // all, or who might be left
		if d.known[rc.index].rcpt == nil {
			d.note(rc, msg.refusal)
		}
	}
	d.tell()
	ss.over = ss.over || d.gone
	ss.account(d.known, msg, d.gone, time.Since(d.began))
}

// logged is how many recipients of each outcome a log line names.
const logged = 50

// account writes what became of a transaction into log and metrics.
func (ss *session) account(results []result, msg *message, gone bool, dur time.Duration) {
	attrs := make([]slog.Attr, 0, 12)
	attrs = append(attrs, slog.String("from", ss.tx.from), slog.Int64("size", msg.size), slog.Int("rcpts", len(results)))
	for _, class := range []string{"ok", "deferred", "refused"} {
		count, names := 0, []string(nil)
		for _, res := range results {
			if resultOf(res.reply) != class {
				continue
			}
			if count++; count > logged {
				continue
			}
			name := res.rcpt.route.Path + " at " + string(res.rcpt.route.Server)
			if !res.reply.is2xx() {
				name += ": " + res.reply.String()
			}
			names = append(names, name)
		}
		if count > 0 {
			ss.srv.metrics.recipients.WithLabelValues("data", class).Add(float64(count))
			attrs = append(attrs, slog.Int(class, count), slog.Any(class+"_rcpts", names))
		}
	}
	if gone {
		attrs = append(attrs, slog.Bool("client_gone", true))
	}
	attrs = append(attrs, slog.Duration("dur", dur), slog.Duration("total", time.Since(ss.tx.began)))
	ss.log.LogAttrs(context.Background(), slog.LevelInfo, "message handled", attrs...)
}

// resultOf names the class of a reply for log and metrics.
func resultOf(rep reply) string {
	switch rep.code / 100 {
	case 2:
		return "ok"
	case 5:
		return "refused"
	}
	return "deferred"
}

// replyFor is the answer for a recipient with a route.
func (s *Server) replyFor(route Route) reply {
	if route.Status == Unknown && s.cfg.DeferUnknown {
		return replyUnknownDefer
	}
	return replyOf(route.Status)
}

// alertLoop tells the operator of a record that would make this frontend deliver to itself.
func (s *Server) alertLoop(log *slog.Logger, route Route) {
	s.metrics.alerts.WithLabelValues("loop").Inc()
	log.Error("mailbox is recorded on this frontend itself", "mailbox", string(route.Name), "backend", string(route.Server))
}
