package cluster

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"murder/fsm"
)

// Whose copy is right, when two differ, is for a majority of the voters to say: a leader whose copy was changed
// by a bad disk or bad memory must not talk all others out of theirs.
//
//   - Before a leader states a digest in the log, it asks the voters for theirs at that index. If a majority has
//     another, the leader is the odd one and gives up the lead.
//   - Whoever finds that a statement does not fit its own copy asks the voters, too. Until it knows it is in
//     doubt, and confirms nothing.
//   - A learner in the minority throws its copy away. A voter must not: it keeps its log and goes on to vote, for
//     its log is as good as any, but it confirms nothing, leads nobody, keeps no snapshot, and waits for somebody
//     to look at its machine. A restart does not acquit it: the snapshot that it begins with may be wrong, too.
//
// Without a majority that agrees (two voters, or most of them gone) nobody is found wrong.
const judgeInterval = 5 * time.Second

var errDiverged = errors.New("the copy of this node differs from that of a majority of the voters")

const divergedHint = "its memory or disk is not to be trusted: stop murderd, murderctl member remove it on another coordinator, empty its data directory, and join it again"

// doubted says why this copy must not be relied upon, nil if it may be.
func (r *replica) doubted() error {
	switch {
	case r.diverged.Load():
		return errDiverged
	case r.suspect.Load() != nil:
		return errors.New("the copy of this node differs from the leader's, and it is not known which is right")
	}
	return nil
}

// check notes what came of comparing this copy with a leader's statement. It is called with nothing held, before
// what has been applied is visible.
func (r *replica) check(c fsm.Comparison) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.checks = append(r.checks, indexDigest{c.Index, c.Own})
	if len(r.checks) > checksKept {
		r.checks = r.checks[1:]
	}
	switch {
	case r.diverged.Load():
	case c.Own == c.Leader:
		if r.suspect.Swap(nil) != nil {
			r.log.Warn("copy is like the leader's again", "index", c.Index)
		}
	default:
		r.suspect.Store(&c)
		r.log.Error("copy differs from the leader's, asking the voters", "index", c.Index, "own", c.Own.String(), "leader", c.Leader.String())
	}
}

// condemn notes that the copy is wrong.
func (r *replica) condemn() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.suspect.Store(nil)
	r.markWrong(r.index)
}

// markWrong is called with mu held.
func (r *replica) markWrong(at uint64) {
	r.divergedAt = at
	r.diverged.Store(true)
}

// recall takes up the judgement of an earlier run, unless the copy has begun with another snapshot since.
func (r *replica) recall(id *identity) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	wrong := id.judged(r.began)
	if wrong {
		r.markWrong(id.DivergedAt)
	}
	return wrong
}

// judgement returns whether the copy was found wrong, and how far it was then.
func (r *replica) judgement() (wrong bool, at uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if wrong = r.diverged.Load(); wrong {
		at = r.divergedAt
	}
	return wrong, at
}

// decide ends a suspicion, unless the copy has been replaced since.
func (r *replica) decide(c *fsm.Comparison, wrong bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.suspect.CompareAndSwap(c, nil) && wrong {
		r.markWrong(r.index)
	}
}

// judge asks the voters about a suspicion.
func (n *Node) judge(ctx context.Context, e *engine) {
	c := n.replica.suspect.Load()
	if c == nil || !n.judged.pass(judgeInterval) {
		return
	}
	switch right, _ := n.majority(ctx, e, c.Index); right {
	case "":
		n.log.Error("copy differs from the leader's, and no majority of the voters says which is right", "index", c.Index)
	case c.Own.String():
		n.log.Error("the leader's copy differs from that of a majority of the voters", "index", c.Index, "leader", c.Leader.String(), "right", right)
		n.replica.decide(c, false)
	default:
		n.log.Error(errDiverged.Error(), "index", c.Index, "own", c.Own.String(), "right", right, "hint", divergedHint)
		n.replica.decide(c, true)
	}
}

// rememberJudgement keeps for the next start of a coordinator whether its copy was found wrong.
func (n *Node) rememberJudgement(e *engine) {
	wrong, at := n.replica.judgement()
	n.mu.Lock()
	known := e.identity.Role != Coordinator || e.identity.Diverged == wrong && e.identity.DivergedAt == at
	n.mu.Unlock()
	if !known {
		n.keepIdentity(e, func(id *identity) { id.Diverged, id.DivergedAt = wrong, at })
	}
}

// majority returns the digest that a majority of the voters had at an index, "" if none is known; split reports
// that two of them had different ones.
func (n *Node) majority(ctx context.Context, e *engine, index uint64) (right string, split bool) {
	ctx, cancel := context.WithTimeout(ctx, statusLimit)
	defer cancel()
	var voters []raft.Server
	for _, s := range e.feed.servers() {
		if s.Suffrage == raft.Voter {
			voters = append(voters, s)
		}
	}
	digests := make([]string, len(voters))
	var wg sync.WaitGroup
	for i, s := range voters {
		wg.Go(func() {
			d, err := n.askDigest(ctx, string(s.ID), string(s.Address), index)
			if err != nil {
				n.log.Debug("digest not compared", "peer", string(s.ID), "index", index, "err", err)
				return
			}
			digests[i] = d
		})
	}
	wg.Wait()
	count := make(map[string]int)
	for _, d := range digests {
		if d == "" {
			continue
		}
		if count[d]++; count[d] > len(voters)/2 {
			right = d
		}
	}
	return right, len(count) > 1
}

// checkpoint states this leader's digest for all to compare, after a majority has been found to have the same.
// It returns errDiverged if a majority has another.
func (r *reign) checkpoint(ctx context.Context) error {
	n := r.node
	v := n.State()
	if v.Index() == r.stated {
		return nil
	}
	right, split := n.majority(ctx, r.engine, v.Index())
	switch own := v.Digest().String(); {
	case right == own:
	case right != "":
		n.log.Error(errDiverged.Error(), "index", v.Index(), "own", own, "right", right, "hint", divergedHint)
		n.replica.condemn()
		return errDiverged
	case split:
		n.log.Error("copies of the voters differ, and no majority says which is right", "index", v.Index(), "hint", "murderctl cluster verify")
	}
	_, err := r.do(ctx, fsm.Checkpoint{Index: v.Index(), Digest: v.Digest()})
	if err == nil {
		_, err = r.do(ctx, fsm.Tick{At: n.now().Unix()})
	}
	if err == nil && right != "" {
		r.stated = n.State().Index() // what the checkpoint itself added needs no other
	}
	return err
}
