package cluster

import (
	"bytes"
	"errors"
	"io"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"murder/cluster/admin"
	"murder/fsm"
	"murder/internal/mbox"
)

func adminClient(t *testing.T, n *Node) *admin.Client {
	t.Helper()
	s := httptest.NewServer(admin.Handler(n))
	t.Cleanup(s.Close)
	c, err := admin.NewClient(s.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// The whole life of a cluster, as murderctl sees it.
func TestAdmin(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ctx := testContext(t)
	c1 := r.open(r.config("c1", Coordinator))
	c := adminClient(t, c1)

	st, err := c.Status(ctx)
	if err != nil || !strings.Contains(st.Problem, "cluster init") {
		t.Fatalf("before init: %+v %v", st, err)
	}
	if h, err := c.Health(ctx, "/readyz"); err != nil || h.OK {
		t.Fatalf("ready before init: %+v %v", h, err)
	}
	if _, err := c.CreateToken(ctx, admin.TokenRequest{Role: "frontend"}); err == nil {
		t.Fatal("token before init")
	}
	made, err := c.Init(ctx, admin.InitRequest{})
	if err != nil || made.ClusterID == "" {
		t.Fatal(made, err)
	}
	_, err = c.Init(ctx, admin.InitRequest{})
	var e *admin.Error
	if !errors.As(err, &e) || e.Code != 409 || !strings.Contains(e.Message, "already") {
		t.Fatalf("second init: %v", err)
	}
	tok, err := c.CreateToken(ctx, admin.TokenRequest{Role: "frontend", Uses: 2})
	if err != nil || strings.ContainsAny(tok.Token, " \n") {
		t.Fatal(tok, err)
	}
	f := adminClient(t, r.open(r.config("f1", Frontend)))
	if err := f.Join(ctx, tok.Token); err != nil {
		t.Fatal(err)
	}
	if list, err := c.Tokens(ctx); err != nil || len(list) != 1 || list[0].UsesLeft != 1 {
		t.Fatal(list, err)
	}
	if err := c.RevokeToken(ctx, tok.ID); err != nil {
		t.Fatal(err)
	}

	write(t, r.nodes["f1"], activate("user.a"), activate("user.a.x"), activate("user.b"), activate("ex.org!user.c"))
	reserve := mbox.Write{Kind: mbox.Reserve, Name: "user.r", Location: "b1!p", By: mbox.Session{ID: "s", Servers: []mbox.Server{"b1"}}}
	write(t, r.nodes["f1"], reserve)
	for _, q := range []struct {
		admin.MailboxQuery
		want string
	}{
		{admin.MailboxQuery{}, "ex.org!user.c user.a user.a.x user.b user.r"},
		{admin.MailboxQuery{Prefix: "user.a"}, "user.a user.a.x"},
		{admin.MailboxQuery{Pattern: "user.%"}, "user.a user.b user.r"},
		{admin.MailboxQuery{State: "reserved"}, "user.r"},
		{admin.MailboxQuery{Server: "b2"}, ""},
		{admin.MailboxQuery{Limit: 2, Consistent: true}, "ex.org!user.c user.a +"},
		{admin.MailboxQuery{Limit: 2, After: "user.a"}, "user.a.x user.b +"},
	} {
		page, err := f.Mailboxes(ctx, q.MailboxQuery)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, m := range page.Mailboxes {
			names = append(names, m.Name)
		}
		if page.Next != "" {
			names = append(names, "+")
		}
		if got := strings.Join(names, " "); got != q.want {
			t.Errorf("%+v: got %q, want %q", q.MailboxQuery, got, q.want)
		}
	}
	if m, err := c.Mailbox(ctx, "user.a", true); err != nil || m.Server != "b1" || m.State != "active" {
		t.Error(m, err)
	}
	if _, err := c.Mailbox(ctx, "user.none", false); !errors.As(err, &e) || e.Code != 404 || e.Hint == "" {
		t.Error(err)
	}
	if h, err := c.History(ctx, "user.a"); err != nil || len(h) != 1 || h[0].Identity != "cyrus" {
		t.Error(h, err)
	}
	if l, err := c.Reservations(ctx); err != nil || len(l) != 1 || l[0].Name != "user.r" {
		t.Error(l, err)
	}
	if l, err := c.Conflicts(ctx); err != nil || len(l) != 0 {
		t.Error(l, err)
	}
	if rep, err := c.Digest(ctx); err != nil || !rep.Equal || len(rep.Nodes) != 2 {
		t.Error(rep, err)
	}
	st, err = f.Status(ctx)
	if err != nil || st.Problem != "" || st.Leader != "c1" || len(st.Nodes) != 2 || st.Nodes[1].Suffrage != "learner" || st.Nodes[1].Raft != "follower" {
		t.Errorf("%+v %v", st, err)
	}
	for path, want := range map[string]bool{"/livez": true, "/readyz": true, "/readyz?leader": false, "/readyz?barrier=5s": true, "/healthz/cluster": false} {
		if h, err := f.Health(ctx, path); err != nil || h.OK != want {
			t.Errorf("%s: %+v %v", path, h, err)
		}
	}
	if _, err := f.Health(ctx, "/readyz?barrier=x"); !errors.As(err, &e) || e.Code != 400 {
		t.Error(err)
	}
	var saved bytes.Buffer
	if err := f.Backup(ctx, &saved); err != nil {
		t.Fatal(err)
	}
	if m, err := fsm.ReadSnapshot(&saved); err != nil || m.View().Len() != 5 {
		t.Error(err)
	}
	if err := c.Remove(ctx, "nobody"); !errors.As(err, &e) || e.Code != 409 {
		t.Error(err)
	}

	// An unreachable node is reported, and one that cannot write says so in time.
	r.kill("c1")
	st, err = f.Status(ctx)
	if err != nil || !strings.Contains(st.Problem, "no quorum: 0 of 1 voters reachable (c1: ") {
		t.Errorf("%+v %v", st.Problem, err)
	}
}

// Without its build tag the library reports to nobody, and nobody notices.
func TestMetrics(t *testing.T) {
	r := newRig(t)
	reg := prometheus.NewRegistry()
	r.configure = func(cfg *Config) {
		cfg.TrailingLogs = 1
		if cfg.NodeID == "c1" {
			cfg.Metrics = reg
		}
	}
	r.grow(3, 0)
	n := r.nodes["c1"]
	if r.waitLeader() != n {
		if err := r.waitLeader().Transfer(testContext(t), "c1"); err != nil {
			t.Fatal(err)
		}
	}
	write(t, n, activate("user.a"))
	write(t, n, mbox.Write{Kind: mbox.Reserve, Name: "user.r", Location: "b1!p", By: mbox.Session{ID: "s", Servers: []mbox.Server{"b1"}}})
	if _, err := n.Barrier(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if err := n.Backup(testContext(t), io.Discard); err != nil {
		t.Fatal(err)
	}
	// Who joins now reads a snapshot: the log before it is gone.
	tok, err := n.CreateToken(testContext(t), admin.TokenRequest{Role: string(Frontend)})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.open(r.config("f1", Frontend)).Join(testContext(t), tok.Token); err != nil {
		t.Fatal(err)
	}
	var missing []string
	defer func() {
		if len(missing) > 0 {
			t.Logf("missing: %v", missing)
		}
	}()
	r.eventually("the other nodes have been heard of", func() bool { _, ok := n.reign.Load().position("f1"); return ok })
	r.eventually("all metrics", func() bool {
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		have := map[string]bool{}
		for _, f := range families {
			have[f.GetName()] = true
		}
		missing = nil
		for _, name := range []string{
			// The library's, into whose sink all nodes of this process report.
			"raft_commitTime", "raft_leader_dispatchLog", "raft_leader_lastContact", "raft_rpc_appendEntries_storeLogs", "raft_fsm_applyBatch",
			"raft_replication_heartbeat", "raft_boltdb_freelistBytes", "raft_boltdb_storeLogs", "raft_thread_main_saturation", "raft_fsm_lastRestoreDuration",
			"murder_write_seconds", "murder_barrier_seconds", "murder_batch_commands", "murder_batch_seconds", "murder_is_leader", "murder_has_leader",
			"murder_term", "murder_last_index", "murder_commit_index", "murder_applied_index", "murder_lag_entries", "murder_mailboxes",
			"murder_reservations", "murder_reservation_oldest_seconds", "murder_queue_commands", "murder_members", "murder_peer_silence_seconds",
			"murder_peer_last_index", "murder_store_call_age_seconds", "murder_log_file_bytes", "murder_disk_free_bytes", "murder_snapshot_bytes",
			"murder_snapshot_index", "murder_snapshot_reads", "murder_copy_diverged", "murder_certificate_expiry_seconds", "murder_cluster_version",
			"murder_leader_changes_total", "murder_leaderless_seconds", "murder_stand_ins_total", "murder_write_retries_total", "murder_write_repeats_total", "murder_epoch",
			"murder_queue_age_seconds", "murder_voters", "murder_spare_voters", "murder_snapshot_age_seconds", "murder_snapshot_seconds",
			"murder_restore_last_seconds", "murder_write_verdicts_total", "murder_store_seconds",
		} {
			if !have[name] {
				missing = append(missing, name)
			}
		}
		return len(missing) == 0
	})
	// The series of a node that leaves end.
	if err := n.Remove(testContext(t), "f1"); err != nil {
		t.Fatal(err)
	}
	families, _ := reg.Gather()
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if strings.HasPrefix(f.GetName(), "murder_") && l.GetName() == "peer" && l.GetValue() == "f1" {
					t.Errorf("%s still tells of f1", f.GetName())
				}
			}
		}
	}
}
