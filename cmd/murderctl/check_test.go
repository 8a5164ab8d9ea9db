package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"
)

func TestCheckDisk(t *testing.T) {
	dir := t.TempDir()
	_, stdout, stderr := ctlRun(t, "", "check", "disk", "--data-dir", dir, "--count", "20", "-o", "json") // the disk may be bad
	var r diskReport
	if err := json.Unmarshal([]byte(stdout), &r); err != nil || r.Flushes != 20 || r.P50 <= 0 || r.P99 < r.P50 || r.Max < r.P99 || r.Verdict == "" {
		t.Errorf("%+v %v %s", r, err, stderr)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if code, _, stderr := ctlRun(t, "", "check", "disk", "--data-dir", dir+"/none"); code != 1 || !strings.Contains(stderr, "checking the disk of") {
		t.Errorf("exit %d: %s", code, stderr)
	}
}

func TestJudgeDisk(t *testing.T) {
	for _, c := range []struct {
		usual, slowest time.Duration
		ok             bool
		want           string
	}{
		{5 * time.Microsecond, 5 * time.Microsecond, true, "does not flush"},
		{time.Millisecond, 2 * time.Millisecond, true, "good for a coordinator"},
		{time.Millisecond, 20 * time.Millisecond, true, "usable"},
		{time.Millisecond, 60 * time.Millisecond, false, "too slow"},
	} {
		var took []time.Duration
		for range 97 {
			took = append(took, c.usual)
		}
		took = append(took, c.slowest, c.slowest, c.slowest)
		if r := judgeDisk(took); r.OK != c.ok || !strings.Contains(r.Verdict, c.want) {
			t.Errorf("%v, %v at worst: %+v", c.usual, c.slowest, r)
		}
	}
}
