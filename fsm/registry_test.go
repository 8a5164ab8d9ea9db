package fsm

import (
	"fmt"
	"strings"
	"testing"
)

func (r *rig) refused(c Command, want Refusal) Result {
	r.t.Helper()
	got := r.do(c)
	if got.Refusal != want {
		r.t.Errorf("%T %+v: %v (%s), want %v", c, c, got.Refusal, got.Detail, want)
	}
	return got
}

func node(id string, most uint32) Node {
	return Node{ID: id, Role: RoleFrontend, State: NodeJoining, Address: "192.0.2.1:7401", MinCluster: 1, MaxCluster: most,
		Services: map[string]string{"mupdate": "192.0.2.1:3905", "http": "192.0.2.1:7403"}, BinaryVersion: "1.2.3"}
}

func TestNodes(t *testing.T) {
	r := newRig(t)
	r.refused(RegisterNode{node("f1", 2)}, NotRefused)
	r.refused(RegisterNode{node("", 2)}, RefusedUnknown)
	r.refused(SetNodeState{"f1", NodeActive}, NotRefused)
	r.refused(SetNodeState{"f2", NodeActive}, RefusedUnknown)
	if n, ok := r.m.View().Node("f1"); !ok || n.State != NodeActive || n.Index != 3 || n.Services["mupdate"] != "192.0.2.1:3905" {
		t.Errorf("node: %+v", n)
	}
	restored(t, r.m)
	r.refused(RemoveNode{"f1"}, NotRefused)
	r.refused(RemoveNode{"f1"}, RefusedUnknown)
}

// A record that was read before a change does not undo the change, nor a removal.
func TestRegisterOnCondition(t *testing.T) {
	r := newRig(t)
	r.refused(RegisterNode{node("f1", 2)}, NotRefused)
	read, _ := r.m.View().Node("f1")
	r.refused(SetNodeState{"f1", NodeActive}, NotRefused)
	r.refused(RegisterNode{read}, NotRefused) // in version 1
	r.refused(SetClusterVersion{2}, NotRefused)
	read, _ = r.m.View().Node("f1")
	r.refused(SetNodeAttribute{ID: "f1", Key: "no-vote", Value: "1"}, NotRefused)
	r.refused(RegisterNode{read}, RefusedChanged)
	if n, _ := r.m.View().Node("f1"); n.Attributes["no-vote"] != "1" {
		t.Errorf("node: %+v", n)
	}
	read, _ = r.m.View().Node("f1")
	r.refused(RegisterNode{read}, NotRefused)
	r.refused(RemoveNode{"f1"}, NotRefused)
	r.refused(RegisterNode{read}, RefusedChanged)
	r.refused(RegisterNode{node("f1", 2)}, NotRefused)
	restored(t, r.m)
}

// A command of a later cluster version does nothing before the version is raised.
func TestNodeAttributes(t *testing.T) {
	r := newRig(t)
	r.refused(RegisterNode{node("f1", 2)}, NotRefused)
	set := SetNodeAttribute{ID: "f1", Key: "zone", Value: "b"}
	if r.m.View().Enabled(set) {
		t.Error("enabled in cluster version 1")
	}
	r.refused(set, RefusedNotYet)
	r.refused(SetClusterVersion{2}, NotRefused)
	before := r.m.View()
	r.refused(set, NotRefused)
	r.refused(SetNodeAttribute{ID: "f2", Key: "zone", Value: "b"}, RefusedUnknown)
	r.refused(SetNodeAttribute{ID: "f1", Key: "zone", Value: strings.Repeat("x", maxSettingKey+1)}, RefusedFull)
	if n, _ := r.m.View().Node("f1"); n.Attributes["zone"] != "b" || n.Services["mupdate"] == "" {
		t.Errorf("node: %+v", n)
	}
	if n, _ := before.Node("f1"); len(n.Attributes) != 0 {
		t.Error("a view has changed")
	}
	restored(t, r.m)
	for i := range maxAttributes - 1 {
		r.refused(SetNodeAttribute{ID: "f1", Key: fmt.Sprint(i), Value: "x"}, NotRefused)
	}
	r.refused(SetNodeAttribute{ID: "f1", Key: "more", Value: "x"}, RefusedFull)
	r.refused(SetNodeAttribute{ID: "f1", Key: "zone"}, NotRefused)
	if n, _ := r.m.View().Node("f1"); len(n.Attributes) != maxAttributes-1 {
		t.Errorf("%d attributes", len(n.Attributes))
	}
}

func TestClusterVersion(t *testing.T) {
	r := newRig(t)
	r.refused(RegisterNode{node("new", 3)}, NotRefused)
	r.refused(RegisterNode{node("old", 2)}, NotRefused)
	r.refused(SetClusterVersion{2}, NotRefused)
	if got := r.refused(SetClusterVersion{3}, RefusedVersion); got.Detail != "old" {
		t.Errorf("blocked by %q", got.Detail)
	}
	r.refused(SetClusterVersion{1}, RefusedLower)
	r.refused(RegisterNode{node("older", 1)}, RefusedVersion)
	r.refused(RemoveNode{"old"}, NotRefused)
	r.refused(SetClusterVersion{3}, NotRefused)
	if v := r.m.View().ClusterVersion(); v != 3 {
		t.Errorf("cluster version is %d", v)
	}
	restored(t, r.m)
}

func TestSettings(t *testing.T) {
	r := newRig(t)
	r.refused(SetSetting{Key: "k", Value: "1", IfIndex: IfAbsent}, NotRefused)
	r.refused(SetSetting{Key: "k", Value: "2", IfIndex: IfAbsent}, RefusedChanged)
	r.refused(SetSetting{Key: "k", Value: "2", IfIndex: 1}, NotRefused)
	r.refused(SetSetting{Key: "k", Value: "3", IfIndex: 1}, RefusedChanged)
	r.refused(SetSetting{Key: "k", Value: strings.Repeat("x", maxSettingValue+1)}, RefusedFull)
	if got := r.m.View().Setting("k"); got != "2" {
		t.Errorf("setting is %q", got)
	}
	r.refused(SetSetting{Key: "k"}, NotRefused)
	if got := r.m.settings.len(); got != 0 {
		t.Errorf("%d settings left", got)
	}
}

func TestTokens(t *testing.T) {
	r := newRig(t)
	token := Token{ID: "t1", SecretHash: [32]byte{1}, Role: RoleFrontend, UsesLeft: 2, ExpiresUnix: 100}
	r.refused(PutToken{token, 10}, NotRefused)
	r.refused(PutToken{token, 10}, RefusedDuplicate)
	use := UseToken{ID: "t1", SecretHash: [32]byte{1}, Role: RoleFrontend, NodeID: "f1", Now: 50}
	wrong := func(change func(*UseToken)) UseToken {
		u := use
		change(&u)
		return u
	}
	r.refused(wrong(func(u *UseToken) { u.ID = "t2" }), RefusedUnknown)
	r.refused(wrong(func(u *UseToken) { u.SecretHash[0]++ }), RefusedSecret)
	r.refused(wrong(func(u *UseToken) { u.Now = 100 }), RefusedExpired)
	r.refused(wrong(func(u *UseToken) { u.Role = RoleCoordinator }), RefusedRole)
	r.refused(use, NotRefused)
	r.refused(use, NotRefused) // an interrupted join, again
	r.refused(wrong(func(u *UseToken) { u.NodeID = "f2" }), NotRefused)
	r.refused(wrong(func(u *UseToken) { u.NodeID = "f3" }), RefusedUsed)
	restored(t, r.m)
	r.refused(RevokeToken{"t1"}, NotRefused)
	r.refused(use, RefusedUnknown)

	for i := range maxTokens {
		token.ID = fmt.Sprint(i)
		r.refused(PutToken{token, 10}, NotRefused)
	}
	token.ID, token.ExpiresUnix = "last", 200
	r.refused(PutToken{token, 10}, RefusedFull)
	r.refused(PutToken{token, 100}, NotRefused) // the others have expired
	if got := r.m.tokens.len(); got != 1 {
		t.Errorf("%d tokens", got)
	}
}
