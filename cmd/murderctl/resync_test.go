package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestResync(t *testing.T) {
	node := answers(t, map[string]string{"GET /v1/backends": `{"backends":[{"server":"b2"},{"server":"b1"}]}`})
	done := filepath.Join(t.TempDir(), "done")
	line := "echo {server} >>" + done + "; [ {server} != b1 ] || { echo no room >&2; exit 3; }"
	base := []string{"--addr", node, "resync", "--exec", line}
	if code, _, stderr := ctlRun(t, "", append(base, "--all")...); code != 1 || !strings.Contains(stderr, "on 2 backends (b1, b2)") || !strings.Contains(stderr, "--yes") {
		t.Errorf("exit %d: %s", code, stderr)
	}
	if _, err := os.Stat(done); err == nil {
		t.Error("something was done without --yes")
	}
	code, stdout, stderr := ctlRun(t, "", append(base, "--all", "--yes", "-o", "json")...)
	var results []resyncResult
	if err := json.Unmarshal([]byte(stdout), &results); err != nil || code != 1 || len(results) != 2 ||
		!strings.Contains(results[0].Error, "no room") || results[1].Error != "" {
		t.Errorf("exit %d, %v: %+v %s", code, err, results, stderr)
	}
	if code, stdout, _ := ctlRun(t, "", append(base, "b2", "--yes")...); code != 0 || !strings.Contains(stdout, "1 of 1 backends are done") {
		t.Errorf("exit %d: %s", code, stdout)
	}
	if data, _ := os.ReadFile(done); string(data) != "b1\nb2\nb2\n" {
		t.Errorf("done: %q", data)
	}
	for _, args := range [][]string{nil, {"--all", "b1"}} {
		if code, _, _ := ctlRun(t, "", append(base, args...)...); code != 2 {
			t.Errorf("%q: exit %d", args, code)
		}
	}
	if code, _, stderr := ctlRun(t, "", append(base, "b1;reboot", "--yes")...); code != 1 || !strings.Contains(stderr, "not fit for a command line") {
		t.Errorf("exit %d: %s", code, stderr)
	}
}
