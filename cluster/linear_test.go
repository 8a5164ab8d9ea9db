package cluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
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

func newCrowd(r *rig) *crowd {
	return &crowd{rig: r, hist: history.New(), read: barrierRead, stop: make(chan struct{})}
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

// end stops the clients, and checks what they saw.
func (c *crowd) end() error {
	close(c.stop)
	c.wg.Wait()
	reads, writes, open := c.hist.Count()
	c.t.Logf("%d reads, %d writes, %d writes without an answer", reads, writes, open)
	if reads < 100 || writes < 50 {
		c.t.Errorf("that is too little to prove anything")
	}
	return c.hist.Check()
}

func (c *crowd) restart(id string, pause time.Duration) {
	c.mu.Lock()
	n := c.nodes[id]
	delete(c.nodes, id)
	c.mu.Unlock()
	n.kill()
	time.Sleep(pause)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open(c.cfgs[id])
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
	c := newCrowd(r)
	c.seed = rnd.Uint64()
	c.begin()
	const pause = 700 * time.Millisecond // longer than an election takes
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
		{"leader's disk is slow", func(l *Node) { r.slowDown(l.cfg.NodeID, 100*time.Millisecond) }},
		{"a follower's disk is slow", func(l *Node) { r.slowDown(c.others(l.cfg.NodeID)[0], 300*time.Millisecond) }},
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
	if err := c.end(); err != nil {
		t.Error(err)
	}
	r.waitVoters(3)
	r.equalDigests()
}

// Reads without a barrier are not linearizable, and the check notices.
func TestLinearizableFails(t *testing.T) {
	t.Parallel()
	r := startRig(t, 1, 1)
	c := newCrowd(r)
	c.read = localRead
	c.begin()
	time.Sleep(300 * time.Millisecond)
	r.isolate("f1")
	time.Sleep(500 * time.Millisecond)
	r.heal()
	if err := c.end(); err == nil {
		t.Error("a reader that asks nobody was not found out")
	}
}

// A write that an old incarnation of the code would have made twice.
func TestLinearizableFailsOnRepeats(t *testing.T) {
	t.Parallel()
	r := startRig(t, 1, 0)
	n, hist, name := r.nodes["c1"], history.New(), chaosName(0)
	do := func(kind history.Kind, value string, act func() (string, error)) {
		sent := hist.Now()
		got, err := act()
		if kind == history.Read {
			value = got
		}
		hist.Add(0, sent, history.Op{Name: name, Kind: kind, Value: value}, err)
	}
	write := func(value string) func() (string, error) {
		return func() (string, error) {
			_, err := n.Write(testContext(t), []mbox.Write{set(name, value, "s")})
			return "", err
		}
	}
	read := func() (string, error) { return barrierRead(testContext(t), n, name) }
	do(history.Set, "1\t", write("1\t"))
	do(history.Set, "2\t", write("2\t"))
	do(history.Read, "", read)
	write("1\t")() // the same again, as if its first answer had been lost
	do(history.Read, "", read)
	if err := hist.Check(); err == nil {
		t.Error("a write that happened twice was not found out")
	}
}
