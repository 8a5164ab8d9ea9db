package cyrus

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// viewScript changes what a Cyrus process sees of the system, within its own mount namespace: a
// /dev that holds the usual devices and the rig's log socket, and the rig's services and hosts.
const viewScript = `
view=$1; shift
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 view "$view/dev"
for name in null zero full random urandom tty; do
	if [ -e /dev/$name ]; then : > "$view/dev/$name"; mount --bind /dev/$name "$view/dev/$name"; fi
done
mkdir -m 1777 "$view/dev/shm"
mount -t tmpfs -o mode=1777 view "$view/dev/shm"
ln -s /proc/self/fd "$view/dev/fd"
ln -s "$view/log" "$view/dev/log"
mount --rbind "$view/dev" /dev
mount --bind "$view/services" /etc/services
mount --bind "$view/hosts" /etc/hosts
set +e
`

// superviseScript is the first process of a node: SIGTERM reaches the server in order, a second one all its
// processes, as systemd would have it, and when the server has gone, or this process is killed, the kernel ends
// all that is left.
const superviseScript = viewScript + `
"$@" &
server=$!
trap 'kill -TERM $server; trap "kill -TERM -1" TERM' TERM
while kill -0 $server 2>/dev/null; do wait $server; status=$?; done
exit $status
`

// runScript gives its place to one tool, as the user that Cyrus runs as.
const runScript = viewScript + `
exec setpriv --reuid=cyrus --regid=mail --init-groups -- "$@"
`

// view is the directory with the files of the private view.
type view string

func newView(dir string, services, hosts string) (view, error) {
	v := view(filepath.Join(dir, "view"))
	if err := os.MkdirAll(filepath.Join(string(v), "dev"), 0o755); err != nil {
		return "", err
	}
	old, err := os.ReadFile("/etc/services")
	if err != nil && !os.IsNotExist(err) {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(string(v), "services"), []byte(services+string(old)), 0o644); err != nil {
		return "", err
	}
	old, err = os.ReadFile("/etc/hosts")
	if err != nil && !os.IsNotExist(err) {
		return "", err
	}
	return v, os.WriteFile(filepath.Join(string(v), "hosts"), []byte(hosts+string(old)), 0o644)
}

// logSocket is where the collector listens.
func (v view) logSocket() string { return filepath.Join(string(v), "log") }

// supervise returns a command that runs a server under the view; it dies with this process.
func (v view) supervise(args ...string) *exec.Cmd {
	cmd := exec.Command("/bin/sh", append([]string{"-c", superviseScript, "node", string(v)}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true,
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
	}
	return cmd
}

// tool returns a command that runs one of Cyrus's tools under the view.
func (v view) tool(args ...string) *exec.Cmd {
	cmd := exec.Command("/bin/sh", append([]string{"-c", runScript, "tool", string(v)}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true,
		Cloneflags: syscall.CLONE_NEWNS,
		Pdeathsig:  syscall.SIGKILL,
	}
	return cmd
}

// tryNamespaces reports why the namespaces cannot be had.
func tryNamespaces() error {
	cmd := exec.Command("/bin/sh", "-c", "mount --make-rprivate / && mount -t tmpfs try /mnt")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID}
	out, err := cmd.CombinedOutput()
	if err != nil && len(out) > 0 {
		return &exec.Error{Name: strings.TrimSpace(string(out)), Err: err}
	}
	return err
}
