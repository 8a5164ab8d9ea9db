package cluster

import (
	"context"
	"fmt"
	"io"
	"time"

	"murder/cluster/admin"
	"murder/fsm"
	"murder/internal/mbox"
)

// Lists are cut at so many rows: they are for people.
const maxRows = 10000

// Reservations lists the reserved names of this node's copy.
func (n *Node) Reservations() []admin.Reservation {
	v := n.State()
	rows := []admin.Reservation{}
	v.Holds(func(h fsm.Hold) bool {
		rows = append(rows, reservationOf(v, h))
		return len(rows) < maxRows
	})
	return rows
}

func reservationOf(v *fsm.View, h fsm.Hold) admin.Reservation {
	return admin.Reservation{
		Name: string(h.Name), Transfer: h.Transfer, Session: h.Session,
		AgeSeconds: int64(v.Clock()-min(h.Since, v.Clock())) / 1000,
		Location:   string(h.Location), SessionGone: h.SessionGone, SourceDropped: h.SourceDropped,
	}
}

// Conflicts lists the names that one server holds and another claimed.
func (n *Node) Conflicts() []admin.Conflict {
	rows := []admin.Conflict{}
	n.State().Conflicts(func(c fsm.Conflict) bool {
		rows = append(rows, conflictOf(c))
		return len(rows) < maxRows
	})
	return rows
}

func conflictOf(c fsm.Conflict) admin.Conflict {
	return admin.Conflict{
		Name: string(c.Name), Holder: string(c.Holder), Claimant: string(c.Claimant), Claim: string(c.Claim),
		Count: c.Count, Last: time.Unix(c.At, 0).UTC(), Identity: c.Identity, Peer: c.Peer,
	}
}

// History returns what is remembered of a name, oldest first.
func (n *Node) History(name mbox.Name) []admin.Event {
	rows := []admin.Event{}
	n.State().History(name, func(e fsm.Event) bool {
		rows = append(rows, admin.Event{
			Index: e.Index, At: time.Unix(e.At, 0).UTC(), Kind: e.Kind.String(), Name: string(e.Name),
			Location: string(e.Location), Old: string(e.Old), Identity: e.Identity, Peer: e.Peer, Session: e.Session,
		})
		return len(rows) < maxRows
	})
	return rows
}

// maxBackups is how many backups are written at the same time.
const maxBackups = 2

// Backup writes a snapshot that holds everything committed before the call. It checks itself when it
// is read.
func (n *Node) Backup(ctx context.Context, w io.Writer) error {
	e := n.engine.Load()
	if e == nil {
		return errNotMember
	}
	select {
	case n.backups <- struct{}{}:
		defer func() { <-n.backups }()
	case <-ctx.Done():
		return fmt.Errorf("making a backup: waiting for %d others to end: %w", maxBackups, ctx.Err())
	}
	if _, err := n.Barrier(ctx); err != nil {
		return fmt.Errorf("making a backup: %w", err)
	}
	r, err := e.feed.kept()
	if err != nil {
		return fmt.Errorf("making a backup: %w", err)
	}
	defer r.Close()
	if _, err := io.Copy(w, r); err != nil {
		return fmt.Errorf("writing the backup: %w", err)
	}
	return nil
}
