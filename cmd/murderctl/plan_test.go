package main

import (
	"fmt"
	"strings"
	"testing"

	"murder/cluster/admin"
)

func member(id, suffrage, version string) admin.NodeStatus {
	return admin.NodeStatus{ID: id, Suffrage: suffrage, Version: version, State: "active", Synced: true}
}

func cluster(nodes ...admin.NodeStatus) admin.Status {
	s := admin.Status{Leader: "c1", Nodes: nodes}
	for _, n := range nodes {
		if n.Suffrage == "voter" {
			s.Voters++
			if n.Error == "" {
				s.VotersUp++
			}
		}
	}
	s.Quorum = s.Voters/2 + 1
	return s
}

func TestUpgradeOrder(t *testing.T) {
	voters := []admin.NodeStatus{member("c1", "voter", "1"), member("c2", "voter", "1"), member("c3", "voter", "1")}
	many := voters
	for i := range 11 {
		many = append(many, member(fmt.Sprintf("f%02d", i), "learner", "1"))
	}
	drained := member("c3", "voter", "1")
	drained.Draining, drained.State = true, "draining"
	for _, tt := range []struct {
		name  string
		s     admin.Status
		order string
	}{
		{"leader last", cluster(voters...), "c2, c3, c1"},
		{"a fifth of the learners", cluster(many...), "f00 f01 f02, f03 f04 f05, f06 f07 f08, f09 f10, c2, c3, c1"},
		{"half done", cluster(member("c1", "voter", "1"), member("c2", "voter", "2"), member("c3", "voter", "1"), member("f1", "learner", "2")), "c3, c1"},
		{"stopped after a drain", cluster(member("c1", "voter", "1"), member("c2", "voter", "1"), drained), "c3, c2, c1"},
		{"done", cluster(member("c1", "voter", "2"), member("f1", "learner", "2")), ""},
	} {
		var steps []string
		for _, w := range plan(tt.s, "2") {
			steps = append(steps, strings.Join(w.Nodes, " "))
		}
		if got := strings.Join(steps, ", "); got != tt.order {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.order)
		}
	}
}

func TestUpgradeGate(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*admin.Status, *admin.DigestReport)
		wave   wave
		want   string // "": may go on
	}{
		{"well", func(*admin.Status, *admin.DigestReport) {}, wave{"voter", []string{"c2"}}, ""},
		{"no leader", func(s *admin.Status, _ *admin.DigestReport) { s.Leader = "" }, wave{"voter", []string{"c2"}}, "no leader"},
		{"somebody is away", func(s *admin.Status, _ *admin.DigestReport) { s.Nodes[3].Error = "refused" }, wave{"voter", []string{"c2"}}, "node f1 does not answer"},
		{"lag", func(s *admin.Status, _ *admin.DigestReport) { s.Nodes[2].Lag = 1000 }, wave{"voter", []string{"c2"}}, "1000 entries behind"},
		{"loading", func(s *admin.Status, _ *admin.DigestReport) { s.Nodes[3].Synced = false }, wave{"voter", []string{"c2"}}, "entries behind"},
		{"another voter is drained", func(s *admin.Status, _ *admin.DigestReport) { s.Nodes[2].Draining = true }, wave{"voter", []string{"c2"}}, "c3 is drained"},
		{"it is drained itself", func(s *admin.Status, _ *admin.DigestReport) { s.Nodes[1].Draining = true }, wave{"voter", []string{"c2"}}, ""},
		{"quorum", func(s *admin.Status, _ *admin.DigestReport) { s.VotersUp = 2 }, wave{"voter", []string{"c2"}}, "2 are needed"},
		{"quorum does not matter for a learner", func(s *admin.Status, _ *admin.DigestReport) { s.VotersUp = 2 }, wave{"learners", []string{"f1"}}, ""},
		{"diverged", func(s *admin.Status, _ *admin.DigestReport) { s.Nodes[3].Diverged = true }, wave{"learners", []string{"f1"}}, "differs"},
		{"digests", func(_ *admin.Status, d *admin.DigestReport) { d.Equal = false }, wave{"voter", []string{"c2"}}, "not equal"},
	} {
		s := cluster(member("c1", "voter", "1"), member("c2", "voter", "1"), member("c3", "voter", "1"), member("f1", "learner", "1"))
		d := admin.DigestReport{Equal: true}
		tt.change(&s, &d)
		err := gate(s, d, tt.wave)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}
