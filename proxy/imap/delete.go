package imap

import (
	"context"
	"time"

	"murder/internal/mbox"
)

// ghostGrace is how long a backend gets to take a mailbox it has deleted off the map by itself.
const ghostGrace = 300 * time.Millisecond

// remove executes DELETE at the mailbox's backend, and sees to it that the map follows.
func (s *session) remove(c *command) error {
	args, err := c.exactly(1)
	if err != nil {
		return err
	}
	var gone []mbox.Entry
	x, err := s.atPlace(args[0], func(e mbox.Entry) (*exchange, error) {
		gone = s.deletedWith(e)
		return s.pass(e.Location.Server(), c)
	})
	if err != nil {
		return err
	}
	if st, _, _ := condition(x.tagged); st == statusOK {
		s.special.forget()
		s.mapChanged()
		s.removeGhosts(gone)
	}
	return s.tagged(c, x)
}

// deletedWith returns the records that go with e: everything of a user when it is an INBOX.
func (s *session) deletedWith(e mbox.Entry) []mbox.Entry {
	if !e.Name.IsInbox() {
		return []mbox.Entry{e}
	}
	var list []mbox.Entry
	mbox.Subtree(s.cfg.Directory.View(), e.Name, func(child mbox.Entry) bool {
		if child.Location.Server() == e.Location.Server() {
			list = append(list, child)
		}
		return len(list) < 100_000
	})
	return list
}

// removeGhosts takes mailboxes off the map that their backend has deleted without telling, unless
// somebody has touched the record since.
//
// Cyrus 3.6: with "delete_mode: immediate" a backend never tells.
func (s *session) removeGhosts(gone []mbox.Entry) {
	ghosts := func() (writes []mbox.Write) {
		view := s.cfg.Directory.View()
		for _, e := range gone {
			if now, ok := view.Get(e.Name); ok && now.State == mbox.Active && now.Index == e.Index {
				writes = append(writes, mbox.Write{Kind: mbox.Remove, Name: e.Name, IfIndex: e.Index,
					By: mbox.Session{ID: "imap-" + s.id, Identity: string(s.user), Peer: s.peer.String()}})
			}
		}
		return writes
	}
	if s.unsynced || len(ghosts()) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(s.ctx, s.cfg.Limits.Barrier)
	defer cancel()
	grace := time.NewTimer(ghostGrace)
	defer grace.Stop()
	for len(ghosts()) > 0 {
		select {
		case <-s.srv.follow.next():
			continue
		case <-grace.C:
		case <-ctx.Done():
		}
		break
	}
	if err := s.srv.takeOff(ctx, ghosts()); err != nil {
		s.log().Warn("deleted mailboxes stay on the map", "err", err)
	}
}
