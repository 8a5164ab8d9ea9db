package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"murder/cluster/admin"
)

// How little room on a node's disk is too little: a share of the disk, but never more than so much. All but
// warnings is for coordinators.
var (
	roomToWarn  = room{10, 2 << 30}  // say so, and take no snapshots but those that are due
	roomToStart = room{5, 256 << 20} // begin at all
	roomToYield = room{3, 512 << 20} // let another coordinator lead
	roomToStop  = room{1, 64 << 20}  // end in order, before a write fails in the middle
	roomToFill  = room{100, 1 << 30} // lay ballast down
)

const (
	spaceInterval = 5 * time.Second
	yieldInterval = time.Minute // between two attempts to let another lead
	ballastSize   = 64 << 20
)

type room struct {
	percent uint64
	octets  uint64
}

// space is what a file system has for this process, and its size; size 0 if unknown.
type space struct{ free, size uint64 }

func (s space) less(r room) bool {
	return s.size > 0 && s.free < min(s.size/100*r.percent, r.octets)
}

func (s space) String() string { return fmt.Sprintf("%d of %d MiB", s.free>>20, s.size>>20) }

func (c *Config) space() space {
	if c.hooks.space != nil {
		return c.hooks.space(c.DataDir)
	}
	return diskSpace(c.DataDir)
}

// FullError says that a coordinator's disk is too full to begin. The process should end with ExitStore
// and may be started again later.
type FullError struct {
	DataDir string
	space   space
}

func (e *FullError) Error() string {
	return fmt.Sprintf("%s free on the disk of %s, and a coordinator needs %d %% or %d MiB to start: make room; \"murderctl node free-ballast --data-dir %s\" gives back %d MiB that are kept for this",
		e.space, e.DataDir, roomToStart.percent, roomToStart.octets>>20, e.DataDir, int64(ballastSize)>>20)
}

// ExitCode is what the process should end with.
func (e *FullError) ExitCode() int { return ExitStore }

// makeRoom refuses to start on a full disk; on one with room to spare it keeps some for bad times.
func (c *Config) makeRoom() error {
	s := c.space()
	if s.less(roomToStart) {
		return &FullError{c.DataDir, s}
	}
	path := filepath.Join(c.DataDir, admin.BallastFile)
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) || s.size == 0 || s.less(roomToFill) || c.hooks.noBallast {
		return nil
	}
	if err := layDown(path, ballastSize); err != nil {
		c.Logger.Warn("no ballast laid down", "err", err)
		os.Remove(path)
	}
	return nil
}

// watchSpace makes a coordinator whose disk fills up step aside in good time. A learner goes on, and stays ready: it
// serves from memory, and so may all others whose disk fills up at the same time. But it can keep no snapshot for its
// next start, and it says so.
func (n *Node) watchSpace(e *engine) {
	t := time.NewTicker(n.cfg.hooks.spaceInterval)
	defer t.Stop()
	var yielded time.Time
	for {
		s := n.cfg.space()
		low := s.less(roomToWarn)
		if low != n.spaceLow.Swap(low) {
			if low {
				n.log.Warn("disk is nearly full", "free_mib", s.free>>20, "size_mib", s.size>>20)
			} else {
				n.log.Info("disk has room again", "free_mib", s.free>>20)
			}
		}
		switch {
		case e.identity.Role != Coordinator:
		case s.less(roomToStop):
			n.log.Error("disk is full: this coordinator stops", "free_mib", s.free>>20, "size_mib", s.size>>20,
				"hint", "make room, or run murderctl node free-ballast, and start it again")
			n.cfg.hooks.exit(ExitStore, fmt.Sprintf("%s free on the disk of %s; this coordinator stops so that no write fails in the middle", s, n.cfg.DataDir))
			return
		case s.less(roomToYield) && n.reign.Load() != nil && time.Since(yielded) > yieldInterval:
			yielded = time.Now()
			n.log.Warn("disk is nearly full: another coordinator shall lead", "free_mib", s.free>>20)
			ctx, cancel := context.WithTimeout(n.ctx, yieldInterval)
			if err := n.transferTo(ctx, ""); err != nil {
				n.log.Warn("leadership transfer failed", "err", err)
			}
			cancel()
		}
		select {
		case <-t.C:
		case <-n.ctx.Done():
			return
		}
	}
}
