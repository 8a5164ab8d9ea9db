package cluster

import (
	"os"
	"path/filepath"
	"testing"
)

func TestGossip(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.configure = func(cfg *Config) { cfg.GossipListen = "127.0.0.1:0" }
	r.grow(1, 2)
	all := func(want string) func() bool {
		return func() bool {
			for _, n := range r.nodes {
				for _, m := range n.Status(testContext(t)).Nodes {
					if _, up := r.nodes[m.ID]; m.Gossip != want && up || !up && m.Gossip == "alive" {
						return false
					}
				}
			}
			return true
		}
	}
	r.eventually("everybody is seen alive", all("alive"))
	info, err := os.Stat(filepath.Join(r.cfgs["f1"].DataDir, gossipKeyFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info, err)
	}
	if err := r.nodes["f2"].Shutdown(testContext(t)); err != nil {
		t.Fatal(err)
	}
	delete(r.nodes, "f2")
	r.eventually("the one that left is seen gone", all("alive"))
}
