package imap

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"murder/internal/mbox"
)

// A ghost is a record of a mailbox that its server does not have. Sessions report what they meet
// (suspect); one goroutine gathers the evidence, asks the server itself under our own identity, and
// takes the record off the map if nobody has touched it since. The word of a session alone never
// removes anything.

const (
	// ghostEvidence is how many sessions must have been told that a mailbox is not there.
	ghostEvidence = 2
	// ghostQueue and ghostSuspects bound the reports that wait and those that are remembered.
	ghostQueue    = 64
	ghostSuspects = 1000
)

// suspect notes that a backend denies a mailbox which the map, after a barrier, places there. A mailbox
// that the user may not know of is rightly denied.
func (s *session) suspect(e mbox.Entry) {
	if !s.visible(e) {
		return
	}
	s.log().Warn("backend lacks a mailbox of the map", "mailbox", e.Name, "backend", e.Location.Server(), "index", e.Index)
	select {
	case s.srv.ghosts <- e:
	default: // those that exist are met again
	}
}

// reconcile runs until ctx ends.
func (srv *Server) reconcile(ctx context.Context) {
	type record struct {
		name  mbox.Name
		index uint64
	}
	seen := make(map[record]int)
	for {
		select {
		case e := <-srv.ghosts:
			r := record{e.Name, e.Index}
			if seen[r]++; seen[r] < ghostEvidence {
				if len(seen) > ghostSuspects {
					clear(seen)
				}
				continue
			}
			delete(seen, r)
			gone, err := srv.lacks(ctx, e)
			if gone {
				err = srv.takeOff(ctx, []mbox.Write{{Kind: mbox.Remove, Name: e.Name, IfIndex: e.Index,
					By: mbox.Session{ID: "imap-reconciler", Identity: "reconciler"}}})
			}
			srv.cfg.Logger.Warn("record without a mailbox examined", "mailbox", e.Name, "backend", e.Location.Server(), "gone", gone, "err", err)
		case <-ctx.Done():
			return
		}
	}
}

// lacks asks a server under our own identity, which must be an administrator's there, because others
// do not see everything.
func (srv *Server) lacks(ctx context.Context, e mbox.Entry) (bool, error) {
	so, err := srv.connect(ctx, e.Location.Server(), "", "")
	if err != nil {
		return false, err
	}
	defer so.nc.Close()
	so.nc.SetDeadline(time.Now().Add(srv.cfg.Limits.BackendReply))
	spaces, err := so.ask("NAMESPACE")
	if err != nil {
		return false, err
	}
	admin := false
	for _, line := range spaces {
		// Cyrus: an administrator has no personal namespace.
		kinds := parseNamespace([]byte(line))
		admin = admin || len(kinds) == 3 && kinds[0] == ""
	}
	if !admin {
		return false, errors.New("our identity is no administrator there")
	}
	name, ok := srv.cfg.Namespace.View("", true, false).External(e.Name)
	if !ok || strings.ContainsAny(string(name), "*%") {
		return false, fmt.Errorf("no way to ask for %s", e.Name)
	}
	found, err := so.ask(`LIST "" ` + astring(string(name)))
	for _, line := range found {
		if strings.HasPrefix(line, "* LIST ") {
			return false, err
		}
	}
	return err == nil, err
}

// takeOff removes records, each only if it is as it was seen.
func (srv *Server) takeOff(ctx context.Context, writes []mbox.Write) error {
	ctx, cancel := context.WithTimeout(ctx, srv.cfg.Limits.Barrier)
	defer cancel()
	for len(writes) > 0 {
		n := min(len(writes), 100)
		verdicts, err := srv.cfg.Directory.Write(ctx, writes[:n])
		if err != nil {
			return fmt.Errorf("removing %s and %d others: %w", writes[0].Name, len(writes)-1, err)
		}
		for i, v := range verdicts {
			srv.cfg.Logger.Info("record taken off the map", "mailbox", writes[i].Name, "outcome", v.Outcome.String(), "user", writes[i].By.Identity)
		}
		writes = writes[n:]
	}
	return nil
}
