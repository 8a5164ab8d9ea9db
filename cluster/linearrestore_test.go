package cluster

import (
	"bytes"
	"context"
	"slices"
	"testing"
	"time"

	"murder/fsm"
	"murder/internal/mbox"
	"murder/test/history"
	"murder/test/seed"
)

// A restore from a backup, while everybody writes and reads, is a write like any other to each name that it does not
// leave alone: it was made at one moment between its begin and its end.
func TestLinearizableAcrossRestores(t *testing.T) {
	t.Parallel()
	rnd := seed.Rand(t)
	r := startRig(t, 3, 1)
	c := newCrowd(r, rnd)
	c.begin()
	ids := []string{"c1", "c2", "c3", "f1"}
	restored := 0
	for round := range 8 {
		var backup bytes.Buffer
		if err := c.node(ids[rnd.IntN(len(ids))]).Backup(testContext(t), &backup); err != nil {
			t.Fatal(err)
		}
		_, writes, open := c.hist.Count()
		c.enough(writes + open + 40) // the map changes meanwhile
		switch round {
		case 3:
			r.sever()
		case 4:
			r.net.setMood(mood{unanswered: .1, twice: .2, echo: .2})
		case 6:
			c.down(r.waitLeader().cfg.NodeID)
		}
		restored += c.restore(ids[rnd.IntN(len(ids))], backup.Bytes(), round)
		r.heal()
		for _, id := range ids {
			if c.node(id) == nil {
				c.up(id)
			}
		}
		r.waitLeader()
	}
	if err := c.end(100); err != nil {
		t.Error(err)
	}
	if restored == 0 {
		t.Error("nothing was ever restored")
	}
	r.waitVoters(3)
	r.equalDigests()
}

// restore brings the map back through a node, and notes for each name what that was for those who look at it. It
// returns how many names were changed.
func (c *crowd) restore(id string, backup []byte, round int) int {
	c.t.Helper()
	m, err := fsm.ReadSnapshot(bytes.NewReader(backup))
	if err != nil {
		c.t.Fatal(err)
	}
	n := c.node(id)
	if n == nil { // it is down
		return 0
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	sent := c.hist.Now()
	report, err := n.Restore(ctx, bytes.NewReader(backup), true)
	for i := range chaosNames {
		name := chaosName(i)
		if err == nil && slices.Contains(report.LeftAlone, string(name)) {
			continue
		}
		op := history.Op{Name: name, Kind: history.Delete, By: id + ", restore"}
		if e, ok := m.View().Get(name); ok && e.State == mbox.Active {
			op.Kind, op.Value = history.Set, string(e.ACL)
		}
		kept := err
		if err != nil {
			kept = mbox.ErrUnknownOutcome // some names may have been restored, whatever the error is
		}
		c.hist.Add(1000+round, sent, op, kept)
	}
	if err != nil {
		c.t.Logf("restore at %s: %v", id, err)
	}
	return report.Adds + report.Changes + report.Deletes
}
