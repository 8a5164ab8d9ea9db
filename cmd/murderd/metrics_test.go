package main

import (
	"bytes"
	"os"
	"testing"

	"murder/cluster"
	"murder/mupdate"
)

func TestMetricsPageIsCurrent(t *testing.T) {
	var b bytes.Buffer
	if err := metricsReference(&b); err != nil {
		t.Fatal(err)
	}
	have, err := os.ReadFile("../../docs/metrics.md")
	if err != nil || !bytes.Equal(have, b.Bytes()) {
		t.Error("docs/metrics.md is not what a node registers: run make docs", err)
	}
}

// The MUPDATE server answers more safely when it can ask the map for these.
func TestViewKnowsWhatMUPDATEAsks(t *testing.T) {
	n, err := cluster.Open(cluster.Config{NodeID: "n", DataDir: t.TempDir(), Role: cluster.Frontend, Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Shutdown(t.Context())
	v := n.View()
	_, conflicts := v.(mupdate.ConflictView)
	_, transfers := v.(mupdate.TransferView)
	_, deleted := v.(mupdate.DeletedView)
	_, located := v.(mupdate.LocatedView)
	if !conflicts || !transfers || !deleted || !located {
		t.Errorf("view knows conflicts %v, transfers %v, deleted names %v, locations %v", conflicts, transfers, deleted, located)
	}
}
