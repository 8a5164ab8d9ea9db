package process

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	adminapi "murder/cluster/admin"
	"murder/test/harness"
	"murder/test/mupdateline"
)

// desk is an operator at one node.
type desk struct {
	t  *testing.T
	c  *harness.Cluster
	id string
}

// run runs murderctl, which must succeed.
func (d desk) run(args ...string) string {
	d.t.Helper()
	out, err := d.c.Murderctl(d.t.Context(), d.id, args...)
	if err != nil {
		d.t.Fatal(err)
	}
	return string(out)
}

// fails runs murderctl, which must not succeed, and returns what it said.
func (d desk) fails(args ...string) string {
	d.t.Helper()
	out, err := d.c.Murderctl(d.t.Context(), d.id, args...)
	if err == nil {
		d.t.Fatalf("murderctl %q succeeded: %s", args, out)
	}
	return string(out) + err.Error()
}

// retry repeats a command that changes who votes until the cluster is as far.
func (d desk) retry(args ...string) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), patience)
	defer cancel()
	await(d.t, ctx, strings.Join(args, " "), func() error {
		_, err := d.c.Murderctl(ctx, d.id, args...)
		return err
	})
}

func (d desk) json(answer any, args ...string) {
	d.t.Helper()
	if err := json.Unmarshal([]byte(d.run(append(args, "-o", "json")...)), answer); err != nil {
		d.t.Fatal(err)
	}
}

// A day of an operator, with the real tool: what happened to a mailbox, a backup and what it is good for,
// changes followed from where one left off.
func TestBackupAndHistory(t *testing.T) {
	// What an earlier run left: older than any schedule, and more than are kept.
	scheduled := t.TempDir()
	var old []string
	for _, day := range []string{"1", "2", "3"} {
		old = append(old, filepath.Join(scheduled, "murder-2020010"+day+"T000000Z.snapshot"))
		if err := os.WriteFile(old[len(old)-1], nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := harness.Start(t, harness.Options{Args: []string{"--demo-backends", "0", "--set", "c1/backup.dir=" + scheduled,
		"--set", "c1/backup.every=1h", "--set", "c1/backup.keep=2"}})
	d := desk{t, c, "f1"}
	m, err := mupdateline.Login(c.Addr("c2", "mupdate"), admin, password)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	do := func(verb string, args ...string) {
		t.Helper()
		if _, err := m.Do(verb, args...); err != nil {
			t.Fatal(err)
		}
	}
	do("RESERVE", "user.kept", "b1!one")
	do("ACTIVATE", "user.kept", "b1!one", "kept\tlrs\t")
	do("ACTIVATE", "user.moved", "b1!one", "moved\tlrs\t")
	do("ACTIVATE", "user.gone", "b1!one", "gone\tlrs\t")

	var events []adminapi.Event
	d.json(&events, "mailbox", "history", "user.kept")
	if len(events) != 2 || events[1].Kind != "activated" || events[1].Identity != admin || events[1].Location != "b1!one" ||
		events[0].Index >= events[1].Index || time.Since(events[1].At) > time.Hour || !strings.HasPrefix(events[1].Peer, "127.") {
		t.Errorf("history: %+v", events)
	}

	file := filepath.Join(t.TempDir(), "backup.snapshot")
	d.run("backup", "save", file)
	if out := d.run("backup", "inspect", file); !strings.Contains(out, "mailboxes") {
		t.Error(out)
	}
	if out := d.run("backup", "verify", file); !strings.Contains(out, "the file is whole") {
		t.Error(out)
	}
	if out := d.run("backup", "export", file, "--format", "ctl_mboxlist"); out !=
		"user.gone\t1 b1!one gone\tlrs\t\nuser.kept\t1 b1!one kept\tlrs\t\nuser.moved\t1 b1!one moved\tlrs\t\n" {
		t.Errorf("%q", out)
	}
	if out := d.run("backup", "export", file, "--format", "jsonl"); strings.Count(out, "\n") != 3 || !strings.Contains(out, `"name":"user.gone"`) {
		t.Error(out)
	}
	// The Cyrus format is what the map says, record by record.
	var listed strings.Builder
	for _, line := range strings.Split(strings.TrimSpace(d.run("mailbox", "list", "--consistent", "-o", "json")), "\n") {
		var box adminapi.Mailbox
		if err := json.Unmarshal([]byte(line), &box); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&listed, "%s\t1 %s %s\n", box.Name, box.Location, box.ACL)
	}
	if out := d.run("backup", "export", file, "--format", "ctl_mboxlist"); out != listed.String() {
		t.Errorf("exported %q, listed %q", out, listed.String())
	}

	from := events[1].Index
	do("ACTIVATE", "user.moved", "b1!two", "moved\tlrs\t")
	do("DELETE", "user.gone")
	do("ACTIVATE", "user.new", "b1!one", "new\tlrs\t")
	if out := d.fails("backup", "restore", file); !strings.Contains(out, "1 added, 1 changed, 1 deleted, 0 left alone") || !strings.Contains(out, "--yes") {
		t.Error(out)
	}
	d.run("backup", "restore", file, "--yes")
	if out := d.run("mailbox", "list", "--consistent", "-o", "plain"); strings.Contains(out, "user.new") || !strings.Contains(out, "user.gone") || !strings.Contains(out, "b1!one") {
		t.Error(out)
	}
	c.AwaitEqual(t)
	d.json(&events, "mailbox", "history", "user.gone")
	if last := events[len(events)-1]; last.Identity != "restore" {
		t.Errorf("who brought it back: %+v", last)
	}
	follow(t, d, from, []string{"user.moved b1!one", "user.gone b1!one", "user.moved b1!two", "user.gone ", "user.new b1!one"})

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var files []string
	await(t, ctx, "the scheduled backup, and one of the old ones", func() (err error) {
		if files, err = filepath.Glob(filepath.Join(scheduled, "murder-*.snapshot")); err == nil && (len(files) != 2 || slices.Contains(files, old[1])) {
			err = fmt.Errorf("%v", files)
		}
		return err
	})
	d.run("backup", "verify", slices.Max(files))
}

// follow watches from an index and wants to see these changes first, in this order, and then others.
func follow(t *testing.T, d desk, from uint64, want []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	bin, err := harness.Binaries()
	if err != nil {
		t.Fatal(err)
	}
	watch := exec.CommandContext(ctx, filepath.Join(bin, "murderctl"), "--addr", d.c.Env("F1_ADMIN"), "watch", "-o", "json", "--from", fmt.Sprint(from))
	out, err := watch.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := watch.Start(); err != nil {
		t.Fatal(err)
	}
	defer watch.Wait()
	defer cancel()
	lines := json.NewDecoder(out)
	last := from
	for _, w := range want {
		var change adminapi.MailboxChange
		if err := lines.Decode(&change); err != nil {
			t.Fatal(err)
		}
		if got := change.Name + " " + change.Location; got != w || change.Index <= from || change.Index < last {
			t.Errorf("after %d: %+v, want %s", last, change, w)
		}
		last = change.Index
	}
}

// Members by hand, with the real tool: who votes, who belongs, tokens.
func TestMembersByTool(t *testing.T) {
	c := harness.Start(t, harness.Options{Args: []string{"--demo-backends", "0"}})
	d := desk{t, c, "c1"}
	leader, err := c.Leader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if leader != "c1" {
		d.run("cluster", "transfer", "c1")
	}
	if out := d.fails("member", "demote", "c3"); !strings.Contains(out, "--yes") || !strings.Contains(out, "3 of 3 voters answer") {
		t.Error(out)
	}
	d.retry("member", "demote", "c3", "--yes")
	var s adminapi.Status
	if d.json(&s, "cluster", "status"); s.Voters != 2 {
		t.Errorf("%d voters", s.Voters)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	await(t, ctx, "one voter", func() error {
		_, err := c.Murderctl(ctx, "c1", "member", "demote", "c2", "--yes")
		if err != nil { // it may have come to lead
			c.Murderctl(ctx, "c1", "cluster", "transfer", "c1")
		}
		return err
	})
	if out := d.fails("member", "promote", "c3", "--yes"); !strings.Contains(out, "even number") {
		t.Error(out)
	}
	d.retry("member", "promote", "c3", "--yes", "--force")
	d.retry("member", "promote", "c2", "--yes")
	if out := d.fails("member", "promote", "f1", "--yes"); !strings.Contains(out, "only coordinators can vote") {
		t.Error(out)
	}
	if out := d.fails("member", "set-address", "c2", "0.0.0.0:1"); !strings.Contains(out, "other nodes can dial") {
		t.Error(out)
	}
	d.run("member", "set-address", "c2", c.Addr("c2", "cluster"))
	if out := d.fails("member", "remove", leaderOf(t, c), "--yes"); !strings.Contains(out, "cluster transfer") {
		t.Error(out)
	}

	var token adminapi.TokenAnswer
	d.json(&token, "cluster", "token", "create", "--role", "frontend", "--uses", "2")
	var tokens []adminapi.TokenInfo
	if d.json(&tokens, "cluster", "token", "list"); !slices.ContainsFunc(tokens, func(k adminapi.TokenInfo) bool { return k.ID == token.ID && k.UsesLeft == 2 }) {
		t.Errorf("%+v", tokens)
	}
	d.run("cluster", "token", "revoke", token.ID)
	if out := d.run("cluster", "token", "list"); strings.Contains(out, token.ID) {
		t.Error(out)
	}

	// f1 leaves, is told that it has, and comes back with an empty directory.
	if out := d.fails("node", "leave", "f1"); !strings.Contains(out, "3 voters remain") {
		t.Error(out)
	}
	(desk{t, c, "f1"}).fails("node", "leave", "--yes") // a frontend changes no members
	d.run("node", "leave", "f1", "--yes")
	await(t, ctx, "it is told", func() error {
		s, err := c.Status(ctx, "f1")
		if err == nil && !strings.Contains(s.Problem, "has been removed") {
			err = errors.New(s.Problem)
		}
		return err
	})
	if err := c.Stop("f1"); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(c.Dir, "f1", "data")
	if _, err := os.Stat(data); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(data); err != nil {
		t.Fatal(err)
	}
	if err := c.Launch("f1"); err != nil {
		t.Fatal(err)
	}
	d.json(&token, "cluster", "token", "create", "--role", "frontend")
	at := desk{t, c, "f1"}
	at.retry("cluster", "join", token.Token)
	if out := bytes.ToUpper([]byte(d.run("cluster", "verify"))); !bytes.Contains(out, []byte("ALL COPIES ARE EQUAL")) {
		t.Errorf("%s", out)
	}
}

func leaderOf(t *testing.T, c *harness.Cluster) string {
	t.Helper()
	id, err := c.Leader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return id
}
