package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"murder/cluster/admin"
	"murder/fsm"
)

// VersionError says that this binary must not take part: the cluster speaks another version. The process
// ends with ExitVersion, and starting it again does not help.
type VersionError struct {
	Node, Binary string
	Cluster      uint32 // what the cluster speaks
}

func (e *VersionError) Error() string {
	advice := "install that version or a newer one"
	if e.Cluster < minCluster {
		advice = "upgrade the cluster by one version at a time"
	}
	return fmt.Sprintf("node %s runs version %s, which speaks cluster versions %d to %d, and the cluster is at %d: %s",
		e.Node, e.Binary, minCluster, maxCluster, e.Cluster, advice)
}

// checkVersion compares what the cluster speaks with what this binary can.
func (c *Config) checkVersion(cluster uint32) error {
	if cluster >= minCluster && cluster <= maxCluster {
		return nil
	}
	return &VersionError{Node: c.NodeID, Binary: c.BinaryVersion, Cluster: cluster}
}

// autoFinalize reads Config.AutoFinalize; a negative duration is never.
func (c *Config) autoFinalize() (time.Duration, error) {
	switch c.AutoFinalize {
	case "":
		return 24 * time.Hour, nil
	case "now":
		return 0, nil
	case "never":
		return -1, nil
	}
	d, err := time.ParseDuration(c.AutoFinalize)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("auto_finalize %q: want a duration such as 24h, now or never", c.AutoFinalize)
	}
	return d, nil
}

// outlook is how far the cluster version can go.
type outlook struct {
	version  uint32     // now
	possible uint32     // what every registered node can speak, at least version
	newest   uint32     // what any of them can
	behind   []fsm.Node // who cannot speak newest
}

// outlookOf looks at all registered nodes. Those that cannot be reached count with what they said last:
// they would have to stop when they come back.
func outlookOf(v *fsm.View) outlook {
	o := outlook{version: v.ClusterVersion(), newest: v.ClusterVersion()}
	lowest := uint32(maxCluster)
	v.Nodes(func(rec fsm.Node) bool {
		o.newest = max(o.newest, rec.MaxCluster)
		lowest = min(lowest, rec.MaxCluster)
		return true
	})
	v.Nodes(func(rec fsm.Node) bool {
		if rec.MaxCluster < o.newest {
			o.behind = append(o.behind, rec)
		}
		return true
	})
	o.possible = max(o.version, lowest)
	return o
}

// blockers are the nodes that keep the cluster version where it is.
func (o outlook) blockers() []string {
	var ids []string
	if o.possible < o.newest {
		for _, rec := range o.behind {
			ids = append(ids, rec.ID)
		}
	}
	return ids
}

// Finalize raises the cluster version to what every registered node can speak. From then on no node can
// go back to a version of the program that does not know it. Where nothing is to be raised it does
// nothing; it is refused while a node is in the way.
func (n *Node) Finalize(ctx context.Context) (admin.FinalizeAnswer, error) {
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	var answer admin.FinalizeAnswer
	err := n.callLeader(ctx, "finalize", struct{}{}, &answer, func(r *reign) (err error) {
		answer, err = r.finalize(ctx)
		return err
	})
	return answer, err
}

func (r *reign) finalize(ctx context.Context) (admin.FinalizeAnswer, error) {
	o := outlookOf(r.node.State())
	answer := admin.FinalizeAnswer{From: o.version, Version: o.possible, BlockedBy: o.blockers()}
	if o.possible > o.version {
		return answer, r.raise(ctx, o)
	}
	if len(answer.BlockedBy) == 0 {
		return answer, nil
	}
	var who []string
	for _, rec := range o.behind {
		text := fmt.Sprintf("%s (version %s, speaks up to %d", rec.ID, rec.BinaryVersion, rec.MaxCluster)
		if !r.heardLately(rec.ID) {
			text += ", does not answer"
		}
		who = append(who, text+")")
	}
	return answer, refuse("cluster version %d cannot be raised to %d because of %s: upgrade what is behind, or take it out with murderctl member remove",
		o.version, o.newest, strings.Join(who, ", "))
}

func (r *reign) raise(ctx context.Context, o outlook) error {
	if err := r.node.propose(ctx, fsm.SetClusterVersion{Version: o.possible}); err != nil {
		return refusal("raising the cluster version", err)
	}
	r.node.log.Info("cluster version raised", "from", o.version, "to", o.possible)
	return nil
}

// settingRaisable notes since when the cluster version could be raised: "VERSION LEASE-CLOCK UNIX-SECONDS". It
// outlives leaders. What counts is the lease clock, in milliseconds of leadership: no wall clock can hurry what
// cannot be taken back. The last is only shown.
const (
	settingRaisable = "cluster-version-raisable-clock"
	// settingRaisableWall is what leaders noted that counted by their wall clock.
	settingRaisableWall = "cluster-version-raisable"
	// raisableStep is how much of the time that has passed a change of leaders may lose in a cluster that is
	// quiet: the lease clock goes on from the last entry.
	raisableStep = 10 * time.Minute
)

type raisable struct {
	version uint32
	clock   uint64 // ms
	shown   int64  // Unix seconds
}

// raisableSince reads the note; the version is 0 if there is none.
func raisableSince(v *fsm.View) (r raisable) {
	if n, _ := fmt.Sscan(v.Setting(settingRaisable), &r.version, &r.clock, &r.shown); n != 3 {
		return raisable{}
	}
	return r
}

// finalizeWhenDue raises the cluster version once all nodes have been able to speak a newer one for
// Config.AutoFinalize, by the lease clock. Until then any of them can go back.
func (r *reign) finalizeWhenDue(ctx context.Context) error {
	n := r.node
	v := n.State()
	o := outlookOf(v)
	noted, clock := raisableSince(v), r.leaseClock()
	switch {
	case o.possible <= o.version:
		for _, key := range []string{settingRaisable, settingRaisableWall} {
			if v.Setting(key) != "" {
				return n.propose(ctx, fsm.SetSetting{Key: key})
			}
		}
		return nil
	case n.cfg.finalizeAfter < 0:
		return nil
	case n.cfg.finalizeAfter > 0 && (noted.version != o.possible || noted.clock > clock):
		now := n.now()
		n.log.Info("all nodes can speak a newer cluster version", "version", o.possible, "raised", now.Add(n.cfg.finalizeAfter).Format(time.DateTime))
		return n.propose(ctx, fsm.SetSetting{Key: settingRaisable, Value: fmt.Sprint(o.possible, " ", clock, " ", now.Unix())})
	case clock-noted.clock < uint64(n.cfg.finalizeAfter.Milliseconds()):
		if clock >= v.Clock()+uint64(raisableStep.Milliseconds()) {
			_, err := r.do(ctx, fsm.Empty{}) // carries the clock
			return err
		}
		return nil
	}
	return r.raise(ctx, o)
}

// versionStatus adds to a status how far the cluster version can go.
func (n *Node) versionStatus(s *admin.Status) {
	v := n.State()
	o := outlookOf(v)
	s.VersionPossible, s.VersionBlockedBy = o.possible, o.blockers()
	if noted := raisableSince(v); o.possible > o.version && noted.version == o.possible && n.cfg.finalizeAfter >= 0 {
		s.VersionRaisedAt = time.Unix(noted.shown, 0).Add(n.cfg.finalizeAfter)
	}
}

// blockedByAbsent are the nodes that keep the cluster version down and do not answer. One that answers is
// only waiting for its turn to be upgraded.
func blockedByAbsent(s admin.Status) []string {
	var ids []string
	for _, m := range s.Nodes {
		if m.Error != "" && slices.Contains(s.VersionBlockedBy, m.ID) {
			ids = append(ids, m.ID)
		}
	}
	return ids
}
