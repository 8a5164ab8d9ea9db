package main

import (
	"context"
	"strings"
	"testing"

	nodes "murder/cluster"
	"murder/cluster/admin"
	"murder/internal/mbox"
)

func TestNodeLog(t *testing.T) {
	dir := t.TempDir()
	n, err := nodes.Open(nodes.Config{NodeID: "c1", DataDir: dir, Role: nodes.Coordinator, Listen: "127.0.0.1:0", Voters: 1})
	if err != nil {
		t.Fatal(err)
	}
	stopped := false
	defer func() {
		if !stopped {
			n.Shutdown(context.Background())
		}
	}()
	if _, err := n.Init(t.Context(), admin.InitRequest{}); err != nil {
		t.Fatal(err)
	}
	w := mbox.Write{Kind: mbox.Activate, Name: "user.jane", Location: "b1!p", By: mbox.Session{ID: "s", Identity: "cyrus"}}
	if _, err := n.Write(t.Context(), []mbox.Write{w}); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := ctlRun(t, "", "node", "log", "verify", "--data-dir", dir); code != 1 || !strings.Contains(stderr, "stop murderd first") {
		t.Errorf("beside a running node: exit %d, %s", code, stderr)
	}
	if err := n.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	stopped = true
	for _, c := range []struct {
		args []string
		want string // with spaces made one
	}{
		{[]string{"show"}, "ACTIVATE user.jane b1!p by cyrus"},
		{[]string{"show", "-o", "json"}, `"type":"ACTIVATE","name":"user.jane"`},
		{[]string{"verify"}, "damaged 0 the log is whole"},
		{[]string{"verify", "-o", "json"}, `"damaged": 0`},
		{[]string{"compact", "-o", "json"}, `"before": `},
		{[]string{"verify"}, "the log is whole"},
	} {
		code, stdout, stderr := ctlRun(t, "", append(append([]string{"node", "log"}, c.args...), "--data-dir", dir)...)
		if got := strings.Join(strings.Fields(stdout), " "); code != 0 || !strings.Contains(got, c.want) {
			t.Errorf("%q: exit %d, want %q\n%s%s", c.args, code, c.want, stdout, stderr)
		}
	}
}
