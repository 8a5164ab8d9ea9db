package cluster

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"murder/cluster/admin"
	"murder/fsm"
	"murder/internal/mbox"
)

func TestFindings(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.configure = func(cfg *Config) {
		cfg.Findings = func() []admin.Finding {
			return []admin.Finding{{Level: admin.LevelNotice, Kind: "test", Detail: "hello from " + cfg.NodeID}}
		}
	}
	r.grow(3, 1)
	n := r.nodes["c1"]
	c := adminClient(t, n)
	// want looks for findings by "kind subject", each with a command.
	want := func(kinds ...string) {
		t.Helper()
		found, err := c.Findings(testContext(t))
		if err != nil {
			t.Fatal(err)
		}
		have := map[string]bool{}
		for _, f := range found {
			if f.Level == admin.LevelProblem && f.Next == "" {
				t.Errorf("no way on: %+v", f)
			}
			if f.Kind != "test" {
				have[strings.TrimSpace(f.Kind+" "+f.Subject)] = true
			}
		}
		for _, k := range kinds {
			if !have[k] {
				t.Errorf("%s is missing in %+v", k, found)
			}
		}
		if len(have) != len(kinds) {
			t.Errorf("found %v, want %v", have, kinds)
		}
	}
	r.eventually("nobody lags", func() bool {
		for _, m := range n.Status(testContext(t)).Nodes {
			if !m.Synced || m.Error != "" {
				return false
			}
		}
		return true
	})
	want()
	found, err := c.Findings(testContext(t))
	if err != nil || len(found) != 4 || found[3].Detail != "on f1: hello from f1" {
		t.Errorf("what the nodes say themselves: %+v %v", found, err)
	}

	write(t, n, act("user.k", "b1!p", "s1"), act("user.u", "b1!p", "s1"), act("user.c", "b1!p", "s1"), act("user.m", "b1!p", "s1"))
	write(t, n, act("user.k", "b2!q", "s2"))
	write(t, n, mbox.Write{Kind: mbox.EndSession, Name: "user.u", By: mbox.Session{ID: "s1", Identity: "b1"}})
	write(t, n, mbox.Write{Kind: mbox.Delete, Name: "user.c", By: by("b1", "s4")}, mbox.Write{Kind: mbox.EndSession, By: mbox.Session{ID: "s4"}})
	write(t, n, mbox.Write{Kind: mbox.Deactivate, Name: "user.m", Location: "b1!p", By: by("b1", "s5")})
	w := mbox.Write{Kind: mbox.Delete, Name: "user.m", By: by("b1", "s6")}
	w.By.Flags = mbox.Sync
	write(t, n, w)
	want("conflict user.k", "unconfirmed user.u", "cut-rename user.c", "transfer user.m")

	r.kill("c3")
	r.waitLeader()
	r.eventually("c3 is missed", func() bool {
		s := n.Status(testContext(t))
		return s.VotersUp == 2 && s.Leader != "" && s.Leader != "c3"
	})
	want("conflict user.k", "unconfirmed user.u", "cut-rename user.c", "transfer user.m", "node c3", "quorum")
}

// D7: a move may last; an alarm comes after a quarter of an hour, and nothing ends it by itself.
func TestTransferAlarm(t *testing.T) {
	t.Parallel()
	m := fsm.New()
	index := uint64(0)
	at := func(clock time.Duration, c fsm.Command) {
		t.Helper()
		index++
		if _, err := m.Apply(index, fsm.AppendBatch(nil, uint64(clock.Milliseconds()), []fsm.Envelope{{Command: c}})); err != nil {
			t.Fatal(err)
		}
	}
	at(0, fsm.MailboxWrite{Write: act("user.m", "b1!p", "s1")})
	at(0, fsm.MailboxWrite{Write: mbox.Write{Kind: mbox.Deactivate, Name: "user.m", Location: "b1!p", By: by("b1", "s1")}})
	at(0, fsm.MailboxWrite{Write: mbox.Write{Kind: mbox.EndSession, By: by("b1", "s1")}})
	for _, c := range []struct {
		after time.Duration
		alarm bool
	}{{10 * time.Minute, false}, {transferAlarm - time.Second, false}, {transferAlarm, true}, {24 * time.Hour, true}} {
		at(c.after, fsm.Tick{})
		f := finder{now: time.Now()}
		f.records(m.View())
		if alarm := len(f.list) == 1 && f.list[0].Kind == "transfer"; alarm != c.alarm || len(f.list) > 1 {
			t.Errorf("after %v: %+v", c.after, f.list)
		}
		if e, _ := m.View().Get("user.m"); e.State != mbox.Reserved {
			t.Errorf("after %v the record is %+v", c.after, e)
		}
	}
}

// A coordinator asks the processes of all nodes; a frontend hears only itself.
func TestAskAll(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.configure = func(cfg *Config) {
		cfg.Answers = map[string]Answerer{"echo": func(_ context.Context, body json.RawMessage) (any, error) {
			return cfg.NodeID + string(body), nil
		}}
	}
	r.grow(1, 1)
	ask := func(node, method string) string {
		ctx, cancel := context.WithTimeout(testContext(t), 10*time.Second)
		defer cancel()
		replies, err := r.nodes[node].AskAll(ctx, method, 7)
		if err != nil {
			t.Fatal(err)
		}
		var said []string
		for _, a := range replies {
			said = append(said, a.Node, string(a.Body))
			if a.Err != nil {
				said = append(said, a.Err.Error())
			}
		}
		return strings.Join(said, " ")
	}
	if got := ask("c1", "echo"); got != `c1 "c17" f1 "f17"` {
		t.Error(got)
	}
	if got := ask("f1", "echo"); got != `f1 "f17"` {
		t.Error(got)
	}
	if got := ask("c1", "nothing"); !strings.Contains(got, "f1  node f1 does not know the request") {
		t.Error(got)
	}
}
