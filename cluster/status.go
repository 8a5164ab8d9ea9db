package cluster

import (
	"context"
	"fmt"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"murder/cluster/admin"
	"murder/fsm"
)

// statusLimit is how long another node may take to say how it is.
const statusLimit = time.Second

// Status asks every member how it is and returns what the cluster looks like from here. Members that
// do not answer within a second are reported with the reason.
func (n *Node) Status(ctx context.Context) admin.Status {
	s := admin.Status{Node: n.cfg.NodeID}
	e := n.engine.Load()
	if e == nil {
		s.Nodes = []admin.NodeStatus{n.ownStatus()}
		s.Problem = "this node is not a member of a cluster yet: run murderctl cluster init, or murderctl cluster join TOKEN"
		if w := n.waiting.Load(); w != nil {
			s.Problem = "this node is not a member of a cluster yet: " + *w
		}
		return s
	}
	s.ClusterID, s.Version = e.identity.ClusterID, n.State().ClusterVersion()
	s.Leader, _ = n.Leader()
	s.Nodes = n.askEverybody(ctx, e)
	var furthest uint64
	for _, m := range s.Nodes {
		furthest = max(furthest, m.AppliedIndex)
	}
	var silent []string
	for i := range s.Nodes {
		m := &s.Nodes[i]
		if m.Error == "" {
			m.Lag = furthest - m.AppliedIndex
		}
		if m.Suffrage != "voter" {
			continue
		}
		s.Voters++
		if m.Error == "" {
			s.VotersUp++
		} else {
			silent = append(silent, m.ID+": "+m.Error)
		}
	}
	s.Quorum = s.Voters/2 + 1
	n.versionStatus(&s)
	s.Problem = problem(s, n.refusal.Load(), silent)
	return s
}

func problem(s admin.Status, refused *string, silent []string) string {
	switch {
	case refused != nil:
		return *refused
	case s.Voters > 0 && s.VotersUp < s.Quorum:
		return fmt.Sprintf("no quorum: %d of %d voters reachable (%s): start them again; if they are lost for good, run \"murderd recover\" on the one with the newest copy", s.VotersUp, s.Voters, strings.Join(silent, ", "))
	case s.Leader == "":
		return "no leader is known at the moment"
	}
	for _, m := range s.Nodes {
		if m.Refused != "" && m.Suffrage == "voter" {
			return fmt.Sprintf("voter %s: %s", m.ID, m.Refused)
		}
	}
	if len(silent) > 0 {
		return fmt.Sprintf("voters not reachable: %s", strings.Join(silent, ", "))
	}
	for _, m := range s.Nodes {
		if m.Diverged {
			return fmt.Sprintf("the copy of node %s differs from that of a majority of the voters: %s", m.ID, divergedHint)
		}
		if m.Disputed {
			return fmt.Sprintf("the copies of node %s and of the leader differ, and no majority of the voters says which is right: start the other voters, then murderctl cluster verify", m.ID)
		}
	}
	if absent := blockedByAbsent(s); len(absent) > 0 {
		return fmt.Sprintf("the cluster version stays %d because of nodes that do not answer: %s: upgrade and start them, or take them out with murderctl member remove", s.Version, strings.Join(absent, ", "))
	}
	return ""
}

// askEverybody returns all members, by id.
func (n *Node) askEverybody(ctx context.Context, e *engine) []admin.NodeStatus {
	members := make(map[string]admin.NodeStatus)
	n.State().Nodes(func(rec fsm.Node) bool {
		members[rec.ID] = admin.NodeStatus{
			ID: rec.ID, Role: rec.Role.String(), Address: rec.Address, Services: rec.Services, State: rec.State.String(),
			Suffrage: "none", Version: rec.BinaryVersion, MinCluster: rec.MinCluster, MaxCluster: rec.MaxCluster,
		}
		return true
	})
	for _, s := range e.feed.servers() {
		m := members[string(s.ID)]
		m.ID = string(s.ID)
		if m.Address == "" {
			m.Address = string(s.Address)
		}
		m.Suffrage = suffrage(s.Suffrage)
		members[m.ID] = m
	}
	list := make([]admin.NodeStatus, 0, len(members))
	for _, m := range members {
		if g := n.gossip.Load(); g != nil {
			m.Gossip = g.state(m.ID)
		}
		list = append(list, m)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].ID < list[j].ID })
	ctx, cancel := context.WithTimeout(ctx, statusLimit)
	defer cancel()
	var wg sync.WaitGroup
	for i := range list {
		wg.Go(func() { n.askStatus(ctx, &list[i]) })
	}
	wg.Wait()
	for i := range list {
		if what := n.acks.flagged(list[i].ID); what != "" {
			list[i].Refused = what + ": " + lostHint
		}
	}
	return list
}

func suffrage(s raft.ServerSuffrage) string {
	if s == raft.Voter {
		return "voter"
	}
	return "learner"
}

// askStatus fills in what a member says about itself.
func (n *Node) askStatus(ctx context.Context, m *admin.NodeStatus) {
	var own admin.NodeStatus
	if m.ID == n.cfg.NodeID {
		own = n.ownStatus()
	} else {
		l, err := n.links.get(ctx, m.ID, m.Address)
		if err == nil {
			err = l.call(ctx, "status", struct{}{}, &own)
		}
		if err != nil {
			m.Error = err.Error()
			return
		}
	}
	own.ID, own.Role, own.Address, own.Services = m.ID, m.Role, m.Address, m.Services
	own.Suffrage, own.State, own.Gossip = m.Suffrage, m.State, m.Gossip
	*m = own
}

// ownStatus is what this node says about itself.
func (n *Node) ownStatus() admin.NodeStatus {
	v := n.State()
	s := admin.NodeStatus{
		ID: n.cfg.NodeID, Role: string(n.cfg.Role.member()), Address: n.port.advertise, Services: n.cfg.Services,
		AppliedIndex: v.Index(), Digest: v.Digest().String(), Mailboxes: v.Len(),
		Synced: n.synced.Load(), Draining: n.draining.Load(), Diverged: n.replica.diverged.Load(), Disputed: n.replica.suspect.Load() != nil,
		Version: n.cfg.BinaryVersion, MinCluster: minCluster, MaxCluster: maxCluster,
	}
	if n.cfg.Serving != nil {
		s.Serving = n.cfg.Serving()
	}
	if n.cfg.Findings != nil {
		s.Findings = n.cfg.Findings()
	}
	if text := n.crampedness(); text != "" {
		s.Findings = append(s.Findings, admin.Finding{Level: admin.LevelProblem, Kind: "disk", Subject: n.cfg.DataDir, Detail: text, Next: "make room on that disk"})
	}
	if r := n.refusal.Load(); r != nil {
		s.Refused = *r
	}
	e := n.engine.Load()
	if e == nil {
		return s
	}
	p := e.feed.place()
	s.Raft, s.Term, s.LastIndex, s.CommitIndex = p.state, p.term, p.last, p.commit
	s.Leader, _ = n.Leader()
	s.CertExpires = e.keys.cert.Load().Leaf.NotAfter
	if g := e.guard(); g != nil {
		_, age := g.oldest(time.Now())
		s.StoreAgeMS = age.Milliseconds()
	}
	return s
}

type digestRequest struct {
	Index uint64 `json:"index"`
}

type digestAnswer struct {
	Digest string `json:"digest"`
}

// Digest compares the copies of all members at one index: an empty entry fixes it, and every member
// says what its digest was there.
func (n *Node) Digest(ctx context.Context) (admin.DigestReport, error) {
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	e := n.engine.Load()
	if e == nil {
		return admin.DigestReport{}, errNotMember
	}
	// The index is that of an entry of its own: every copy comes by it, and notes its digest. A copy that
	// began from a snapshot behind the last change would not have the digest of a barrier's index.
	_, index, err := n.proposer.do(ctx, "", fsm.Empty{})
	if err != nil {
		return admin.DigestReport{}, fmt.Errorf("comparing copies: %w", err)
	}
	report := admin.DigestReport{Index: index, Equal: true}
	var addrs []string
	n.State().Nodes(func(rec fsm.Node) bool {
		report.Nodes = append(report.Nodes, admin.NodeDigest{Node: rec.ID})
		addrs = append(addrs, rec.Address)
		return true
	})
	ask, cancelAsk := context.WithTimeout(ctx, 3*statusLimit)
	defer cancelAsk()
	var wg sync.WaitGroup
	for i := range report.Nodes {
		wg.Go(func() {
			m := &report.Nodes[i]
			var err error
			if m.Digest, err = n.askDigest(ask, m.Node, addrs[i], index); err != nil {
				m.Error = err.Error()
			}
		})
	}
	wg.Wait()
	for _, m := range report.Nodes {
		report.Equal = report.Equal && m.Error == "" && m.Digest == report.Nodes[0].Digest
	}
	return report, nil
}

func (n *Node) askDigest(ctx context.Context, node, addr string, index uint64) (string, error) {
	if node == n.cfg.NodeID {
		return n.digestAt(ctx, index)
	}
	l, err := n.links.get(ctx, node, addr)
	if err != nil {
		return "", err
	}
	var a digestAnswer
	err = l.call(ctx, "digest", digestRequest{index}, &a)
	return a.Digest, err
}

func (n *Node) ownDigest(ctx context.Context, body []byte) (digestAnswer, error) {
	req, err := decode[digestRequest](body)
	if err != nil {
		return digestAnswer{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, 3*statusLimit)
	defer cancel()
	d, err := n.digestAt(ctx, req.Index)
	return digestAnswer{d}, err
}

// digestAt returns the digest of this copy at an index that it has reached or is about to.
func (n *Node) digestAt(ctx context.Context, index uint64) (string, error) {
	if err := n.replica.wait(ctx, index); err != nil {
		return "", notProposed("copy of node %s has not reached index %d", n.cfg.NodeID, index)
	}
	d, ok := n.replica.digestAt(index)
	if !ok {
		return "", notProposed("node %s keeps no digest of index %d any more: ask again", n.cfg.NodeID, index)
	}
	return d.String(), nil
}
