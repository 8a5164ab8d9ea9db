package process

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	adminapi "murder/cluster/admin"
	"murder/test/harness"
	"murder/test/loopback"
)

// fleet is nodes that automation has set up, each with the same file but for its name and address.
type fleet struct {
	t   *testing.T
	dir string
	at  *loopback.Net
	run map[string]*exec.Cmd
}

func newFleet(t *testing.T) *fleet {
	at, err := loopback.Claim()
	if err != nil {
		t.Skip(err)
	}
	f := &fleet{t: t, dir: t.TempDir(), at: at, run: map[string]*exec.Cmd{}}
	t.Cleanup(func() {
		for id := range f.run {
			f.stop(id, syscall.SIGKILL)
		}
		at.Release()
	})
	if err := os.WriteFile(filepath.Join(f.dir, "secret"), []byte("correct horse battery staple\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fleet) start(id, role string, host int) {
	f.t.Helper()
	conf := filepath.Join(f.dir, id+".toml")
	text := fmt.Sprintf(`[node]
id = %q
role = %q
data_dir = %q
[cluster]
listen = %q
promote_after = "500ms"
bootstrap_expect = 3
bootstrap_peers = [%q, %q, %q]
bootstrap_secret_file = %q
[gossip]
listen = %q
[admin]
socket = %q
listen = ""
[mupdate]
listen = [%q]
`, id, role, filepath.Join(f.dir, id), f.at.Host(host)+":7401", f.at.Host(1)+":7401", f.at.Host(2)+":7401", f.at.Host(3)+":7401",
		filepath.Join(f.dir, "secret"), f.at.Host(host)+":7402", f.socket(id), f.at.Host(host)+":3905")
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
	log, err := os.OpenFile(filepath.Join(f.dir, id+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		f.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(binary(f.t), "--config", conf)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = harness.ChildAttr()
	if err := cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	f.run[id] = cmd
}

func (f *fleet) socket(id string) string { return filepath.Join(f.dir, id+".sock") }

func (f *fleet) stop(id string, sig syscall.Signal) {
	f.run[id].Process.Signal(sig)
	f.run[id].Wait()
	delete(f.run, id)
}

func (f *fleet) status(ctx context.Context, id string) (adminapi.Status, error) {
	c, err := adminapi.NewClient(f.socket(id), nil)
	if err != nil {
		return adminapi.Status{}, err
	}
	defer c.Close()
	return c.Status(ctx)
}

// whole waits until a node sees three voters and so many nodes, all well.
func (f *fleet) whole(ctx context.Context, id string, nodes int) (s adminapi.Status) {
	f.t.Helper()
	await(f.t, ctx, "a whole cluster", func() (err error) {
		s, err = f.status(ctx, id)
		if err == nil && (s.Problem != "" || s.VotersUp != 3 || len(s.Nodes) != nodes) {
			err = fmt.Errorf("%d voters, %d nodes: %s", s.VotersUp, len(s.Nodes), s.Problem)
		}
		return err
	})
	return s
}

// Machines that automation starts, in any order and without a word from anybody, make one cluster, with an
// agent in it. The same command line starts them again, and one with a new disk is taken in.
func TestBootstrap(t *testing.T) {
	f := newFleet(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	f.start("a1", "agent", 11)
	f.start("c2", "coordinator", 2)
	f.start("c3", "coordinator", 3)
	await(t, ctx, "one says what it waits for", func() error {
		s, err := f.status(ctx, "c2")
		if err == nil && !strings.Contains(s.Problem, "waiting for "+f.at.Host(1)) {
			err = fmt.Errorf("problem: %q", s.Problem)
		}
		return err
	})
	f.start("c1", "coordinator", 1)
	first := f.whole(ctx, "a1", 4)

	for _, id := range []string{"c1", "c2", "c3"} {
		f.stop(id, syscall.SIGTERM)
	}
	for i, id := range []string{"c1", "c2", "c3"} {
		f.start(id, "coordinator", i+1)
	}
	f.whole(ctx, "c1", 4)

	f.stop("c1", syscall.SIGKILL)
	if err := os.RemoveAll(filepath.Join(f.dir, "c1")); err != nil {
		t.Fatal(err)
	}
	f.start("c1", "coordinator", 1)
	if s := f.whole(ctx, "c1", 4); s.ClusterID != first.ClusterID {
		t.Errorf("cluster %s became %s", first.ClusterID, s.ClusterID)
	}
}
