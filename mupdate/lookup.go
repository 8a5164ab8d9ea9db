package mupdate

import (
	"slices"
	"strings"
	"sync"
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
		}
	}
	if err := c.barrier(c.srv.cfg.CommandTimeout); err != nil {
		// Cyrus: ctl_mboxlist's own words are lost when master runs it, and master then gives up.
		c.log.Warn("LIST refused without a quorum: a backend that is starting does not come up", "user", c.session.Identity,
			"backend", strings.TrimSuffix(prefix, "!"), "err", err)
		c.reply(f.tag, "NO", noQuorum)
		return nil
	}
	if err := c.dump(f.tag, located(c.srv.cfg.Directory.View(), prefix), all); err != nil {
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

// dump writes the wanted records in the session's order.
func (c *conn) dump(tag string, from records, want func(*mbox.Entry) bool) error {
	limit := time.Now().Add(c.srv.cfg.DumpTimeout)
	var err error
	from.inOrder(c.order, func(e *mbox.Entry) bool {
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

// protect withholds the truth where ctl_mboxlist -m would destroy the asking backend's mailbox over
// it: FIND that names another server makes it wipe its own copy, NO does not.
//
// To a sync session a reserved name is never shown. Until the move is complete the copy of the
// destination may be the only one, whoever is still connected, and a name that is being created
// elsewhere has no mailbox yet.
func (c *conn) protect(view mbox.View, e *mbox.Entry) string {
	sync := c.session.Flags&mbox.Sync != 0
	holder := e.Location.Server()
	if !sync && len(c.bound) == 0 || len(c.session.Servers) == 0 || c.speaksFor(holder) {
		return ""
	}
	if e.Transfer {
		if v, ok := view.(TransferView); sync || ok && v.TransferOrphaned(e.Name) {
			return inTransfer
		}
		return ""
	}
	v, ok := view.(ConflictView)
	if ok && v.InConflict(e.Name) || sync && e.State == mbox.Reserved ||
		e.State == mbox.Active && c.brake.count(holder, c.srv) {
		return conflictText(e.Name, e.Location)
	}
	return ""
}

// conflictBrake stops a backend whose servername has changed from being told, name by name, that all
// its mailboxes live on its former self.
type conflictBrake struct {
	holder  mbox.Server
	names   int
	alarmed bool
}

// count reports whether the brake is on for one more name held by holder.
func (b *conflictBrake) count(holder mbox.Server, s *Server) bool {
	if s.cfg.ConflictBrake < 0 || s.seen.lately(holder) {
		return false
	}
	if b.holder != holder {
		b.holder, b.names = holder, 0
	}
	b.names++
	if b.names <= s.cfg.ConflictBrake {
		return false
	}
	if !b.alarmed {
		b.alarmed = true
		s.metrics.alarms.Inc()
		s.log.Error("a backend asks for many names held by a server that has not been seen: was it renamed? answers are withheld",
			"backend", holder, "names", b.names)
	}
	return true
}

// sightings remembers which servers have spoken to this node not long ago. Backends come for one
// command at a time, so an open connection is no measure.
type sightings struct {
	mu   sync.Mutex
	last map[mbox.Server]time.Time
}

const (
	sightingLasts = time.Hour
	maxSightings  = 4096
)

func (s *sightings) note(server mbox.Server) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == nil {
		s.last = make(map[mbox.Server]time.Time)
	}
	if _, ok := s.last[server]; ok || len(s.last) < maxSightings {
		s.last[server] = time.Now()
	}
}

func (s *sightings) lately(server mbox.Server) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.last[server]
	return ok && time.Since(at) < sightingLasts
}
