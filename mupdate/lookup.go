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
	if err := c.dump(f.tag, inOrder(view, prefix, c.order), all); err != nil {
		return err
	}
	c.reply(f.tag, "OK", "list complete")
	return nil
}

func all(*mbox.Entry) bool { return true }

// located returns the records of a copy whose location begins with prefix, in OrderDB.
func located(view mbox.View, prefix string) func(yield func(mbox.Entry) bool) {
	if v, ok := view.(LocatedView); ok && prefix != "" {
		return func(yield func(mbox.Entry) bool) { v.AscendAt(prefix, yield) }
	}
	return func(yield func(mbox.Entry) bool) {
		view.Ascend("", func(e mbox.Entry) bool {
			return !strings.HasPrefix(string(e.Location), prefix) || yield(e)
		})
	}
}

// dump writes the wanted records. It has a limit of its own, and takes nothing from the time of the commands
// behind it.
func (c *conn) dump(tag string, from records, want func(*mbox.Entry) bool) error {
	begun, since := time.Now(), c.since
	limit := begun.Add(c.srv.cfg.DumpTimeout)
	defer func() { c.since = since.Add(time.Since(begun)) }()
	var err error
	from(func(e *mbox.Entry) bool {
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

// records are some of a copy, and may be walked more than once.
type records func(yield func(*mbox.Entry) bool)

// inOrder returns the records at prefix in any order. For another than that of the copy itself the first walk
// sorts their names; nothing but the names is kept, because many may read the whole map at a time.
func inOrder(view mbox.View, prefix string, order mbox.Order) records {
	var e mbox.Entry
	if order == mbox.OrderDB {
		return func(yield func(*mbox.Entry) bool) {
			located(view, prefix)(func(next mbox.Entry) bool {
				e = next
				return yield(&e)
			})
		}
	}
	var names []mbox.Name
	return func(yield func(*mbox.Entry) bool) {
		if names == nil {
			located(view, prefix)(func(e mbox.Entry) bool { names = append(names, e.Name); return true })
			slices.SortFunc(names, order.Compare)
		}
		for _, name := range names {
			if e, _ = view.Get(name); !yield(&e) {
				return
			}
		}
	}
}
