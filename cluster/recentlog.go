package cluster

import "github.com/hashicorp/raft"

// learnerTrailing is how many entries a learner keeps that its copy has applied: enough for what the leader may send
// twice, and for finding where the logs of a new leader and of this node part. An entry may be large: as many as a
// voter keeps would be more than the map itself after an import.
const learnerTrailing = 256

// recentLog is the log of a learner, in memory: what its copy has not applied yet, and a little more. Nobody else
// reads it, and a restart begins with the last snapshot. It is not left to snapshots to shorten it: they come once
// a minute, which in a resync is a gigabyte, and never while the disk is full.
type recentLog struct {
	*raft.InmemStore
	applied func() uint64
}

func newRecentLog(applied func() uint64) *recentLog {
	return &recentLog{raft.NewInmemStore(), applied}
}

func (l *recentLog) StoreLog(log *raft.Log) error { return l.StoreLogs([]*raft.Log{log}) }

func (l *recentLog) StoreLogs(logs []*raft.Log) error {
	if err := l.InmemStore.StoreLogs(logs); err != nil {
		return err
	}
	first, err := l.FirstIndex()
	if err != nil {
		return err
	}
	last, err := l.LastIndex()
	if err != nil {
		return err
	}
	if end := min(l.applied(), last); end > learnerTrailing && first < end-learnerTrailing {
		return l.DeleteRange(first, end-learnerTrailing)
	}
	return nil
}
