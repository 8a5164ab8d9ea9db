package cluster

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// disk is what a node's log lies on, and what is wrong with it. It outlives the node's process.
type disk struct {
	mu    sync.Mutex
	slow  time.Duration // each write takes longer by so much
	err   error         // of each write
	hangs chan struct{} // until it is closed, no call comes back
	crash *crash
}

func (d *disk) slowDown(by time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.slow = by
}

func (d *disk) fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
}

// hang lets no call come back before release is called.
func (d *disk) hang() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hangs = make(chan struct{})
}

func (d *disk) release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.hangs != nil {
		close(d.hangs)
		d.hangs = nil
	}
}

// heal ends what does not end a process.
func (d *disk) heal() {
	d.slowDown(0)
	d.release()
}

// touch is what every call goes through.
func (d *disk) touch() {
	d.mu.Lock()
	hangs := d.hangs
	d.mu.Unlock()
	if hangs != nil {
		<-hangs
	}
}

// diskStore is a log on such a disk.
type diskStore struct {
	logAndStable
	*disk
}

func (s *diskStore) StoreLogs(l []*raft.Log) error {
	s.touch()
	s.mu.Lock()
	slow, err, crash := s.slow, s.err, s.crash
	s.crash = nil
	s.mu.Unlock()
	time.Sleep(slow)
	switch {
	case err != nil:
		return err
	case crash != nil:
		return crash.write(func() error { return s.logAndStable.StoreLogs(l) })
	}
	return s.logAndStable.StoreLogs(l)
}

func (s *diskStore) GetLog(index uint64, l *raft.Log) error {
	s.touch()
	return s.logAndStable.GetLog(index, l)
}

// crash is a write in whose middle the machine stops.
type crash struct {
	path          string // of the log
	before, after []byte
	happened      chan struct{}
	over          chan struct{} // closed when the process is gone
}

var errCrashed = errors.New("the machine has stopped")

// crashNext makes the next write of the log the last.
func (d *disk) crashNext(path string) *crash {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.crash = &crash{path: path, happened: make(chan struct{}), over: make(chan struct{})}
	return d.crash
}

// write never comes to its end: nobody hears that it succeeded.
func (c *crash) write(store func() error) error {
	var err [3]error
	c.before, err[0] = os.ReadFile(c.path)
	err[1] = store()
	c.after, err[2] = os.ReadFile(c.path)
	close(c.happened)
	<-c.over
	return errors.Join(append(err[:], errCrashed)...)
}

// torn is a file that such a crash may leave: all of the last write, though nobody heard of it, or some of its pages
// and halves of others. The header is then the old one: it is written when the rest is on the disk, and in one sector.
func (c *crash) torn(rnd *rand.Rand) []byte {
	if rnd.IntN(4) == 0 {
		return c.after
	}
	page := os.Getpagesize()
	file := bytes.Clone(c.before)
	if n := len(c.after) - len(file); n > 0 && rnd.IntN(2) == 0 {
		file = append(file, make([]byte, n)...)
	}
	for at := 2 * page; at+page <= min(len(file), len(c.after)); at += page { // behind the two headers
		copy(file[at:], c.after[at:at+rnd.IntN(3)*page/2])
	}
	return file
}

// crashing lets a node's machine stop in the middle of its next write of the log, and returns what is on its disk
// then. Nobody hears of the node until it is opened again.
func (r *rig) crashing(id string) *crash {
	r.t.Helper()
	cfg := r.cfgs[id]
	c := r.disk(id).crashNext(cfg.logFile())
	select {
	case <-c.happened:
	case <-time.After(20 * time.Second):
		r.t.Fatalf("%s writes nothing", id)
	}
	if len(c.before) == 0 || bytes.Equal(c.before, c.after) {
		r.t.Fatal("the last write is not in the file")
	}
	r.isolate(id)
	r.mayEnd(id)
	close(c.over)
	return c
}

// A coordinator whose machine stops in the middle of a write has what was there before, whatever is there of the
// write, and goes on.
func TestCrashInTheMiddleOfAWrite(t *testing.T) {
	t.Parallel()
	r := startRig(t, 3, 0)
	rnd := rand.New(rand.NewPCG(rand.Uint64(), 3))
	for _, kind := range []string{"follower", "leader"} {
		l := r.waitLeader()
		write(t, l, activate("user.before-"+kind))
		n := l
		if kind == "follower" {
			n = r.followers(l.cfg.NodeID)[0]
		}
		id, last := n.cfg.NodeID, n.engine.Load().raft.LastIndex
		over := make(chan struct{})
		go func() {
			defer close(over)
			write(t, r.followers(id)[0], activate("user.after-"+kind))
		}()
		c := r.crashing(id)
		r.kill(id)
		least := last()
		<-over
		cfg := r.cfgs[id]
		for i := range 20 {
			if err := os.WriteFile(cfg.logFile(), c.torn(rnd), 0o600); err != nil {
				t.Fatal(err)
			}
			if s, err := Inspect(cfg); err != nil || s.LastIndex < least {
				t.Fatalf("%s, crash %d: entry %d is the last, not %d: %v", kind, i, s.LastIndex, least, err)
			}
		}
		r.heal()
		n = r.open(cfg)
		write(t, n, activate("user.again-"+kind))
		r.waitVoters(3)
		r.equalDigests()
		mustHave(t, n, "user.before-"+kind)
		mustHave(t, n, "user.after-"+kind)
	}
}
