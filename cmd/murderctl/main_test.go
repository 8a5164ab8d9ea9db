package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"murder/cluster/admin"
)

// ctlRun is one command line and what it printed.
func ctlRun(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs strings.Builder
	code = run(context.Background(), args, strings.NewReader(stdin), &out, &errs)
	return code, out.String(), errs.String()
}

func TestFailuresSayWhatToDo(t *testing.T) {
	refused := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusConflict)
		w.Write([]byte(`{"error":"this node is a member already","hint":"murderctl cluster status"}`))
	}))
	defer refused.Close()
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer silent.Close()
	for _, c := range []struct {
		args []string
		code int
		want []string
	}{
		{[]string{"--addr", filepath.Join(t.TempDir(), "none"), "cluster", "status"}, 1, []string{"hint: is murderd running"}},
		{[]string{"--addr", refused.URL, "cluster", "init"}, 1, []string{"member already", "murderctl cluster status"}},
		{[]string{"--addr", silent.URL, "--timeout", "50ms", "cluster", "status"}, 1, []string{"hint: a cluster without a majority"}},
		{[]string{"--addr", "nonsense", "cluster", "status"}, 2, []string{"want the path of a socket"}},
		{[]string{"-o", "xml", "cluster", "status"}, 2, []string{"want table, wide, plain or json"}},
		{[]string{"cluster", "frobnicate"}, 2, []string{`unknown command "frobnicate"`, "lists the commands"}},
		{[]string{"cluster", "status", "--frob"}, 2, []string{"unknown flag", "lists the flags"}},
		{[]string{"wait", "--for", "godot"}, 2, []string{`unknown condition "godot"`}},
	} {
		code, _, stderr := ctlRun(t, "", c.args...)
		if code != c.code {
			t.Errorf("%q: exit %d, want %d", c.args, code, c.code)
		}
		for _, want := range c.want {
			if !strings.Contains(stderr, want) {
				t.Errorf("%q: %q lacks %q", c.args, stderr, want)
			}
		}
	}
}

func TestStatusTable(t *testing.T) {
	got := statusTable(admin.Status{
		Node: "c1", ClusterID: "x", Voters: 3, VotersUp: 2, Quorum: 2, Leader: "c1", Problem: "no voter to spare",
		Nodes: []admin.NodeStatus{
			{ID: "c1", Role: "coordinator", Suffrage: "voter", Raft: "leader", State: "active", Synced: true, Digest: strings.Repeat("ab", 16)},
			{ID: "c2", Role: "coordinator", Suffrage: "voter", Error: "connection refused"},
			{ID: "f1", Role: "frontend", Suffrage: "learner", Raft: "follower", Diverged: true, Synced: true},
		},
	}, false)
	if got.Rows[0][3] != "LEADER" || got.Rows[0][9] != "abababababab" {
		t.Errorf("leader: %q", got.Rows[0])
	}
	if got.Rows[1][4] != "unreachable" || got.Rows[2][4] != "DIVERGED" {
		t.Errorf("states: %q %q", got.Rows[1], got.Rows[2])
	}
	for _, want := range []string{"2 of 3 voters answer", "problem: no voter to spare", "c2: connection refused"} {
		if !strings.Contains(got.Foot, want) {
			t.Errorf("%q lacks %q", got.Foot, want)
		}
	}
}

func TestDestructiveCommandsAskFirst(t *testing.T) {
	var removed []string
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodDelete {
			removed = append(removed, r.URL.Path)
		}
		w.Write([]byte(`{"voters":3,"voters_up":3}`))
	}))
	defer node.Close()
	code, _, stderr := ctlRun(t, "", "--addr", node.URL, "member", "remove", "c3")
	if code != 1 || len(removed) != 0 || !strings.Contains(stderr, "node c3 will be removed") || !strings.Contains(stderr, "--yes") {
		t.Errorf("without --yes: exit %d, removed %q, said %q", code, removed, stderr)
	}
	if code, _, stderr := ctlRun(t, "", "--addr", node.URL, "member", "remove", "c3", "--yes"); code != 0 || len(removed) != 1 {
		t.Errorf("with --yes: exit %d, removed %q, said %q", code, removed, stderr)
	}
}

func TestUsers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "users")
	if code, _, stderr := ctlRun(t, "secret\n", "user", "add", "alice", "-f", file, "--groups", "staff"); code != 0 {
		t.Fatal(stderr)
	}
	if code, _, stderr := ctlRun(t, "secret\n", "user", "set", "root", "-f", file, "--admin", "--form", "argon2id"); code != 0 {
		t.Fatal(stderr)
	}
	data, err := os.ReadFile(file)
	if err != nil || strings.Contains(string(data), "secret") {
		t.Errorf("%v: %s", err, data)
	}
	if _, stdout, _ := ctlRun(t, "", "user", "list", "-f", file, "-o", "plain"); stdout != "alice\tstaff\tfalse\tfalse\nroot\t\ttrue\tfalse\n" {
		t.Errorf("list: %q", stdout)
	}
	if code, _, _ := ctlRun(t, "", "user", "remove", "nobody", "-f", file); code != 1 {
		t.Errorf("removing nobody: exit %d, want 1", code)
	}
	if code, _, stderr := ctlRun(t, "", "user", "set", "bob", "-f", file); code != 1 || !strings.Contains(stderr, "no password") {
		t.Errorf("no password: exit %d, %q", code, stderr)
	}
}

func TestWait(t *testing.T) {
	answers := make(chan string, 5)
	answers <- `{"node":"f1"}`
	answers <- `{"node":"f1","leader":"c1","nodes":[{"id":"f1","synced":true,"lag":3}]}`
	answers <- `{"node":"f1","leader":"c1","nodes":[{"id":"f1","synced":true}]}`
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write([]byte(<-answers)) }))
	defer node.Close()
	if code, _, stderr := ctlRun(t, "", "--addr", node.URL, "--timeout", time.Minute.String(), "wait"); code != 0 || len(answers) != 0 {
		t.Errorf("exit %d with %d answers unread: %s", code, len(answers), stderr)
	}
	answers <- `{"node":"f1","nodes":[{"id":"f1","version":"2"},{"id":"c1","version":"1"}]}`
	answers <- `{"node":"f1","nodes":[{"id":"f1","version":"2"},{"id":"c1","version":"2"}]}`
	if code, _, stderr := ctlRun(t, "", "--addr", node.URL, "--timeout", time.Minute.String(), "wait", "--for", "version=2"); code != 0 || len(answers) != 0 {
		t.Errorf("version: exit %d with %d answers unread: %s", code, len(answers), stderr)
	}
}

// What is watched goes on when the node does not answer for a while.
func TestStatusWatch(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	asked := 0
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch asked++; asked {
		case 2:
			w.WriteHeader(http.StatusServiceUnavailable)
			w.Write([]byte(`{"error":"not now"}`))
			return
		case 3:
			cancel()
		}
		w.Write([]byte(`{"node":"c1","nodes":[{"id":"c1","term":7,"gossip":"alive"}]}`))
	}))
	defer node.Close()
	var out, errs strings.Builder
	code := run(ctx, []string{"--addr", node.URL, "cluster", "status", "--watch", "--every", "1ms", "-o", "json"}, nil, &out, &errs)
	if code != 0 || asked != 3 || !strings.Contains(errs.String(), "not now") || !strings.HasPrefix(out.String(), `{"node":"c1"`) {
		t.Errorf("exit %d after %d answers: %s%s", code, asked, out.String(), errs.String())
	}
	code, stdout, stderr := ctlRun(t, "", "--addr", node.URL, "cluster", "status", "-o", "wide")
	if code != 0 || !strings.Contains(stdout, "CERTIFICATE UNTIL") || !strings.Contains(stdout, "alive") {
		t.Errorf("exit %d: %s%s", code, stdout, stderr)
	}
}
