package chaos

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"murder/test/harness"
)

// A storm of faults on processes, on the network between them, and on their disks.
func TestStormInNetworks(t *testing.T) {
	long(t)
	if !alone(t, "skew") {
		return
	}
	r := newReport(t)
	rnd := r.rand()
	sh(t, "mount --make-rprivate /\nip link set lo up")
	var c *harness.Cluster
	t.Cleanup(func() { // behind the end of the nodes: what is mounted cannot be removed
		for _, id := range c.Coordinators() {
			exec.Command("umount", filepath.Join(c.Dir, id, "data")).Run()
		}
		if os.Getenv("MURDER_KEEP") == "" {
			os.RemoveAll(c.Dir)
		}
	})
	c = harness.Start(t, stormOptions(""))
	w := separate(t, c, rnd, func(id string) { // a disk of its own, that can be full
		data := filepath.Join(c.Dir, id, "data")
		sh(t, "mkdir "+data+".own\nmount -t tmpfs -o size=512m own "+data+".own\nrm -f "+data+"/ballast\ncp -a "+data+"/. "+data+".own/\nmount --move "+data+".own "+data)
	})
	newStorm(r, c, rnd).run(append(append(processFaults(), networkFaults(w)...), fault{"full disk of a coordinator", fullDisk}))
}

func networkFaults(w *wire) []fault {
	during := func(kind string, cut func(s *storm, leader string, others []string) error) fault {
		return fault{kind, func(s *storm) error {
			l, err := s.leader()
			if err != nil {
				return err
			}
			others := slices.DeleteFunc(s.c.Coordinators(), func(id string) bool { return id == l })
			s.rnd.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
			defer w.heal()
			if err := cut(s, l, others); err != nil {
				return err
			}
			time.Sleep(s.between(300*time.Millisecond, 4*time.Second)) // here and below: so long the fault lasts
			return nil
		}}
	}
	everybody := func(s *storm, but string) []string {
		return slices.DeleteFunc(s.c.Nodes(), func(id string) bool { return id == but })
	}
	return []fault{
		during("leader cut off from all", func(s *storm, l string, _ []string) error { w.cutBoth(l, everybody(s, l)...); return nil }),
		during("leader reaches learners only", func(_ *storm, l string, others []string) error { w.cutBoth(l, others...); return nil }),
		during("leader is not heard", func(_ *storm, l string, others []string) error { w.cut(l, others...); return nil }),
		during("leader hears nobody", func(_ *storm, l string, others []string) error {
			for _, o := range others {
				w.cut(o, l)
			}
			return nil
		}),
		during("leader and one follower apart", func(_ *storm, l string, others []string) error { w.cutBoth(l, others[0]); return nil }),
		during("one follower hears the leader no more", func(_ *storm, l string, others []string) error { w.cut(l, others[0]); return nil }),
		during("followers apart", func(_ *storm, _ string, others []string) error { w.cutBoth(others[0], others[1]); return nil }),
		during("a learner cut off", func(s *storm, _ string, _ []string) error {
			id, err := s.learner()
			w.cutBoth(id, everybody(s, id)...)
			return err
		}),
		during("switch parted in two", func(s *storm, _ string, _ []string) error {
			ids := s.c.Nodes()
			s.rnd.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
			at := 1 + s.rnd.IntN(len(ids)-1)
			w.split(ids[:at], ids[at:])
			return nil
		}),
		during("all apart", func(s *storm, _ string, _ []string) error {
			for _, id := range s.c.Nodes() {
				w.cutBoth(id, everybody(s, id)...)
			}
			return nil
		}),
		during("everything late", func(s *storm, _ string, _ []string) error {
			w.everywhere(rule{delay: s.between(time.Millisecond, 30*time.Millisecond), jitter: 20 * time.Millisecond})
			return nil
		}),
		during("packets lost", func(s *storm, _ string, _ []string) error {
			w.everywhere(rule{loss: .01 + s.rnd.Float64()/10})
			return nil
		}),
		{"leader stopped by SIGSTOP while cut off", func(s *storm) error {
			l, err := s.leader()
			if err != nil {
				return err
			}
			w.cutBoth(l, everybody(s, l)...)
			err = s.c.Pause(l)
			time.Sleep(s.between(time.Second, 4*time.Second))
			w.heal()
			if rerr := s.c.Resume(l); err == nil {
				err = rerr
			}
			return err
		}},
		{"leader killed while a follower is cut off", func(s *storm) error {
			l, err := s.leader()
			if err != nil {
				return err
			}
			other, err := s.follower()
			if err != nil {
				return err
			}
			w.cutBoth(other, everybody(s, other)...)
			if err := s.c.Kill(l); err != nil {
				return err
			}
			time.Sleep(s.between(100*time.Millisecond, 3*time.Second))
			w.heal()
			if err := s.goOn(10); err != nil {
				return err
			}
			return s.c.Start(l)
		}},
	}
}

// fullDisk fills a coordinator's disk. It ends by itself, with the code that says why, and comes back when
// there is room again.
func fullDisk(s *storm) error {
	id, err := s.leader()
	if err == nil && s.rnd.IntN(2) == 0 {
		id, err = s.follower()
	}
	if err != nil {
		return err
	}
	filler := filepath.Join(s.data(id), "filler")
	exec.Command("dd", "if=/dev/zero", "of="+filler, "bs=64k").Run() // ends when there is no room
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	code, err := s.c.Ended(ctx, id)
	if rerr := os.Remove(filler); err == nil {
		err = rerr
	}
	if err != nil || code != 74 {
		return fmt.Errorf("%s with a full disk: exit %d, %v", id, code, err)
	}
	if err := s.goOn(20); err != nil {
		return err
	}
	return s.c.Start(id)
}
