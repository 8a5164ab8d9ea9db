package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"murder/test/harness"
	"murder/test/history"
)

func undecided(err error) bool { return errors.Is(err, history.ErrUndecided) }

// withSkew starts nodes with a wall clock that movedClock can move.
func withSkew(c *harness.Cluster) func(string, *exec.Cmd) error {
	return func(id string, cmd *exec.Cmd) error {
		cmd.Env = append(os.Environ(), "MURDER_SKEW="+skewFile(c, id))
		return cmd.Start()
	}
}

// skewFile holds how far a node's wall clock is ahead, in a build that looks at it.
func skewFile(c *harness.Cluster, id string) string { return filepath.Join(c.Dir, id+".skew") }

// movedClock moves a node's wall clock by hours or days, either way, and later back. New connections are made
// meanwhile, so certificates are looked at; they have to be good at both times.
func movedClock(s *storm) error {
	id, _ := s.anyone()
	by := s.between(time.Minute, 20*24*time.Hour)
	if s.rnd.IntN(2) == 0 {
		by = -s.between(time.Second, 20*time.Minute) // further back a young cluster's certificates are not good yet
	}
	if err := os.WriteFile(skewFile(s.c, id), []byte(by.String()), 0o600); err != nil {
		return err
	}
	time.Sleep(50 * time.Millisecond)
	if err := s.goOn(30); err != nil {
		return err
	}
	if s.rnd.IntN(2) == 0 {
		l, err := s.leader()
		if err == nil && l != id {
			err = s.retry(func() error { return s.ctl("cluster", "transfer") })
		}
		if err != nil {
			return err
		}
	}
	if err := s.settle(); err != nil {
		return fmt.Errorf("clock of %s moved by %s: %w", id, by, err)
	}
	return os.Remove(skewFile(s.c, id))
}

func (s *storm) data(id string) string { return filepath.Join(s.c.Dir, id, "data") }

// changedBits changes a stopped coordinator's log. It must find that and say so, unless the change is where
// nobody reads any more: then it must be like the others. With its log put right it comes back.
func changedBits(s *storm) error {
	id, err := s.follower()
	if err == nil {
		err = s.c.Kill(id)
	}
	if err != nil {
		return err
	}
	db := filepath.Join(s.data(id), "raft", "raft.db")
	whole, err := os.ReadFile(db)
	if err != nil {
		return err
	}
	damaged := bytes.ReplaceAll(whole, []byte("user."), []byte("usfr."))
	if s.rnd.IntN(2) == 0 {
		damaged = whole[:s.rnd.IntN(len(whole))]
	}
	if err := os.WriteFile(db, damaged, 0o600); err != nil {
		return err
	}
	if err := s.c.Launch(id); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	if s.c.AwaitReady(ctx, id) == nil {
		s.fault("bits changed, where nobody reads")
		return nil
	}
	if code, err := s.c.Ended(ctx, id); err != nil || code != 76 {
		return fmt.Errorf("%s with a damaged log: exit %d, %v", id, code, err)
	}
	if err := os.WriteFile(db, whole, 0o600); err != nil {
		return err
	}
	return s.c.Start(id)
}

// lostDisk empties a killed coordinator's directory. It joins again as a new one, and votes after a while.
func lostDisk(s *storm) error {
	leader, err := s.leader()
	if err != nil {
		return err
	}
	id, err := s.follower()
	if err == nil {
		err = s.c.Kill(id)
	}
	if err == nil {
		err = emptyDir(s.data(id))
	}
	if err == nil {
		err = s.c.Launch(id)
	}
	if err != nil {
		return err
	}
	var token string
	err = s.retry(func() error {
		out, err := s.c.Murderctl(s.ctx, leader, "cluster", "token", "create", "--role", "coordinator")
		token = strings.TrimSpace(string(out))
		return err
	})
	if err == nil {
		err = s.retry(func() error {
			_, err := s.c.Murderctl(s.ctx, id, "cluster", "join", token)
			return err
		})
	}
	if err != nil {
		return err
	}
	return s.retry(func() error {
		st, err := s.c.Status(s.ctx, leader)
		if err == nil && st.Voters != len(s.c.Coordinators()) {
			err = fmt.Errorf("%d voters", st.Voters)
		}
		return err
	})
}

// emptyDir removes what is in a directory, which may be a file system of its own.
func emptyDir(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}

// oldCopy gives a learner the directory that it had some time ago, as from an image of its disk.
func oldCopy(s *storm) error {
	id, _ := s.learner()
	old := s.data(id) + ".old"
	defer os.RemoveAll(old)
	err := s.c.Stop(id)
	if err == nil {
		err = os.CopyFS(old, os.DirFS(s.data(id)))
	}
	if err == nil {
		err = s.c.Start(id)
	}
	if err == nil {
		err = s.goOn(50)
	}
	if err == nil {
		err = s.c.Kill(id)
	}
	if err == nil {
		err = emptyDir(s.data(id))
	}
	if err == nil {
		err = os.CopyFS(s.data(id), os.DirFS(old))
	}
	if err == nil {
		err = filepath.WalkDir(s.data(id), func(path string, d fs.DirEntry, err error) error { // CopyFS forgets modes
			if err == nil && !d.IsDir() {
				err = os.Chmod(path, 0o600)
			}
			return err
		})
	}
	if err == nil {
		err = s.c.Start(id)
	}
	return err
}
