package mupdate

import (
	"slices"
	"sync"

	"murder/internal/mbox"
)

// update answers UPDATE (RFC 3656 section 4.11): a dump of one copy, OK, and then every change as it
// is applied, from exactly the index of the dump on. The OK is an order to a Cyrus slave to delete all
// that was not mentioned, so it is given for a complete copy only.
//
// With arguments only records of these servers are dumped, and changes are sent when the old or the
// new server is among them (Cyrus: the partial update that PARTIAL-UPDATE advertises).
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
	var hosts []mbox.Server
	for _, a := range args {
		hosts = append(hosts, mbox.Server(a))
	}
	if len(hosts) == 0 {
		if last, ok := srv.guard.check(view); !ok {
			srv.metrics.alarms.Inc()
			c.log.Error("dump withheld: it holds less than half of what the last one held; an operator must confirm",
				"user", c.session.Identity, "records", view.Len(), "before", last)
			c.reply(f.tag, "NO", "dump withheld: too many records are missing")
			return nil
		}
	}
	rows := located(view, "")
	if len(hosts) > 0 {
		rows = func(yield func(mbox.Entry) bool) {
			view.Ascend("", func(e mbox.Entry) bool {
				return !slices.Contains(hosts, e.Location.Server()) || yield(e)
			})
		}
	}
	if err := c.dump(f.tag, rows, all); err != nil {
		return err
	}
	c.reply(f.tag, "OK", "streaming starts")
	if err := c.replay(f.tag, rows, view); err != nil {
		return err
	}
	if err := c.flush(); err != nil {
		return err
	}
	c.stream = newStream(c, f.tag, hosts, view.Index())
	go c.stream.run()
	return nil
}

// replay repeats as stream rows the records that a Cyrus slave may have dropped. It merges the dump
// into its own list by comparing octets, while both come in another order; where its list holds a
// surplus name the merge can step out of line and delete names that are in the dump. That can only hit
// a name that some earlier name, sent or deleted not long ago, exceeds by octets.
func (c *conn) replay(tag string, rows records, view mbox.View) error {
	switch c.srv.cfg.Replay {
	case ReplayOff:
		return nil
	case ReplayAll:
		return c.dump(tag, rows, all)
	}
	gone := deleted(view, c.order)
	var highest mbox.Name
	return c.dump(tag, rows, func(e *mbox.Entry) bool {
		for len(gone) > 0 && c.order.Compare(gone[0], e.Name) < 0 {
			highest = max(highest, gone[0])
			gone = gone[1:]
		}
		suspect := e.Name < highest
		highest = max(highest, e.Name)
		return suspect
	})
}

func deleted(view mbox.View, order mbox.Order) (names []mbox.Name) {
	if v, ok := view.(DeletedView); ok {
		v.DeletedNames(func(n mbox.Name) bool { names = append(names, n); return true })
		slices.SortFunc(names, order.Compare)
	}
	return names
}

// shrinkGuard compares each full dump with what this node last showed anybody. A copy that has lost
// half of its records and does not know them as deleted was damaged or replaced.
type shrinkGuard struct {
	mu   sync.Mutex
	last int
}

const guardFrom = 100 // records; below, half is soon reached by honest work

func (g *shrinkGuard) check(view mbox.View) (last int, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	least := g.last / 2
	if g.last >= guardFrom && view.Len() < least && view.Len()+len(deleted(view, mbox.OrderDB)) < least {
		return g.last, false
	}
	g.last = view.Len()
	return g.last, true
}

func (g *shrinkGuard) set(records int) {
	g.mu.Lock()
	g.last = records
	g.mu.Unlock()
}
