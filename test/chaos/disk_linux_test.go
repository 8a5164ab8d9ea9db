package chaos

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"murder/test/harness"
	"murder/test/ledger"
)

// The leader's disk is full: it ends with code 74, and another leads in less than two seconds.
func TestLeaderDiskFull(t *testing.T) {
	long(t)
	if !alone(t) {
		return
	}
	r := newReport(t)
	sh(t, "mount --make-rprivate /\nip link set lo up")
	c := harness.Start(t, harness.Options{})
	must(t, c.Kill("c1"))
	data := filepath.Join(filepath.Dir(c.Env("C1_CONFIG")), "data")
	if _, err := os.Stat(data); err != nil {
		data = filepath.Join(c.Dir, "c1", "data")
	}
	sh(t, "rm -f "+data+"/ballast\nmkdir "+data+".small\nmount -t tmpfs -o size=16m small "+data+".small\ncp -a "+data+"/. "+data+".small/\nmount --move "+data+".small "+data)
	bin, err := harness.Binaries()
	must(t, err)
	cmd := exec.Command(filepath.Join(bin, "murderd"), "--config", c.Env("C1_CONFIG"))
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	must(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill() })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		s, err := c.Status(ctx, "c1")
		if err == nil && s.Leader == "c1" {
			break
		}
		if err == nil {
			c.Murderctl(ctx, "c1", "cluster", "transfer", "c1")
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("c1 does not lead: %v", err)
		}
	}
	l := ledger.Start(8, []string{c.Addr("c2", "mupdate"), c.Addr("c3", "mupdate")}, admin, password)
	defer l.Stop()
	must(t, l.Await(ctx, 50))
	r.fault("disk of the leader full")
	exec.Command("dd", "if=/dev/zero", "of="+data+"/filler", "bs=4096").Run() // ends when there is no room
	cmd.Wait()
	gone := time.Now()
	if code := cmd.ProcessState.ExitCode(); code != 74 {
		r.violation("exit %d:\n%s", code, said.String())
	}
	must(t, l.Await(ctx, 1))
	back := time.Since(gone)
	must(t, l.Await(ctx, 50))
	l.Stop()
	r.promised(l)
	_, _, gap := l.Summary()
	t.Logf("written again %s after the end; longest pause %s", back.Round(time.Millisecond), gap.Round(time.Millisecond))
	if back > 2*time.Second {
		r.violation("no write for %s after the leader had gone", back)
	}
	for _, id := range []string{"c2", "c3"} {
		r.check(l.Check(t.Context(), c.Addr(id, "mupdate")))
	}
}
