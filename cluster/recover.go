package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/hashicorp/raft"

	"murder/fsm"
)

// recoveredFile marks a data directory that Recover has changed, until the node has told the map.
const recoveredFile = "recovered"

// Survivor describes the state in the data directory of a stopped coordinator. With a lost quorum, the
// one that is further than the others has what they have.
type Survivor struct {
	ClusterID     string `json:"cluster_id"`
	NodeID        string `json:"node_id"`
	Term          uint64 `json:"term"`       // of the last entry
	LastIndex     uint64 `json:"last_index"` // of the log or the snapshot
	SnapshotIndex uint64 `json:"snapshot_index"`
	Epoch         uint64 `json:"epoch"`              // how often the cluster has been recovered before
	Diverged      bool   `json:"diverged,omitempty"` // a majority of the voters had another copy
}

// Further reports whether s may have something that o lacks, or, as far, a copy that nobody has found wrong.
func (s Survivor) Further(o Survivor) bool {
	if c := cmp.Or(cmp.Compare(s.Epoch, o.Epoch), cmp.Compare(s.Term, o.Term), cmp.Compare(s.LastIndex, o.LastIndex)); c != 0 {
		return c > 0
	}
	return o.Diverged && !s.Diverged
}

// Inspect reads the data directory of a stopped coordinator.
func Inspect(cfg Config) (Survivor, error) {
	_, s, st, err := openSurvivor(&cfg)
	if err != nil {
		return s, err
	}
	return s, st.close()
}

func openSurvivor(cfg *Config) (*identity, Survivor, *stores, error) {
	var s Survivor
	id, err := readIdentity(cfg.DataDir)
	switch {
	case err != nil:
		return nil, s, nil, err
	case id == nil:
		return nil, s, nil, fmt.Errorf("data directory %s holds no membership", cfg.DataDir)
	case id.Role != Coordinator:
		return nil, s, nil, fmt.Errorf("data directory %s belongs to a %s: only a coordinator keeps the log", cfg.DataDir, id.Role)
	}
	setDefault(&cfg.NodeID, id.NodeID)
	setDefault(&cfg.Role, Coordinator)
	setDefault(&cfg.Listen, "127.0.0.1:0")
	if err := cfg.complete(); err != nil {
		return nil, s, nil, err
	}
	if err := id.check(cfg); err != nil {
		return nil, s, nil, err
	}
	if err := cfg.checkLogFile(); err != nil {
		return nil, s, nil, err
	}
	st, err := openStores(cfg, true, nil)
	if err != nil {
		return nil, s, nil, err
	}
	s.ClusterID, s.NodeID, s.Epoch = id.ClusterID, id.NodeID, id.Epoch
	if err := s.read(st); err != nil {
		return nil, s, nil, errors.Join(err, st.close())
	}
	s.Diverged = id.judged(s.SnapshotIndex)
	return id, s, st, nil
}

func (s *Survivor) read(st *stores) error {
	snapshots, err := st.snapshots.List()
	if err != nil {
		return err
	}
	if len(snapshots) > 0 {
		s.SnapshotIndex, s.LastIndex, s.Term = snapshots[0].Index, snapshots[0].Index, snapshots[0].Term
	}
	last, err := st.log.LastIndex()
	if err != nil || last <= s.LastIndex {
		return err
	}
	var entry raft.Log
	if err := st.log.GetLog(last, &entry); err != nil {
		return err
	}
	s.LastIndex, s.Term = last, entry.Term
	return nil
}

// Recover makes a stopped coordinator the only voter of its cluster, for a quorum that is lost for
// good. Entries that were not committed may become so. The other coordinators must not be started
// with their old data again: empty them and join them anew. The frontends come back by themselves.
func Recover(cfg Config) (Survivor, error) {
	id, s, st, err := openSurvivor(&cfg)
	if err != nil {
		return s, err
	}
	defer st.close()
	addr := cfg.Advertise
	if addr == "" {
		addr = cfg.Listen
	}
	if addr, err = cfg.advertised(advertisedAddr(addr)); err != nil {
		return s, err
	}
	// The epoch comes first, so that no old majority is followed even if it is there already, then the
	// mark: without it the node would call the lost ones back.
	id.Epoch++
	id.Diverged, id.DivergedAt = false, 0 // there is no other copy any more that it could differ from
	if err := id.write(cfg.DataDir); err != nil {
		return s, err
	}
	if err := writeFile(filepath.Join(cfg.DataDir, recoveredFile), []byte(strconv.FormatUint(s.LastIndex, 10)+"\n"), 0o644); err != nil {
		return s, err
	}
	_, trans := raft.NewInmemTransport(raft.ServerAddress(addr)) // only asked how it encodes addresses
	replica := newReplica(cfg.Logger, cfg.hooks.exit)
	err = raft.RecoverCluster(cfg.raftConfig(), replica, st.log, st.stable, st.snapshots, trans,
		raft.Configuration{Servers: []raft.Server{{Suffrage: raft.Voter, ID: raft.ServerID(cfg.NodeID), Address: raft.ServerAddress(addr)}}})
	if err != nil {
		return s, fmt.Errorf("recovering: %w", err)
	}
	if epoch := epochOf(replica.view.Load()) + 1; epoch > id.Epoch { // it had not heard of an earlier recovery
		id.Epoch = epoch
		return s, id.write(cfg.DataDir)
	}
	return s, nil
}

// finishRecovery takes the lost coordinators out of the registry and raises the epoch.
func (r *reign) finishRecovery(ctx context.Context) error {
	n := r.node
	mark := filepath.Join(n.cfg.DataDir, recoveredFile)
	if _, err := os.Stat(mark); err != nil {
		return nil
	}
	var lost []string
	n.State().Nodes(func(rec fsm.Node) bool {
		if rec.Role == fsm.RoleCoordinator && rec.ID != n.cfg.NodeID {
			lost = append(lost, rec.ID)
		}
		return true
	})
	for _, id := range lost {
		if _, err := r.do(ctx, fsm.RemoveNode{ID: id}); err != nil {
			return fmt.Errorf("forgetting node %s: %w", id, err)
		}
	}
	epoch := n.port.epoch.Load()
	if _, err := r.do(ctx, fsm.SetSetting{Key: fsm.SettingEpoch, Value: strconv.FormatUint(epoch, 10)}); err != nil {
		return fmt.Errorf("raising the epoch: %w", err)
	}
	n.log.Warn("recovered from a lost quorum: this node votes alone until others join", "lost", lost, "epoch", epoch)
	return os.Remove(mark)
}
