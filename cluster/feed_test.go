package cluster

import (
	"os"
	"regexp"
	"testing"
)

// What every member does goes through the feed, so that there can be another than raft.
func TestOnlyVotersKnowRaft(t *testing.T) {
	t.Parallel()
	beyond := regexp.MustCompile(`\b(e|engine|r\.engine)\.raft\.|serversOf\(|votersOf\(`)
	for _, file := range []string{"node.go", "keepup.go", "write.go", "status.go", "health.go", "gauges.go", "records.go", "restore.go", "repair.go",
		"version.go", "damage.go", "gossip.go", "rpc.go", "calls.go", "epoch.go"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range beyond.FindAll(text, -1) {
			t.Errorf("%s reaches behind the feed: %s", file, at)
		}
	}
}
