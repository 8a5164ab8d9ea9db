package cluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"murder/internal/mbox"
	"murder/test/history"
	"murder/test/seed"
)

// chaosNames is few, so that clients meet.
const chaosNames = 4

// crowd is clients that write and read the same names through all nodes, while a test breaks things.
type crowd struct {
	*rig
	hist *history.History
	// read is how a client reads: a barrier and then the copy, unless a test says otherwise.
	read func(ctx context.Context, n *Node, name mbox.Name) (string, error)

	seed uint64

	mu   sync.RWMutex // nodes come and go
	stop chan struct{}
	wg   sync.WaitGroup
}

// newCrowd takes its chance, and the network's, from rnd.
func newCrowd(r *rig, rnd *rand.Rand) *crowd {
	r.net.reseed(rnd.Uint64())
	return &crowd{rig: r, hist: history.New(), read: barrierRead, seed: rnd.Uint64(), stop: make(chan struct{})}
}

func barrierRead(ctx context.Context, n *Node, name mbox.Name) (string, error) {
	if _, err := n.Barrier(ctx); err != nil {
		return "", err
	}
	return localRead(ctx, n, name)
}

func localRead(_ context.Context, n *Node, name mbox.Name) (string, error) {
	e, _ := n.View().Get(name)
	return string(e.ACL), nil
}

func chaosName(i int) mbox.Name { return mbox.Name(fmt.Sprint("user.chaos", i)) }

// set and remove are writes of one server, which may always do both.
func set(name mbox.Name, value, session string) mbox.Write {
	w := activate(string(name))
	w.ACL, w.By.ID = mbox.ACL(value), session
	return w
}

func remove(name mbox.Name, session string) mbox.Write {
	w := set(name, "", session)
	w.Kind, w.Location, w.By.Flags = mbox.Delete, "", mbox.DenyUnknownDelete
	return w
}

func (c *crowd) node(id string) *Node {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.nodes[id]
}

// begin starts a writer and two readers at every node.
func (c *crowd) begin() {
	client := 0
	for id := range c.nodes {
		for _, work := range []func(client int, id string, rnd *rand.Rand){c.writeOnce, c.readOnce, c.readOnce} {
			client++
			client := client
			c.wg.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(client), c.seed))
				for {
					select {
					case <-c.stop:
						return
					case <-time.After(time.Duration(rnd.IntN(20)) * time.Millisecond):
						work(client, id, rnd)
					}
				}
			})
		}
	}
}

func (c *crowd) writeOnce(client int, id string, rnd *rand.Rand) {
	n := c.node(id)
	if n == nil {
		return
	}
	session := fmt.Sprint("s", client)
	op := history.Op{Name: chaosName(rnd.IntN(chaosNames)), Kind: history.Set, By: id}
	sent := c.hist.Now()
	op.Value = fmt.Sprintf("%s %d\t", session, sent.Nanoseconds())
	w := set(op.Name, op.Value, session)
	if rnd.IntN(4) == 0 {
		op.Kind, op.Value, w = history.Delete, "", remove(op.Name, session)
	}
	// Some give up before an answer may be expected from a cluster without a leader.
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(20+rnd.IntN(1500))*time.Millisecond)
	defer cancel()
	verdicts, err := n.Write(ctx, []mbox.Write{w})
	if err == nil {
		switch o := verdicts[0].Outcome; {
		case op.Kind == history.Delete && (o == mbox.Done || o == mbox.NotExist):
			op.Absent = o == mbox.NotExist
		case o != mbox.Done:
			c.t.Errorf("%s: %v", op, o)
		}
	}
	c.hist.Add(client, sent, op, err)
}

func (c *crowd) readOnce(client int, id string, rnd *rand.Rand) {
	n := c.node(id)
	if n == nil {
		return
	}
	op := history.Op{Name: chaosName(rnd.IntN(chaosNames)), Kind: history.Read, By: id}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	sent := c.hist.Now()
	var err error
	op.Value, err = c.read(ctx, n, op.Name)
	c.hist.Add(client, sent, op, err)
}

// end stops the clients, and checks what they saw. It has to be so many operations at least.
func (c *crowd) end(least int) error {
	close(c.stop)
	c.wg.Wait()
	reads, writes, open := c.hist.Count()
	c.t.Logf("%d reads, %d writes, %d writes without an answer", reads, writes, open)
	if reads < least || writes < least/2 {
		c.t.Errorf("that is too little to prove anything")
	}
	return c.hist.Check()
}

// down kills a node, and up starts it again.
func (c *crowd) down(id string) {
	c.mu.Lock()
	n := c.nodes[id]
	delete(c.nodes, id)
	c.mu.Unlock()
	n.kill()
}

func (c *crowd) up(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open(c.cfgs[id])
}

func (c *crowd) restart(id string, pause time.Duration) {
	c.down(id)
	time.Sleep(pause) // so long it is away
	c.up(id)
}

// diskFails lets all writes to a node's disk fail. Its process ends, and comes back when the disk is whole.
func (c *crowd) diskFails(id string, err error, pause time.Duration) {
	ended := c.mayEnd(id)
	c.disk(id).fail(err)
	select {
	case code := <-ended:
		if code != ExitStore {
			c.t.Errorf("%s with a failing disk: exit %d", id, code)
		}
	case <-time.After(20 * time.Second):
		c.t.Errorf("%s goes on with a failing disk", id)
	}
	c.down(id)
	time.Sleep(pause) // so long it is away
	c.disk(id).fail(nil)
	c.up(id)
}

// crashes lets a node's machine stop in the middle of a write of its log, and start again with what is there of it.
func (c *crowd) crashes(id string, pause time.Duration, rnd *rand.Rand) {
	at := c.crashing(id)
	c.down(id)
	time.Sleep(pause) // so long it is away
	cfg := c.cfgs[id]
	if err := os.WriteFile(cfg.logFile(), at.torn(rnd), 0o600); err != nil {
		c.t.Error(err)
	}
	c.heal()
	c.up(id)
}

func (c *crowd) others(id string) []string {
	var ids []string
	for _, o := range []string{"c1", "c2", "c3"} {
		if o != id {
			ids = append(ids, o)
		}
	}
	return ids
}

// What clients see through any node, learners too, could come from one map, whatever happens to the
// leader meanwhile.
func TestLinearizable(t *testing.T) {
	t.Parallel()
	rnd := seed.Rand(t)
	r := startRig(t, 3, 2)
	c := newCrowd(r, rnd)
	c.begin()
	const pause = 700 * time.Millisecond // longer than an election takes: a fault lasts so long, whatever comes of it
	faults := []struct {
		name string
		do   func(leader *Node)
	}{
		{"leader alone", func(l *Node) { r.isolate(l.cfg.NodeID) }},
		{"leader with learners only", func(l *Node) { r.separate(l.cfg.NodeID, false, c.others(l.cfg.NodeID)...) }},
		{"leader heard by nobody", func(l *Node) { r.separate(l.cfg.NodeID, true, c.others(l.cfg.NodeID)...) }},
		{"leader and one follower", func(l *Node) { r.separate(l.cfg.NodeID, false, c.others(l.cfg.NodeID)[0]) }},
		{"learner alone", func(*Node) { r.isolate("f1") }},
		{"transfer", func(l *Node) {
			if err := l.Transfer(testContext(t), ""); err != nil {
				t.Logf("transfer: %v", err)
			}
		}},
		{"leader restarts", func(l *Node) { c.restart(l.cfg.NodeID, pause) }},
		{"follower restarts", func(l *Node) { c.restart(c.others(l.cfg.NodeID)[1], 0) }},
		{"learner restarts", func(*Node) { c.restart("f2", 0) }},
		{"connections break", func(*Node) { r.sever() }},
		{"a voter becomes a learner and votes again", func(l *Node) {
			e, id := l.engine.Load(), c.others(l.cfg.NodeID)[0]
			if err := e.raft.DemoteVoter(raft.ServerID(id), 0, time.Second).Error(); err != nil {
				t.Logf("demoting %s: %v", id, err)
			}
		}},
		{"leader's clock jumps ahead", func(l *Node) { r.jump(l.cfg.NodeID, 26*time.Hour); r.sever() }},
		{"a follower's clock jumps ahead, and back", func(l *Node) {
			id := c.others(l.cfg.NodeID)[0]
			r.jump(id, 20*24*time.Hour)
			r.sever()
			time.Sleep(pause / 2)
			r.jump(id, -20*24*time.Hour)
		}},
		{"leader's disk is slow", func(l *Node) { r.disk(l.cfg.NodeID).slowDown(100 * time.Millisecond) }},
		{"leader's disk hangs for a while", func(l *Node) { r.disk(l.cfg.NodeID).hang() }},
		{"leader's disk is full", func(l *Node) { c.diskFails(l.cfg.NodeID, syscall.ENOSPC, pause) }},
		{"a follower's disk fails", func(l *Node) { c.diskFails(c.others(l.cfg.NodeID)[0], syscall.EIO, 0) }},
		{"leader's machine stops in the middle of a write", func(l *Node) { c.crashes(l.cfg.NodeID, pause, rnd) }},
		{"a follower's machine stops in the middle of a write", func(l *Node) { c.crashes(c.others(l.cfg.NodeID)[1], 0, rnd) }},
		{"messages come twice", func(*Node) { r.net.setMood(mood{twice: .5}) }},
		{"messages come again, behind others", func(*Node) { r.net.setMood(mood{echo: .3}) }},
		{"messages are late", func(*Node) { r.net.setMood(mood{delay: 60 * time.Millisecond}) }},
		{"messages and answers are lost", func(*Node) { r.net.setMood(mood{lost: .2, unanswered: .2}) }},
		{"messages suffer all of that", func(*Node) {
			r.net.setMood(mood{lost: .1, unanswered: .1, twice: .2, echo: .2, delay: 30 * time.Millisecond})
		}},
		{"leader hears no answers", func(l *Node) { r.deaf(l.cfg.NodeID, c.others(l.cfg.NodeID)...) }},
		{"a follower's disk is slow", func(l *Node) { r.disk(c.others(l.cfg.NodeID)[0]).slowDown(300 * time.Millisecond) }},
	}
	rnd.Shuffle(len(faults), func(i, j int) { faults[i], faults[j] = faults[j], faults[i] })
	for _, f := range faults {
		l := r.waitLeader()
		t.Logf("%6.2f s: %s (%s leads)", c.hist.Now().Seconds(), f.name, l.cfg.NodeID)
		f.do(l)
		time.Sleep(pause)
		r.heal()
		time.Sleep(pause / 2)
	}
	r.waitLeader()
	if err := c.end(100); err != nil {
		t.Error(err)
	}
	r.waitVoters(3)
	r.equalDigests()
}
