package mupdate

import (
	"slices"

	"murder/internal/mbox"
)

// update answers UPDATE (RFC 3656 section 4.11): a dump of one copy, OK, and then every change as it
// is applied, from exactly the index of the dump on. The OK is an order to a Cyrus slave to delete all
// that was not mentioned, so it is given for a complete copy only.
//
// With arguments only records of these servers are dumped, and changes are sent when the old or the
// new server is among them (Cyrus: the partial update that PARTIAL-UPDATE advertises).
//
// In a unified Murder a server does not hear of its own mailboxes. Its slave would write what it hears
// over the server's own entries, without the parts that MUPDATE does not know (Cyrus 3.6: "mbentry has
// no uniqueid"), and the mailboxes could no longer be opened.
func (c *conn) update(f *frame, args []string) error {
	srv := c.srv
	if err := c.barrier(srv.cfg.NoopTimeout); err != nil {
		if srv.cfg.Upstream == "" {
			c.reply(f.tag, "NO", noQuorum)
			return nil
		}
		// A learner's copy was complete once; a stale dump beats a frontend without one.
		srv.metrics.stale.Inc()
		c.log.Warn("dump from an unconfirmed copy", "user", c.session.Identity, "err", err)
	}
	view := srv.cfg.Directory.View()
	scope := c.scope(args)
	if len(scope.only) == 0 {
		if last, ok := srv.guard.check(view); !ok {
			srv.metrics.alarms.Inc()
			c.log.Error("dump withheld: it holds less than half of what the last one held; an operator must confirm",
				"user", c.session.Identity, "records", view.Len(), "before", last)
			c.reply(f.tag, "NO", "dump withheld: too many records are missing")
			return nil
		}
	}
	order := c.order
	if order == mbox.OrderOctet {
		order = mbox.OrderDB // see replay
	}
	every := inOrder(view, "", order)
	if err := c.dump(f.tag, every, scope.dumps); err != nil {
		return err
	}
	c.reply(f.tag, "OK", "streaming starts")
	if err := c.replay(f.tag, view, every, order, &scope); err != nil {
		return err
	}
	if err := c.flush(); err != nil {
		return err
	}
	c.stream = newStream(c, f.tag, scope, view.Index())
	go c.stream.run()
	return nil
}

// scope is what of the map a stream shows.
type scope struct {
	only    []mbox.Server // these servers, if there are any
	without []mbox.Server // not what is on these
}

// scope is what a follower is to have.
func (c *conn) scope(args []string) (s scope) {
	for _, a := range args {
		s.only = append(s.only, mbox.Server(a))
	}
	switch {
	case c.unified && len(c.bound) > 0:
		s.without = c.bound
	case c.unified:
		c.log.Warn("a unified server follows, and it is not known which: what it hears of its own mailboxes spoils them; bind its identity or address to its name",
			"user", c.session.Identity)
	case len(c.bound) > 0:
		c.log.Info("a backend follows the map: if it is a unified server, its identity or address must say so",
			"user", c.session.Identity, "backend", c.bound[0])
	}
	return s
}

func (s *scope) whole() bool { return len(s.only)+len(s.without) == 0 }

func (s *scope) dumps(e *mbox.Entry) bool {
	server := e.Location.Server()
	return (len(s.only) == 0 || slices.Contains(s.only, server)) && !slices.Contains(s.without, server)
}

func (s *scope) wants(ch *mbox.Change) bool {
	return !s.hides(ch) && (len(s.only) == 0 || slices.Contains(s.only, server(ch)) || slices.Contains(s.only, ch.Old.Server()))
}

func (s *scope) hides(ch *mbox.Change) bool { return slices.Contains(s.without, server(ch)) }

// server is where a mailbox is after a change, or was before it went.
func server(ch *mbox.Change) mbox.Server {
	if ch.State == mbox.Absent {
		return ch.Old.Server()
	}
	return ch.Location.Server()
}

// replay repeats as stream rows the records that a Cyrus slave may have dropped. It merges the dump
// into its own list by comparing octets, while both come in another order; where its list holds a
// surplus name the merge can step out of line and delete names that are in the dump. That can only hit
// a name that some earlier name of its list, sent or deleted not long ago, exceeds by octets: never one
// of a slave whose own list is in the order of octets (Cyrus up to 3.4), which can thus have the dump
// in OrderDB.
//
// The reverse does not hold: a slave whose list is in OrderDB and that is sent OrderMboxsort loses names
// that nobody can foresee. So it would go when Cyrus is upgraded to 3.6 and the configured order is not
// changed with it: everything is repeated. So it is when more was deleted than is remembered.
func (c *conn) replay(tag string, view mbox.View, from records, order mbox.Order, scope *scope) error {
	gone, known := deleted(view)
	switch {
	case c.srv.cfg.Replay == ReplayOff:
		return nil
	case c.srv.cfg.Replay == ReplayAll, order != mbox.OrderDB, !known:
		return c.dump(tag, from, scope.dumps)
	}
	slices.SortFunc(gone, order.Compare)
	var highest mbox.Name
	return c.dump(tag, from, func(e *mbox.Entry) bool {
		for len(gone) > 0 && order.Compare(gone[0], e.Name) < 0 {
			highest = max(highest, gone[0])
			gone = gone[1:]
		}
		suspect := e.Name < highest
		highest = max(highest, e.Name)
		return suspect && scope.dumps(e)
	})
}

// deleted returns the names that were deleted not long ago, in any order, and whether they are all.
func deleted(view mbox.View) (names []mbox.Name, all bool) {
	if v, ok := view.(DeletedView); ok {
		all = v.DeletedNames(func(n mbox.Name) bool { names = append(names, n); return true })
	}
	return names, all
}
