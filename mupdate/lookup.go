package mupdate

import (
	"slices"
	"strings"
	"time"

	"murder/internal/mbox"
)

// find answers FIND (RFC 3656 section 4.5): at most one row. A voter confirms its copy first; a
// learner that cannot goes on with what it has.
func (c *conn) find(f *frame, args []string) error {
	learner := c.srv.cfg.Upstream != ""
	limit := c.srv.cfg.CommandTimeout
	if learner {
		limit = c.srv.cfg.NoopTimeout
	}
	if err := c.barrier(limit); err != nil {
		if !learner {
			c.reply(f.tag, "NO", noQuorum)
			return nil
		}
		c.srv.metrics.stale.Inc()
	}
	view := c.srv.cfg.Directory.View()
	e, ok := view.Get(c.name(args[0]))
	if ok {
		if text := c.protect(view, &e); text != "" {
			c.reply(f.tag, "NO", text)
			return nil
		}
		c.out.row(f.tag, &e)
	}
	c.reply(f.tag, "OK", "Search completed")
	return nil
}

// list answers LIST (RFC 3656 section 4.6): one copy, not older than the command, in the order of the
// client's own list. A learner does not answer from an unconfirmed copy either, because ctl_mboxlist
// deletes by the answer.
func (c *conn) list(f *frame, args []string) error {
	prefix := ""
	if len(args) > 0 {
		prefix = args[0]
	}
	if prefix != "" {
		c.session.Flags |= mbox.Sync
		if server, _, ok := strings.Cut(prefix, "!"); ok {
			c.learn(mbox.Server(server))
			c.syncing = mbox.Server(server)
		}
	}
	if err := c.barrier(c.srv.cfg.CommandTimeout); err != nil {
		// Cyrus: ctl_mboxlist's own words are lost when master runs it, and master then gives up.
		c.log.Warn("LIST refused without a quorum: a backend that is starting does not come up", "user", c.session.Identity,
			"backend", strings.TrimSuffix(prefix, "!"), "err", err)
		c.reply(f.tag, "NO", noQuorum)
		return nil
	}
	view := c.srv.cfg.Directory.View()
	c.listed = view.Index()
	if err := c.dump(f.tag, located(view, prefix), c.order, all); err != nil {
		return err
	}
	c.reply(f.tag, "OK", "list complete")
	return nil
}

// records are some of a copy, in OrderDB.
type records func(yield func(mbox.Entry) bool)

func all(*mbox.Entry) bool { return true }

func located(view mbox.View, prefix string) records {
	if v, ok := view.(LocatedView); ok && prefix != "" {
		return func(yield func(mbox.Entry) bool) { v.AscendAt(prefix, yield) }
	}
	return func(yield func(mbox.Entry) bool) {
		view.Ascend("", func(e mbox.Entry) bool {
			return !strings.HasPrefix(string(e.Location), prefix) || yield(e)
		})
	}
}

// dump writes the wanted records in an order. It has a limit of its own, and takes nothing from the time
// of the commands behind it.
func (c *conn) dump(tag string, from records, order mbox.Order, want func(*mbox.Entry) bool) error {
	begun, since := time.Now(), c.since
	limit := begun.Add(c.srv.cfg.DumpTimeout)
	defer func() { c.since = since.Add(time.Since(begun)) }()
	var err error
	from.inOrder(order, func(e *mbox.Entry) bool {
		if want(e) {
			c.out.row(tag, e)
			if len(c.out.buf) >= flushAt {
				err = c.flushBy(limit)
			}
		}
		return err == nil
	})
	return err
}

// inOrder walks records in any order; only that of the copy itself is free of sorting.
func (from records) inOrder(order mbox.Order, yield func(*mbox.Entry) bool) {
	if order == mbox.OrderDB {
		var e mbox.Entry
		from(func(next mbox.Entry) bool {
			e = next
			return yield(&e)
		})
		return
	}
	var sorted []mbox.Entry
	from(func(e mbox.Entry) bool { sorted = append(sorted, e); return true })
	slices.SortFunc(sorted, func(a, b mbox.Entry) int { return order.Compare(a.Name, b.Name) })
	for i := range sorted {
		if !yield(&sorted[i]) {
			return
		}
	}
}
