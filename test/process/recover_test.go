package process

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"murder/cluster"
	"murder/test/harness"
	"murder/test/mupdateline"
)

// Two of three coordinators are lost for good. The one that is left is made the only voter, the
// frontend comes back by itself, and a lost one that turns up again with its old data is not let in.
func TestLostQuorumIsRecovered(t *testing.T) {
	c := harness.Start(t, harness.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	activate(t, c, "c1", "user.before")
	c.AwaitEqual(t)
	for _, id := range []string{"c2", "c3", "c1"} {
		if err := c.Kill(id); err != nil {
			t.Fatal(err)
		}
	}
	conf := c.Env("C1_CONFIG")
	if out := murderd(t, "recover", "--config", conf); !strings.Contains(out, "Nothing was changed") {
		t.Fatal(out)
	}
	// Another that is left says how far it is, and only the furthest may go on.
	file := filepath.Join(t.TempDir(), "c2.json")
	var other cluster.Survivor
	if err := json.Unmarshal([]byte(murderd(t, "recover", "--config", c.Env("C2_CONFIG"), "--json")), &other); err != nil || other.NodeID != "c2" || other.LastIndex == 0 {
		t.Fatalf("%+v %v", other, err)
	}
	put := func(lastIndex uint64) {
		o := other
		o.LastIndex = lastIndex
		data, _ := json.Marshal(o)
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(1 << 40)
	out, err := exec.Command(binary(t), "recover", "--config", conf, file, "--yes").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "Go on at c2") {
		t.Fatalf("%v: %s", err, out)
	}
	put(1)
	if out := murderd(t, "recover", "--config", conf, file); !strings.Contains(out, "Nothing was changed") || !strings.Contains(out, "go on here") {
		t.Fatal(out)
	}
	if out := murderd(t, "recover", "--config", conf, file, "--yes"); !strings.Contains(out, "c1 votes alone") {
		t.Fatal(out)
	}
	if err := c.Start("c1"); err != nil {
		t.Fatal(err)
	}
	activate(t, c, "c1", "user.after")
	s, err := c.Status(ctx, "c1")
	if err != nil || s.Voters != 1 || s.Leader != "c1" {
		t.Fatalf("%+v %v", s, err)
	}
	await(t, ctx, "the frontend has what was written since", func() error {
		_, err := c.Murderctl(ctx, "f1", "mailbox", "show", "user.after", "--local")
		return err
	})

	// It starts, but neither becomes ready for writes nor counts as a member.
	old := exec.Command(binary(t), "--config", c.Env("C2_CONFIG"))
	log, err := os.Create(filepath.Join(c.Dir, "c2-again.out"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	old.Stdout, old.Stderr = log, log
	if err := old.Start(); err != nil {
		t.Fatal(err)
	}
	defer old.Wait()
	defer old.Process.Kill()
	await(t, ctx, "the old member is told that it is not wanted", func() error {
		s, err := c.Status(ctx, "c2")
		if err == nil && !strings.Contains(s.Problem, "not a member") && !strings.Contains(s.Problem, "removed") {
			err = fmt.Errorf("problem: %q", s.Problem)
		}
		return err
	})
	if s, err = c.Status(ctx, "c1"); err != nil || s.Voters != 1 || s.Leader != "c1" {
		t.Errorf("after the return of an old member: %+v %v", s, err)
	}
}

func activate(t *testing.T, c *harness.Cluster, id, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	await(t, ctx, "writing "+name, func() error {
		conn, err := mupdateline.Login(c.Addr(id, "mupdate"), admin, password)
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Do("ACTIVATE", name, "b1!default", "x lrs")
		return err
	})
}

func await(t *testing.T, ctx context.Context, what string, ok func() error) {
	t.Helper()
	for {
		err := ok()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func binary(t *testing.T) string {
	t.Helper()
	bin, err := harness.Binaries()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(bin, "murderd")
}

func murderd(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(binary(t), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("murderd %q: %v\n%s", args, err, out)
	}
	return string(out)
}
