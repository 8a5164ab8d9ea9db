package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"

	"murder/fsm"
)

// DamagedError says that what a stopped node left on its disk is not what it wrote. Starting again
// does not help.
type DamagedError struct {
	NodeID  string
	DataDir string
	What    string // and where
}

// Error tells the whole way back: a coordinator must not vote again with less than it knew, so it is
// taken in as a new one.
func (d *DamagedError) Error() string {
	return fmt.Sprintf(`%s
The other coordinators have all that this one had. To bring it back:
  on another coordinator:  murderctl member remove %s --yes
  here, with murderd stopped:  mv %s %s.damaged
  on another coordinator:  murderctl cluster token create --role coordinator
  here, with murderd started:  murderctl cluster join TOKEN
Without a majority of the others, see "murderd recover" there first`, d.What, d.NodeID, d.DataDir, d.DataDir)
}

// ExitCode is what the process should end with.
func (d *DamagedError) ExitCode() int { return ExitCorrupt }

func (c *Config) damaged(format string, args ...any) error {
	return &DamagedError{c.NodeID, c.DataDir, fmt.Sprintf(format, args...)}
}

// checkLogFile refuses a coordinator whose log has vanished: it has forgotten whom it gave its vote, and
// could give it twice.
func (c *Config) checkLogFile() error {
	path := c.logFile()
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return c.damaged("this coordinator is a member, but its log %s is missing.", path)
	case err != nil:
		return fmt.Errorf("opening the log: %w", err)
	case info.Size() == 0:
		return c.damaged("this coordinator is a member, but its log %s is empty.", path)
	}
	return nil
}

func (c *Config) logFile() string { return filepath.Join(c.DataDir, raftDir, "raft.db") }

// checkDatabase refuses a log file that bbolt cannot be trusted with.
func (c *Config) checkDatabase(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("opening the log: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("opening the log: %w", err)
	}
	if info.Size() == 0 {
		return nil // bbolt makes a new one of it
	}
	if err := checkPages(f, info.Size(), "conf", "logs"); err != nil {
		return c.damaged("the log %s is damaged: %v.", path, err)
	}
	return nil
}

// checkLog reads the whole log: raft would notice some damage when it is too late, and some never.
// Every entry must be at its place and hold what was written; behind the newest good snapshot none may
// be missing.
func (c *Config) checkLog(log raft.LogStore, snapshot uint64) error {
	first, err := log.FirstIndex()
	if err != nil {
		return err
	}
	last, err := log.LastIndex()
	if err != nil {
		return err
	}
	if last > snapshot && first > snapshot+1 {
		return c.damaged("the log in %s begins at entry %d, and there is no good snapshot behind entry %d.", c.DataDir, first, snapshot)
	}
	var term uint64
	for index := max(first, 1); index <= last; index++ {
		var entry raft.Log
		switch err := log.GetLog(index, &entry); {
		case errors.Is(err, raft.ErrLogNotFound) && index <= snapshot:
			term = 0 // a snapshot from the leader was put over a gap, and what is before it may be void
			continue
		case err != nil:
			return c.damaged("entry %d of the log in %s cannot be read: %v.", index, c.DataDir, err)
		case entry.Index != index || entry.Term < term || entry.Term == 0:
			return c.damaged("entry %d of the log in %s says that it is entry %d of term %d, after one of term %d.", index, c.DataDir, entry.Index, entry.Term, term)
		}
		term = entry.Term
		if err := checkEntry(&entry); err != nil {
			return c.damaged("entry %d of the log in %s is damaged: %v.", index, c.DataDir, err)
		}
	}
	return nil
}

func checkEntry(l *raft.Log) error {
	switch l.Type {
	case raft.LogCommand:
		var corrupt *fsm.CorruptError
		if err := fsm.CheckEntry(l.Data); errors.As(err, &corrupt) {
			return err
		}
		return nil // what is too new for this binary is told when it is applied
	case raft.LogNoop, raft.LogBarrier:
		if len(l.Data) != 0 {
			return fmt.Errorf("it has %d octets too many", len(l.Data))
		}
		return nil
	case raft.LogConfiguration:
		return checkConfiguration(l.Data)
	}
	return fmt.Errorf("it is of an unknown kind %d", l.Type)
}

func checkConfiguration(data []byte) (err error) {
	defer func() {
		if p := recover(); p != nil { // the library panics
			err = fmt.Errorf("%v", p)
		}
	}()
	raft.DecodeConfiguration(data)
	return nil
}

// checkSnapshots returns the index of the newest snapshot that can be read. Bad ones are passed over,
// as the library does; when none of them is good, a coordinator cannot go on.
func (c *Config) checkSnapshots(store raft.SnapshotStore) (index uint64, err error) {
	list, err := store.List()
	if err != nil {
		return 0, fmt.Errorf("listing the snapshots: %w", err)
	}
	var bad error
	for _, s := range list {
		_, r, err := store.Open(s.ID) // compares its checksum
		if err == nil {
			r.Close()
			return s.Index, nil
		}
		bad = err
		c.Logger.Error("snapshot is damaged", "index", s.Index, "err", err, "file", filepath.Join(c.DataDir, raftDir, "snapshots", s.ID))
	}
	if bad != nil {
		return 0, c.damaged("none of the %d snapshots in %s can be read: %v.", len(list), filepath.Join(c.DataDir, raftDir, "snapshots"), bad)
	}
	return 0, nil
}

// beginAnew ends the process of a learner whose copy was found to be wrong (judge.go), after throwing that copy
// away: started again, it gets everything from the leader.
func (n *Node) beginAnew(e *engine) {
	n.log.Error("copy is wrong: this learner throws it away and stops, to begin anew when it is started again")
	ended := make(chan error, 1)
	go func() { ended <- e.feed.stop() }() // it must not write another snapshot of it
	select {
	case err := <-ended:
		if err != nil {
			n.log.Warn("stopping the feed failed", "err", err)
		}
	case <-time.After(raftCallLimit):
	}
	if err := n.cfg.dropSnapshots(); err != nil {
		n.log.Error("copy not removed", "err", err)
	}
	n.cfg.hooks.exit(ExitStore, "the copy differed from that of a majority of the voters and was thrown away")
}

// dropSnapshots lets a learner begin anew: it gets everything from the leader.
func (c *Config) dropSnapshots() error {
	return os.RemoveAll(filepath.Join(c.DataDir, raftDir, "snapshots"))
}
