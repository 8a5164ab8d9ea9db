package cluster

import (
	"context"
	"fmt"
	"time"

	"murder/cluster/admin"
)

var _ admin.Node = (*Node)(nil)

const (
	defaultMaxLag = 10000 // entries
	certWarning   = 7 * 24 * time.Hour
)

// Ready reports whether this node should get clients. A frontend without a leader stays ready: its
// copy serves mail, and a load balancer must not take everything down because of a lost quorum.
func (n *Node) Ready(ctx context.Context, q admin.ReadyQuery) admin.Health {
	var h admin.Health
	h.Add("member", n.engine.Load() != nil, "")
	h.Add("copy complete", n.synced.Load(), "")
	h.Add("not draining", !n.draining.Load(), "")
	doubt := n.replica.doubted()
	h.Add("copy like the others'", doubt == nil, detail(doubt))
	if r := n.refusal.Load(); r != nil {
		h.Add("welcome", false, *r)
	}
	h.Add("room on the disk", true, n.crampedness()) // a copy in memory serves; a coordinator stops in time (space.go)
	if q.MaxLag == 0 {
		q.MaxLag = defaultMaxLag
	}
	h.Add("copy current", true, n.staleness())
	if lag, age, ok := n.lag(); ok {
		h.Add("lag", lag <= q.MaxLag, fmt.Sprintf("%d entries, %s ago", lag, age.Round(time.Millisecond)))
	}
	if q.Leader {
		h.Add("leads", n.reign.Load() != nil, "")
	}
	if q.Barrier > 0 {
		ctx, cancel := context.WithTimeout(ctx, q.Barrier)
		defer cancel()
		_, err := n.Barrier(ctx)
		h.Add("barrier", err == nil, detail(err))
	}
	return h
}

// staleness says that nobody tells this node of changes at the moment, "" if somebody does. Its copy serves
// all the same.
func (n *Node) staleness() string {
	if n.reign.Load() != nil {
		return ""
	}
	n.leaderMu.Lock()
	since := n.leaderSince
	n.leaderMu.Unlock()
	if _, known := n.Leader(); !known {
		return fmt.Sprintf("no leader is known for %s: the copy may be old", time.Since(since).Round(time.Second))
	}
	if _, age, ok := n.lag(); ok && age > 3*beatInterval {
		return fmt.Sprintf("nothing was heard of the leader for %s: the copy may be old", age.Round(time.Second))
	}
	return ""
}

// crampedness says that the disk is nearly full, "" if it is not.
func (n *Node) crampedness() string {
	if !n.spaceLow.Load() {
		return ""
	}
	return fmt.Sprintf("%s free on the disk of %s: make room", n.cfg.space(), n.cfg.DataDir)
}

// Healthy reports whether the cluster as a whole could stand the loss of one more voter.
func (n *Node) Healthy(ctx context.Context) admin.Health {
	var h admin.Health
	s := n.Status(ctx)
	h.Add("leader", s.Leader != "", s.Leader)
	h.Add("quorum", s.VotersUp >= s.Quorum && s.Voters > 0, fmt.Sprintf("%d of %d voters, %d needed", s.VotersUp, s.Voters, s.Quorum))
	h.Add("a voter to spare", s.VotersUp > s.Quorum, "")
	if absent := blockedByAbsent(s); len(absent) > 0 {
		h.Add("cluster version", false, fmt.Sprintf("blocked by %v", absent))
	}
	now := n.now()
	for _, m := range s.Nodes {
		if m.Diverged {
			h.Add("copy of "+m.ID, false, "differs from that of a majority of the voters")
		}
		if m.Disputed {
			h.Add("copy of "+m.ID, false, "differs from the leader's, and it is not known which is right")
		}
		if !m.CertExpires.IsZero() && m.CertExpires.Sub(now) < certWarning {
			h.Add("certificate of "+m.ID, false, "expires "+m.CertExpires.Format(time.RFC3339))
		}
	}
	return h
}

func detail(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
