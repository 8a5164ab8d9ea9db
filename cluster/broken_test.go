package cluster

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"murder/fsm"
	"murder/internal/mbox"
	"murder/test/seed"
)

// Builds that are broken on purpose. Under the same events the histories of a sound one are linearizable, and those
// of each of these are not: what TestLinearizable checks can fail.
func TestBrokenBuildsAreFoundOut(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		read  func(context.Context, *Node, mbox.Name) (string, error)
		alter func([]byte) []byte // of entries, when they are applied
		event func(*crowd)
		sound bool
	}{
		{name: "reads ask the voters, while the lead passes to another part", read: barrierRead, event: partedLead, sound: true},
		{name: "reads ask whoever follows, as VerifyLeader does, while the lead passes to another part", read: verifyRead, event: partedLead},
		{name: "reads ask nobody, while the lead passes to another part", read: localRead, event: partedLead},
		{name: "writes happen once, while answers are lost", read: barrierRead, event: lostAnswers, sound: true},
		{name: "writes happen as often as they arrive, while answers are lost", read: barrierRead, alter: withoutNumbers, event: lostAnswers},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			rnd := seed.Rand(t)
			r := newRig(t)
			r.configure = func(cfg *Config) { cfg.Timing, cfg.hooks.alter = "wan", c.alter }
			r.net.rnd = rand.New(rand.NewPCG(rnd.Uint64(), 0))
			r.grow(3, 2)
			k := newCrowd(r)
			k.read, k.seed = c.read, rnd.Uint64()
			k.begin()
			c.event(k)
			switch err := k.end(40); {
			case err != nil && c.sound:
				t.Error(err)
			case err == nil && !c.sound:
				t.Error("it was not found out")
			case err != nil:
				t.Logf("found out, as it should be: %.200s", err)
			}
		})
	}
}

// partedLead hands the lead over in the moment in which the network parts between the old leader, with the learners,
// and the voters. Until its lease runs out, the old leader thinks that it leads.
func partedLead(c *crowd) {
	c.enough(40)
	rnd := rand.New(rand.NewPCG(c.seed, 1))
	for range 10 {
		l := c.waitLeader()
		others := c.others(l.cfg.NodeID)
		for _, id := range []string{l.cfg.NodeID, "f1", "f2"} {
			c.separate(id, false, others...)
		}
		next, voter := c.node(others[0]), c.node(others[1])
		if voter.engine.Load().raft.LastIndex() > next.engine.Load().raft.LastIndex() { // it would not get the vote
			next, voter = voter, next
		}
		handOver(c.t, voter, next)
		leads := func() bool { return l.engine.Load().raft.State() == raft.Leader }
		for leads() && next.reign.Load() == nil {
			time.Sleep(time.Millisecond)
		}
		written := false
		for range 20 {
			c.writeOnce(1000, next.cfg.NodeID, rnd)
			if !leads() {
				break
			}
			written = true
			c.readOnce(1001, l.cfg.NodeID, rnd)
		}
		c.heal()
		if written {
			return
		}
		c.waitVoters(3) // too slow: the lease had run out
	}
	c.t.Error("two never led at the same time")
}

// handOver sends a node the request of a leader that hands over to it, as if it had been on its way.
func handOver(t testing.TB, from, to *Node) {
	id, trans := raft.ServerID(from.cfg.NodeID), from.engine.Load().trans
	req := &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(id),
		Addr: trans.EncodePeer(id, raft.ServerAddress(from.Address()))}}
	if err := trans.TimeoutNow(raft.ServerID(to.cfg.NodeID), raft.ServerAddress(to.Address()), req, new(raft.TimeoutNowResponse)); err != nil {
		t.Error(err)
	}
}

// lostAnswers lets what is proposed arrive, and its answer be lost, so that it is sent again, or come again behind
// what others have written since.
func lostAnswers(c *crowd) {
	c.net.mu.Lock()
	for id := range c.cfgs {
		c.net.odd[[2]string{id, ""}] = mood{unanswered: .3, echo: .3}
	}
	c.net.mu.Unlock()
	c.enough(150)
}

// enough waits for so many writes.
func (c *crowd) enough(want int) {
	c.t.Helper()
	c.eventually("writes enough", func() bool { _, writes, open := c.hist.Count(); return writes+open >= want })
}

// verifyRead believes the library, which asks learners, too, whether a leader still leads.
func verifyRead(ctx context.Context, n *Node, name mbox.Name) (string, error) {
	if n.reign.Load() == nil {
		return barrierRead(ctx, n, name)
	}
	if err := await(ctx, n.engine.Load().raft.VerifyLeader()); err != nil {
		return "", err
	}
	return localRead(ctx, n, name)
}

// withoutNumbers takes from the writes of an entry what tells a repetition from another write.
func withoutNumbers(entry []byte) []byte {
	envelopes, err := fsm.ReadEntry(entry)
	if err != nil {
		return entry
	}
	for i, e := range envelopes {
		if _, ok := e.Command.(fsm.MailboxWrite); ok {
			envelopes[i] = fsm.Envelope{Command: e.Command}
		}
	}
	return fsm.AppendBatch(nil, 0, envelopes)
}
