package chaos

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"murder/test/harness"
)

// alone runs a test again in network and mount namespaces of its own, with programs that are built with some
// tags, and reports whether this is that run.
func alone(t *testing.T, tags ...string) bool {
	t.Helper()
	if os.Getenv("MURDER_CHAOS_ALONE") == t.Name() {
		return true
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root, for namespaces of its own")
	}
	for _, tool := range []string{"ip", "mount"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s (Debian: iproute2, mount)", tool)
		}
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skipf("needs TUN: %v", err)
	}
	bin, err := harness.Binaries()
	if len(tags) > 0 {
		bin = harness.Build(t, "chaos", tags...)
	}
	must(t, err)
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=0")
	cmd.Env = append(os.Environ(), "MURDER_CHAOS_ALONE="+t.Name(), "MURDER_BIN="+bin)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGTERM}
	var out bytes.Buffer
	said := io.Writer(&out)
	if testing.Verbose() { // a long run shows where it is
		said = io.MultiWriter(&out, os.Stdout)
	}
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Run(); err != nil {
		if !testing.Verbose() {
			t.Logf("%s", out.String())
		}
		t.Errorf("in namespaces of its own: %v", err)
	}
	if strings.Contains(out.String(), "--- SKIP") {
		t.Skip("skipped there, see above")
	}
	return false
}

// sh runs commands.
func sh(t *testing.T, script string) {
	t.Helper()
	if out, err := exec.Command("sh", "-ec", script).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", script, err, out)
	}
}

// separate gives each node of a cluster a network of its own, at the same address, and starts it again there.
// From then on the harness starts it there. While all are down, prepare may do what it likes for each.
func separate(t *testing.T, c *harness.Cluster, rnd *rand.Rand, prepare ...func(id string)) *wire {
	t.Helper()
	w := newWire(rnd)
	for _, id := range c.Nodes() {
		must(t, c.Kill(id))
		for _, f := range prepare {
			f(id)
		}
	}
	prefix := hostOf(c.Addr("c1", "mupdate"))
	w.plug(t, outside, prefix[:strings.LastIndex(prefix, ".")]+".254", nil)
	for _, id := range c.Nodes() {
		ns, err := newNamespace()
		must(t, err)
		t.Cleanup(func() { ns.Close() })
		w.plug(t, id, hostOf(c.Addr(id, "mupdate")), ns)
	}
	c.Spawn = func(id string, cmd *exec.Cmd) error {
		cmd.Env = append(os.Environ(), "MURDER_SKEW="+skewFile(c, id))
		return inside(w.ids[id].ns, cmd.Start)
	}
	must(t, c.StartAll(c.Nodes()))
	return w
}
