package cluster

import (
	"fmt"
	"time"

	"murder/cluster/admin"
)

const (
	pulseInterval = time.Second
	pulseLimit    = 5 * time.Second
)

// keepPulse goes round what every request needs: a lock that nobody gives back any more stops it, and then this
// process is not alive whatever else still moves. Nothing in it waits for a disk, another node or a long
// operation.
func (n *Node) keepPulse() {
	t := time.NewTicker(pulseInterval)
	defer t.Stop()
	for {
		n.replica.applied()
		n.proposer.lowWater()
		n.Leader()
		n.links.peek("")
		n.leaderMu.Lock()
		n.leaderMu.Unlock() //lint:ignore SA2001 that it can be had is all
		if r := n.reign.Load(); r != nil {
			r.position("")
			r.batcher.waiting()
		}
		n.pulse.set(time.Now())
		select {
		case <-t.C:
		case <-n.ctx.Done():
			return
		}
	}
}

// Live reports whether the process works at all: nothing here waits for another node.
func (n *Node) Live() admin.Health {
	var h admin.Health
	now := time.Now()
	age := now.Sub(n.pulse.get())
	h.Add("main loop", age <= pulseLimit || n.ctx.Err() != nil, fmt.Sprintf("last round %s ago", age.Round(time.Millisecond)))
	if e := n.engine.Load(); e != nil && e.guard() != nil {
		what, age := e.guard().oldest(now)
		h.Add("log store", age <= storeAlarm, fmt.Sprintf("oldest call %s %s", age.Round(time.Millisecond), what))
	}
	return h
}
