package chaos

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"murder/test/harness"
)

// alone runs a test again in network and mount namespaces of its own, and reports whether this is
// that run.
func alone(t *testing.T, tools ...string) bool {
	t.Helper()
	if os.Getenv("MURDER_CHAOS_ALONE") == t.Name() {
		return true
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root, for namespaces of its own")
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s (Debian: iproute2, nftables, util-linux)", tool)
		}
	}
	bin, err := harness.Binaries()
	must(t, err)
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "MURDER_CHAOS_ALONE="+t.Name(), "MURDER_BIN="+bin)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGTERM}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Errorf("in namespaces of its own: %v", err)
	}
	return false
}

// sh runs commands, in the network of a process if pid is not 0.
func sh(t *testing.T, pid int, script string) {
	t.Helper()
	args := []string{"sh", "-ec", script}
	if pid != 0 {
		args = append([]string{"nsenter", "-t", fmt.Sprint(pid), "-n"}, args...)
	}
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", script, err, out)
	}
}

// loopbackApart leaves 127.0.0.1 alone on the loopback interface, so that the rest of 127/8 can lie
// behind cables: our programs take these addresses for safe.
const loopbackApart = `ip link set lo up
ip addr del 127.0.0.1/8 dev lo || true
ip addr add 127.0.0.1/32 dev lo
echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet
echo 1 >/proc/sys/net/ipv4/conf/default/route_localnet
`

// cables is a cluster whose nodes each have a network of their own, joined by a bridge here.
type cables struct {
	*harness.Cluster
	t    *testing.T
	pids map[string]int
}

// separate kills the nodes of a cluster and starts each in its own network, at the same address.
func separate(t *testing.T, c *harness.Cluster) *cables {
	t.Helper()
	w := &cables{c, t, map[string]int{}}
	bin, err := harness.Binaries()
	must(t, err)
	for _, id := range c.Nodes() {
		must(t, c.Kill(id))
	}
	prefix := w.host("c1")[:strings.LastIndex(w.host("c1"), ".")]
	sh(t, 0, loopbackApart+"ip link add br0 type bridge\nip link set br0 up\nip addr add "+prefix+".254/24 dev br0 scope global")
	for _, id := range c.Nodes() {
		out, err := os.OpenFile(filepath.Join(c.Dir, id+".out"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		must(t, err)
		cmd := exec.Command("sh", "-c", `read go; exec "$0" --config "$1"`, filepath.Join(bin, "murderd"), c.Env(strings.ToUpper(id)+"_CONFIG"))
		cmd.Stdout, cmd.Stderr = out, out
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL, Setpgid: true}
		in, err := cmd.StdinPipe()
		must(t, err)
		must(t, cmd.Start())
		out.Close()
		pid := cmd.Process.Pid
		w.pids[id] = pid
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		sh(t, 0, fmt.Sprintf("ip link add v%s type veth peer name eth0 netns %d\nip link set v%s master br0 up", id, pid, id))
		sh(t, pid, loopbackApart+"ip addr add "+w.host(id)+"/24 dev eth0 scope global\nip link set eth0 up\n"+
			"nft add table ip chaos\nnft add chain ip chaos leaving '{ type filter hook output priority 0; }'")
		_, err = in.Write([]byte("\n"))
		must(t, err)
		in.Close()
	}
	for _, id := range c.Nodes() {
		w.awaitReady(id)
	}
	return w
}

func (w *cables) host(id string) string {
	host, _, _ := net.SplitHostPort(w.Addr(id, "mupdate"))
	return host
}

// cut drops what one node sends to others. What they send arrives.
func (w *cables) cut(from string, to ...string) {
	w.t.Helper()
	for _, o := range to {
		sh(w.t, w.pids[from], "nft add rule ip chaos leaving ip daddr "+w.host(o)+" drop")
	}
}

// cutBoth cuts both ways.
func (w *cables) cutBoth(id string, others ...string) {
	w.t.Helper()
	w.cut(id, others...)
	for _, o := range others {
		w.cut(o, id)
	}
}

func (w *cables) heal() {
	w.t.Helper()
	for _, pid := range w.pids {
		sh(w.t, pid, "nft flush chain ip chaos leaving")
	}
}
