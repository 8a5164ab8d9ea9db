package main

import (
	"bytes"
	"os"
	"regexp"
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

// An alert on a metric that does not exist never fires.
func TestAlertsAreOnMetrics(t *testing.T) {
	rules, err := os.ReadFile("../../deploy/prometheus/murder.rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`murder_[a-z_]+`).FindAll(rules, -1)
	if len(names) < 10 {
		t.Errorf("only %d metrics are watched", len(names))
	}
	for _, name := range names {
		if !bytes.Contains(page, append(append([]byte("`"), name...), '`')) {
			t.Errorf("there is no metric %s", name)
		}
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
