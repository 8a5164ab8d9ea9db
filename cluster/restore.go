package cluster

import (
	"context"
	"fmt"
	"io"

	"murder/cluster/admin"
	"murder/fsm"
	"murder/internal/mbox"
)

// Restore brings the map back to what a backup holds: it compares the two and, with apply, writes the
// difference like any other change, so that every copy, slave and history sees it. Registry, settings
// and reservations stay as they are. Without apply it only counts.
//
// Names that are reserved, or that change meanwhile, are left alone and reported. (Below cluster version 2 the
// copies cannot tell that a name that is to be brought back has changed.)
func (n *Node) Restore(ctx context.Context, backup io.Reader, apply bool) (admin.RestoreReport, error) {
	var report admin.RestoreReport
	m, err := fsm.ReadSnapshot(backup)
	if err != nil {
		return report, refuse("the backup cannot be read: %v", err)
	}
	if _, err := n.Barrier(ctx); err != nil {
		return report, err
	}
	old, now := m.View(), n.State()
	if have, want := now.Setting(fsm.SettingClusterID), old.Setting(fsm.SettingClusterID); have != want {
		return report, refuse("the backup is of cluster %s, and this is cluster %s", want, have)
	}
	report.BackupIndex, report.Index = old.Index(), now.Index()
	if err := n.restore(ctx, now, old, apply, &report); err != nil {
		return report, fmt.Errorf("restoring: %w", err)
	}
	return report, nil
}

// restore makes a map that was like now like old.
func (n *Node) restore(ctx context.Context, now, old *fsm.View, apply bool, report *admin.RestoreReport) error {
	r := restorer{node: n, ctx: ctx, apply: apply, report: report}
	fsm.Diff(now, old, func(c mbox.Change) bool {
		r.change(now, c)
		return r.err == nil
	})
	r.flush()
	report.Applied = apply && r.err == nil
	return r.err
}

// maxLeftAlone is how many of the names that are left alone are reported by name.
const maxLeftAlone = 100

type restorer struct {
	node   *Node
	ctx    context.Context
	apply  bool
	report *admin.RestoreReport
	batch  []mbox.Write
	err    error
}

func (r *restorer) change(now *fsm.View, c mbox.Change) {
	have, exists := now.Get(c.Name)
	w := mbox.Write{Name: c.Name, By: mbox.Session{ID: "restore", Identity: "restore"}}
	switch {
	case c.State == mbox.Reserved || have.State == mbox.Reserved:
		r.leave(c.Name) // somebody is at work on it, now or then
		return
	case c.State == mbox.Absent:
		r.report.Deletes++
		w.Kind, w.IfIndex = mbox.Remove, have.Index
	default:
		if exists {
			r.report.Changes++
			w.IfIndex = have.Index
		} else {
			r.report.Adds++
			w.IfIndex = mbox.IfAbsent
		}
		w.Kind, w.Location, w.ACL = mbox.Activate, c.Location, c.ACL
		w.By.Servers, w.By.Flags = []mbox.Server{c.Location.Server()}, mbox.Permissive|mbox.Takeover
	}
	if r.batch = append(r.batch, w); len(r.batch) == maxUnit {
		r.flush()
	}
}

func (r *restorer) leave(name mbox.Name) {
	r.report.Skipped++
	if len(r.report.LeftAlone) < maxLeftAlone {
		r.report.LeftAlone = append(r.report.LeftAlone, string(name))
	}
}

func (r *restorer) flush() {
	if r.apply && r.err == nil && len(r.batch) > 0 {
		var verdicts []mbox.Verdict
		verdicts, r.err = r.node.Write(r.ctx, r.batch)
		for i, v := range verdicts {
			if v.Outcome == mbox.Done {
				continue
			}
			r.leave(r.batch[i].Name)
			switch w := r.batch[i]; {
			case w.Kind == mbox.Remove:
				r.report.Deletes--
			case w.IfIndex == mbox.IfAbsent:
				r.report.Adds--
			default:
				r.report.Changes--
			}
		}
	}
	r.batch = r.batch[:0]
}
