package mupdate

import (
	"context"
	"slices"
	"sync"
	"time"

	"murder/internal/mbox"
)

// ending is what the end of a session will have to say about its writes.
//
// Cyrus: a backend renames by DELETE, RESERVE and ACTIVATE, in a session of its own. When one of the latter
// is refused it takes the rename back on its side, and says LOGOUT all the same. One that only deletes says
// LOGOUT after the DELETE.
type ending struct {
	loggedOut bool
	deleted   mbox.Name // of the last write, if that was a DELETE and was made
	refused   bool      // a write was refused since the last DELETE
	half      mbox.Name // so was a RESERVE right after the DELETE of this name, and the directory does not know of it
}

func (e *ending) made(w *mbox.Write) {
	if w.Kind == mbox.Delete {
		e.deleted, e.refused = w.Name, false
		if e.half == w.Name {
			e.half = "" // it has come back in the meantime, and this is for good
		}
	} else { // a rename that was tried again, perhaps
		e.deleted, e.half = "", ""
	}
}

func (e *ending) decidedNo() { e.deleted, e.refused = "", true }

// refuse notes a refusal that the directory does not hear of.
func (e *ending) refuse(kind mbox.Kind) {
	if e.deleted != "" && kind == mbox.Reserve {
		e.half = e.deleted
	}
	e.decidedNo()
}

// renameRefused asks for the old name of a refused rename.
func (c *conn) renameRefused() mbox.Write {
	w := mbox.Write{Kind: mbox.EndSession, Name: c.ending.half, By: c.session}
	w.By.Flags |= mbox.RenameRefused
	return w
}

// undoRename does so at once. If that fails it is said again at the end.
func (c *conn) undoRename() {
	ctx, cancel := c.context(c.srv.cfg.CommandTimeout)
	defer cancel()
	if _, err := c.srv.cfg.Directory.Write(ctx, []mbox.Write{c.renameRefused()}); err == nil {
		c.ending.half = ""
	}
}

// endSession tells the directory that a session which wrote is over: what it reserved and did not
// use is released early, and what it left half done is recorded. A name in it marks a write whose
// answer may not have arrived: the backend then undoes on its side what stands here.
func (c *conn) endSession() {
	if !c.wrote {
		return
	}
	var writes []mbox.Write
	if c.ending.half != "" {
		writes = append(writes, c.renameRefused())
	}
	w := mbox.Write{Kind: mbox.EndSession, Name: c.open, By: c.session}
	if c.ending.loggedOut && !c.ending.refused {
		w.By.Flags |= mbox.LoggedOut
	}
	writes = append(writes, w)
	ctx, cancel := context.WithTimeout(c.srv.ctx, c.srv.cfg.CommandTimeout)
	defer cancel()
	if _, err := c.srv.cfg.Directory.Write(ctx, writes); err != nil {
		c.log.Info("end of session is not recorded yet: its reservations last longer", "err", err)
		c.srv.ends.add(c.srv, writes)
	}
}

// ends are what could not be said about the ends of sessions. It is said when there is a quorum again; that
// it may be said twice does no harm.
type ends struct {
	mu      sync.Mutex
	waiting []mbox.Write
	running bool
	wg      sync.WaitGroup
}

const (
	maxEnds   = 4096 // the oldest are forgotten beyond
	endsRetry = time.Second
)

func (e *ends) add(s *Server, writes []mbox.Write) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.waiting = append(e.waiting, writes...); len(e.waiting) > maxEnds {
		s.log.Warn("too many ends of sessions wait to be recorded: the oldest are forgotten, reservations last their full lease")
		e.waiting = slices.Clone(e.waiting[len(e.waiting)-maxEnds/2:])
	}
	if !e.running {
		e.running = true
		e.wg.Go(func() { e.repeat(s) })
	}
}

// repeat runs until all has been said, one session after the other, or the server has ended.
func (e *ends) repeat(s *Server) {
	pause(s.ctx, endsRetry)
	for s.ctx.Err() == nil {
		one := e.take()
		if len(one) == 0 {
			return
		}
		ctx, cancel := context.WithTimeout(s.ctx, s.cfg.CommandTimeout)
		_, err := s.cfg.Directory.Write(ctx, one)
		cancel()
		if err != nil {
			e.mu.Lock()
			e.waiting = append(one, e.waiting...)
			e.mu.Unlock()
			pause(s.ctx, endsRetry)
		}
	}
}

// take returns what waits of the session that has waited longest; nothing is the end of repeat.
func (e *ends) take() []mbox.Write {
	e.mu.Lock()
	defer e.mu.Unlock()
	k := 0
	for k < len(e.waiting) && e.waiting[k].By.ID == e.waiting[0].By.ID {
		k++
	}
	one := slices.Clone(e.waiting[:k])
	e.waiting = e.waiting[k:]
	e.running = k > 0
	return one
}
