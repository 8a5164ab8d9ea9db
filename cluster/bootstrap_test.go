package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"murder/cluster/admin"
	"murder/test/loopback"
)

const bootSecret = "sixteen octets and more"

// alike returns configurations of coordinators and frontends that are all the same but for the name and address.
func (r *rig) alike(coordinators, frontends int) map[string]Config {
	r.t.Helper()
	at, err := loopback.Claim()
	if errors.Is(err, loopback.ErrOneAddress) {
		r.t.Skip(err)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { at.Release() })
	b := Bootstrap{Expect: coordinators, Secret: []byte(bootSecret)}
	cfgs := map[string]Config{}
	add := func(id string, role Role, host int) {
		c := r.config(id, role)
		c.Listen = fmt.Sprintf("%s:7401", at.Host(host))
		cfgs[id] = c
	}
	for i := range coordinators {
		id := fmt.Sprint("c", i+1)
		add(id, Coordinator, i+1)
		b.Peers = append(b.Peers, cfgs[id].Listen)
	}
	for i := range frontends {
		add(fmt.Sprint("f", i+1), Frontend, 20+i)
	}
	for id, c := range cfgs {
		c.Bootstrap = b
		cfgs[id] = c
	}
	return cfgs
}

func (r *rig) members() int {
	n := 0
	for _, node := range r.nodes {
		if node.engine.Load() != nil {
			n++
		}
	}
	return n
}

// Nodes that are started alike, in any order, make one cluster. The same configuration does for a restart,
// and for a node that has lost its disk.
func TestBootstrap(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	cfgs := r.alike(3, 1)
	for _, id := range []string{"f1", "c3", "c2"} {
		r.open(cfgs[id])
	}
	r.eventually("they say what they wait for", func() bool {
		return strings.Contains(r.nodes["c2"].Status(testContext(t)).Problem, "waiting for "+cfgs["c1"].Listen)
	})
	if r.members() > 0 {
		t.Fatal("a cluster was begun while one could not be asked")
	}
	r.open(cfgs["c1"])
	r.eventually("all are members", func() bool { return r.members() == 4 })
	r.waitVoters(3)
	if id := r.nodes["c1"].engine.Load().identity.ClusterID; r.nodes["c3"].engine.Load().identity.ClusterID != id {
		t.Error("two clusters")
	}
	write(t, r.nodes["f1"], activate("user.a"))

	r.kill("c1")
	r.open(r.cfgs["c1"]) // has a membership: nothing is begun
	r.kill("c2")
	lost := r.cfgs["c2"]
	if err := os.RemoveAll(lost.DataDir); err != nil {
		t.Fatal(err)
	}
	c2 := r.open(lost)
	r.eventually("it is taken in again", func() bool { return c2.engine.Load() != nil && c2.Synced() })
	r.waitVoters(3)
	mustHave(t, c2, "user.a")
	r.equalDigests()
}

// One that has lost its disk does not begin a cluster of its own while the others are away, even if its id
// is the smallest.
func TestBootstrapWaitsForAll(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	cfgs := r.alike(3, 0)
	for _, c := range cfgs {
		r.open(c)
	}
	r.eventually("all are members", func() bool { return r.members() == 3 })
	r.waitVoters(3)
	for _, id := range []string{"c1", "c2", "c3"} {
		r.kill(id)
	}
	if err := os.RemoveAll(cfgs["c1"].DataDir); err != nil {
		t.Fatal(err)
	}
	c1 := r.open(r.cfgs["c1"])
	c2 := r.open(r.cfgs["c2"]) // a member, but there is no majority that could take anybody in
	r.eventually("it says why it waits", func() bool {
		return strings.Contains(c1.Status(testContext(t)).Problem, "node c2 has a cluster, but no leader")
	})
	if c1.engine.Load() != nil {
		t.Fatal("it began anew")
	}
	r.open(r.cfgs["c3"])
	r.eventually("it is taken in", func() bool { return c1.engine.Load() != nil && c1.Synced() })
	if a, b := c1.engine.Load().identity.ClusterID, c2.engine.Load().identity.ClusterID; a != b {
		t.Errorf("clusters %s and %s", a, b)
	}
}

func TestBootstrapRefusals(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	cfgs := r.alike(3, 1)
	peers := cfgs["c1"].Bootstrap.Peers
	n := &Node{cfg: cfgs["c1"]}
	expecting := func(id string, peers ...string) bootReply { return bootReply{Node: id, Peers: peers} }
	for _, c := range []struct {
		name    string
		node    string
		replies []bootReply
		silent  []string
		begins  bool
		why     string
	}{
		{"all agree", "c1", []bootReply{expecting("c2", peers...), expecting("c3", peers...)}, nil, true, "making"},
		{"in another order", "c1", []bootReply{expecting("c2", peers[2], peers[0], peers[1]), expecting("c3", peers...)}, nil, true, "making"},
		{"not the smallest", "c2", []bootReply{expecting("c1", peers...), expecting("c3", peers...)}, nil, false, "waiting for node c1"},
		{"one is silent", "c1", []bootReply{expecting("c2", peers...)}, []string{peers[2]}, false, "waiting for " + peers[2]},
		{"one is a member", "c1", []bootReply{expecting("c2", peers...), {Node: "c3", Member: true}}, nil, false, "node c3 has a cluster"},
		{"another set", "c1", []bootReply{expecting("c2", peers[:2]...), expecting("c3", peers...)}, nil, false, "give both the same"},
		{"one id twice", "c1", []bootReply{expecting("c1", peers...), expecting("c3", peers...)}, nil, false, "two coordinators have the id c1"},
		{"a frontend", "f1", []bootReply{expecting("c1", peers...), expecting("c2", peers...), expecting("c3", peers...)}, nil, false, "waiting for the coordinators"},
	} {
		n.cfg = cfgs[c.node]
		act, why := n.mayBegin(c.replies, c.silent)
		if (act != nil) != c.begins || !strings.Contains(why, c.why) {
			t.Errorf("%s: begins %v: %s", c.name, act != nil, why)
		}
	}

	for _, c := range []struct {
		change func(*Bootstrap)
		want   string
	}{
		{func(b *Bootstrap) { b.Expect = 2 }, "names 3 coordinators"},
		{func(b *Bootstrap) { b.Peers = []string{"a:1", "b:1", "c:1"} }, "does not name this coordinator's own address"},
		{func(b *Bootstrap) { b.Secret = []byte("short") }, "too few"},
	} {
		cfg := cfgs["c1"]
		cfg.Bootstrap.Peers = slices.Clone(peers)
		c.change(&cfg.Bootstrap)
		if n, err := Open(cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("want %q, got %v", c.want, err)
			if n != nil {
				n.kill()
			}
		}
	}
}

// A node that does not know the secret learns nothing and gets nothing.
func TestBootstrapSecret(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	cfgs := r.alike(1, 2)
	c1 := r.open(cfgs["c1"])
	r.eventually("one alone begins", func() bool { return c1.Synced() })
	stranger := cfgs["f1"]
	stranger.Bootstrap.Secret = []byte("some other secret of theirs")
	f1 := r.open(stranger)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if reply, err := f1.askBootOne(ctx, c1.Address()); err == nil || !strings.Contains(err.Error(), "same bootstrap secret?") {
		t.Errorf("got %+v, %v", reply, err)
	}
	f2 := r.open(cfgs["f2"])
	r.eventually("the one that knows it joins", f2.Synced)
	if f1.engine.Load() != nil {
		t.Error("the stranger is a member")
	}
	// A coordinator that nobody expects is given no token.
	unexpected := bootQuestion{Node: "c9", Role: Coordinator, Address: "127.0.0.1:1"}
	conn, err := f2.port.dialTLS(ctx, c1.Address(), bootClientConfig())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var reply bootReply
	if err := errors.Join(f2.sendBoot(conn, "question", unexpected), f2.receiveBoot(conn, "reply", &reply)); err != nil || !reply.Member || reply.Token != "" {
		t.Errorf("got %+v, %v", reply, err)
	}
	if list, err := adminClient(t, c1).Tokens(ctx); err != nil || slices.ContainsFunc(list, func(k admin.TokenInfo) bool { return k.Role == string(Coordinator) }) {
		t.Error(list, err)
	}
}
