package main

import (
	"fmt"
	"slices"

	"murder/cluster/admin"
)

// wave is a set of nodes that are restarted at the same time.
type wave struct {
	Kind  string   `json:"kind"` // learners, voter, leader
	Nodes []string `json:"nodes"`
}

// plan is the order of an upgrade: learners in waves of a fifth, then the followers among the voters one
// by one, and the leader last, so that the lead moves once. Nodes that run the version already are left
// out, but one that is still draining goes first of its kind.
func plan(s admin.Status, to string) []wave {
	var learners, voters []admin.NodeStatus
	for _, n := range s.Nodes {
		switch {
		case upgraded(n, to):
		case n.Suffrage == "voter":
			voters = append(voters, n)
		default:
			learners = append(learners, n)
		}
	}
	last := func(n admin.NodeStatus) int {
		switch {
		case n.ID == s.Leader:
			return 2
		case n.Draining:
			return 0
		}
		return 1
	}
	order := func(a, b admin.NodeStatus) int { return last(a) - last(b) }
	slices.SortStableFunc(learners, order)
	slices.SortStableFunc(voters, order)

	var waves []wave
	all := 0
	for _, n := range s.Nodes {
		if n.Suffrage != "voter" {
			all++
		}
	}
	for part := range slices.Chunk(learners, max(1, (all+4)/5)) {
		w := wave{Kind: "learners"}
		for _, n := range part {
			w.Nodes = append(w.Nodes, n.ID)
		}
		waves = append(waves, w)
	}
	for _, n := range voters {
		kind := "voter"
		if n.ID == s.Leader {
			kind = "leader"
		}
		waves = append(waves, wave{Kind: kind, Nodes: []string{n.ID}})
	}
	return waves
}

// upgraded reports whether a node runs the version and serves.
func upgraded(n admin.NodeStatus, to string) bool {
	return n.Error == "" && n.Version == to && !n.Draining && n.State == "active"
}

// gate says why a wave must not go down now, nil if it may: everybody else is there, close behind and
// alike, and the voters that stay are enough.
func gate(s admin.Status, d admin.DigestReport, w wave) error {
	if s.Leader == "" {
		return fmt.Errorf("no leader is known")
	}
	for _, n := range s.Nodes {
		own := slices.Contains(w.Nodes, n.ID)
		switch {
		case n.Error != "":
			return fmt.Errorf("node %s does not answer (%s): start it, or take it out with murderctl member remove", n.ID, n.Error)
		case n.Diverged, n.Disputed:
			return fmt.Errorf("the copy of node %s differs from others: see murderctl cluster status", n.ID)
		case !n.Synced || n.Lag > maxUpgradeLag:
			return fmt.Errorf("node %s is %d entries behind", n.ID, n.Lag)
		case n.Draining && !own && n.Suffrage == "voter":
			return fmt.Errorf("node %s is drained: undrain it, or restart it", n.ID)
		}
	}
	if w.Kind != "learners" && s.VotersUp-1 < s.Quorum {
		return fmt.Errorf("without node %s only %d of %d voters would be there, and %d are needed", w.Nodes[0], s.VotersUp-1, s.Voters, s.Quorum)
	}
	for _, n := range d.Nodes {
		if n.Error != "" {
			return fmt.Errorf("copy of node %s: %s", n.Node, n.Error)
		}
	}
	if !d.Equal {
		return fmt.Errorf("the copies are not equal at index %d: see murderctl cluster verify", d.Index)
	}
	return nil
}

// healthy says why a node that was restarted does not count as upgraded yet.
func healthy(n admin.NodeStatus, to string) error {
	switch {
	case n.Error != "":
		return fmt.Errorf("node %s does not answer: %s", n.ID, n.Error)
	case n.Version != to:
		return fmt.Errorf("node %s runs version %s, not %s", n.ID, n.Version, to)
	case n.Refused != "":
		return fmt.Errorf("node %s is refused by the cluster: %s", n.ID, n.Refused)
	case !n.Synced || n.Lag > maxUpgradeLag:
		return fmt.Errorf("node %s is %d entries behind", n.ID, n.Lag)
	case !upgraded(n, to):
		return fmt.Errorf("node %s is %s", n.ID, n.State)
	}
	return nil
}
