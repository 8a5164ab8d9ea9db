package cyrus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"murder/test/imapline"
)

const (
	startTimeout = 60 * time.Second
	stopTimeout  = 12 * time.Second
	stopTries    = 3
	toolTimeout  = 60 * time.Second
)

// Node is one Cyrus installation: its own configuration, spool, addresses and processes.
type Node struct {
	Name   string // be1
	Server string // the servername, as it stands in locations
	Host   string // its address

	kind kind
	rig  *Rig
	dir  string
	cmd  *exec.Cmd
	out  *bytes.Buffer
	done chan struct{} // closed when cmd has ended
}

// mupdate is the MUPDATE server that this node is told.
func (n *Node) mupdate() string {
	o := n.rig.options
	if at, ok := o.MupdateOf[n.Name]; ok {
		return at
	}
	if n.kind == frontend && o.FrontendMupdate != "" {
		return o.FrontendMupdate
	}
	if o.Mupdate == "" && o.Master {
		return n.rig.Node("mupdate").Addr(MupdatePort)
	}
	return o.Mupdate
}

// SetMupdate tells a node another MUPDATE server; it takes effect at the next start.
func (n *Node) SetMupdate(addr string) error {
	if n.rig.options.MupdateOf == nil {
		n.rig.options.MupdateOf = map[string]string{}
	}
	n.rig.options.MupdateOf[n.Name] = addr
	return n.writeConf()
}

// Rename gives a node another servername, which it writes into locations from its next start on.
func (n *Node) Rename(server string) error {
	n.Server = server
	return n.configure() // accounts belong to a servername
}

// configure makes the directories, configuration and accounts.
func (n *Node) configure() error {
	for _, d := range []string{"conf/db", "conf/socket", "conf/proc", "conf/log", "conf/msg", "conf/quota",
		"conf/user", "conf/sieve", "conf/ptclient", "spool", "spool2", "sieve", "run/proc", "run/lock"} {
		if err := os.MkdirAll(filepath.Join(n.dir, d), 0o755); err != nil {
			return err
		}
	}
	if err := n.writeConf(); err != nil {
		return err
	}
	o := n.rig.options
	for _, account := range append([]string{o.Admin, o.Proxy}, o.Users...) {
		cmd := exec.Command("saslpasswd2", "-p", "-c", "-f", filepath.Join(n.dir, "conf/sasldb2"), "-u", n.Server, account)
		cmd.Stdin = strings.NewReader(o.Password)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("account %s: %w: %s", account, err, out)
		}
	}
	return n.chown()
}

func (n *Node) writeConf() error {
	if err := os.WriteFile(filepath.Join(n.dir, "imapd.conf"), []byte(n.imapdConf()), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(n.dir, "cyrus.conf"), []byte(n.cyrusConf()), 0o644)
}

func (n *Node) chown() error {
	u, err := user.Lookup("cyrus")
	if err != nil {
		return err
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return err
	}
	return filepath.WalkDir(n.dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chown(path, uid, gid)
	})
}

// Start starts a node that is not running and returns when it answers.
func (n *Node) Start() error {
	if err := n.launch(); err != nil {
		return err
	}
	return n.await()
}

func (n *Node) launch() error {
	if n.Running() {
		return fmt.Errorf("%s runs already", n.Name)
	}
	n.out = new(bytes.Buffer)
	n.cmd = n.rig.view.supervise(filepath.Join(binDir, "master"), "-C", n.dir+"/imapd.conf", "-M", n.dir+"/cyrus.conf",
		"-p", n.dir+"/run/master.pid")
	n.cmd.Stdout, n.cmd.Stderr = n.out, n.out
	n.cmd.WaitDelay = time.Second
	if err := n.cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", n.Name, err)
	}
	n.done = make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) {
		cmd.Wait()
		close(done)
	}(n.cmd, n.done)
	return nil
}

// await returns when the node greets, or as soon as it has ended. A frontend's MUPDATE port does so
// once it has the whole map.
func (n *Node) await() error {
	ports := []int{IMAPPort}
	switch n.kind {
	case master:
		ports = []int{MupdatePort}
	case frontend:
		ports = []int{MupdatePort, IMAPPort}
	case backend:
		if n.rig.options.Unified {
			ports = []int{MupdatePort, IMAPPort}
		}
	}
	limit := time.NewTimer(startTimeout)
	defer limit.Stop()
	for {
		for len(ports) > 0 && greets(n.Addr(ports[0])) {
			ports = ports[1:]
		}
		if len(ports) == 0 {
			return nil
		}
		select {
		case <-n.done:
			return fmt.Errorf("%s ended at its start:\n%s", n.Name, n.tail(40))
		case <-limit.C:
			return fmt.Errorf("%s does not answer on %s after %s:\n%s", n.Name, n.Addr(ports[0]), startTimeout, n.tail(40))
		case <-time.After(20 * time.Millisecond): // the port has no other way to say that it is there
		}
	}
}

// greets reports whether something answers with a line of its own accord.
func greets(addr string) bool {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return false
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	var b [1]byte
	k, _ := c.Read(b[:])
	return k == 1
}

// Running reports whether the node has been started and not ended.
func (n *Node) Running() bool {
	if n.done == nil {
		return false
	}
	select {
	case <-n.done:
		return false
	default:
		return true
	}
}

// PID is the first process of a node that runs.
func (n *Node) PID() int { return n.cmd.Process.Pid }

// Stop ends a node in order.
func (n *Node) Stop() error {
	if !n.Running() {
		return nil
	}
	// Cyrus: a signal may come just before a process begins to wait, and be missed.
	for range stopTries {
		if err := n.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
		select {
		case <-n.done:
			return nil
		case <-time.After(stopTimeout / stopTries):
		}
		// Cyrus: and its master may go round for ever when all its processes have ended. The service manager
		// would kill it, after longer.
		if n.masterAlone() {
			n.Kill()
			return nil
		}
	}
	left, _ := exec.Command("ps", "-o", "pid,stat,wchan:24,args", "--forest", "-s", strconv.Itoa(n.PID())).Output()
	n.Kill()
	return fmt.Errorf("%s did not stop within %s and was killed:\n%s", n.Name, stopTimeout, left)
}

// masterAlone reports whether the master has no process left but ones that have ended.
func (n *Node) masterAlone() bool {
	out, err := exec.Command("ps", "-o", "stat=,comm=", "-s", strconv.Itoa(n.PID())).Output()
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0][0] != 'Z' && f[1] != "sh" && f[1] != "master" {
			return false
		}
	}
	return true
}

// Kill ends a node and all its processes at once, as a loss of power would.
func (n *Node) Kill() {
	if n.Running() {
		n.cmd.Process.Kill()
		<-n.done
	}
}

// Restart stops and starts a node.
func (n *Node) Restart() error {
	if err := n.Stop(); err != nil {
		return err
	}
	return n.Start()
}

// ToolError is a tool's exit status other than 0.
type ToolError struct {
	Tool   string
	Status int
	Output string
}

func (e *ToolError) Error() string {
	return fmt.Sprintf("%s: exit status %d: %s", e.Tool, e.Status, strings.TrimSpace(e.Output))
}

// Exec runs one of Cyrus's tools as this node would (user, configuration, view) and returns what it
// writes. A status other than 0 is a *ToolError.
func (n *Node) Exec(tool string, args ...string) (string, error) {
	return n.ExecInput("", tool, args...)
}

// ExecInput is Exec with input.
func (n *Node) ExecInput(input, tool string, args ...string) (string, error) {
	path := filepath.Join(binDir, tool)
	if _, err := os.Stat(path); err == nil && !strings.HasSuffix(tool, "test") { // mupdatetest and its like read no imapd.conf
		args = append([]string{"-C", n.dir + "/imapd.conf"}, args...)
	} else if err != nil {
		if path, err = exec.LookPath(tool); err != nil {
			return "", err
		}
	}
	cmd := n.rig.view.tool(append([]string{path}, args...)...)
	cmd.Stdin = strings.NewReader(input)
	cmd.WaitDelay = time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	ctx, cancel := context.WithTimeout(context.Background(), toolTimeout)
	defer cancel()
	if err := cmd.Start(); err != nil {
		return "", err
	}
	stop := context.AfterFunc(ctx, func() { cmd.Process.Kill() })
	defer stop()
	err := cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = &ToolError{Tool: tool + " " + strings.Join(args, " "), Status: exit.ExitCode(), Output: out.String()}
	}
	return out.String(), err
}

// IMAP signs on to this node.
func (n *Node) IMAP(user string) (*imapline.Conn, error) {
	return imapline.Login(n.Addr(IMAPPort), user, n.rig.options.Password)
}

// WaitLog returns the first log line of this node, of those written so far or later, that contains text.
func (n *Node) WaitLog(ctx context.Context, text string) (string, error) {
	for {
		lines, added := n.rig.log.of(n.Name)
		for _, l := range lines {
			if strings.Contains(l, text) {
				return l, nil
			}
		}
		select {
		case <-added:
		case <-ctx.Done():
			return "", fmt.Errorf("%s never logged %q: %w", n.Name, text, ctx.Err())
		}
	}
}

// Log returns what this node has logged.
func (n *Node) Log() []string {
	lines, _ := n.rig.log.of(n.Name)
	return lines
}

func (n *Node) tail(count int) string {
	lines := n.Log()
	if len(lines) > count {
		lines = lines[len(lines)-count:]
	}
	text := strings.Join(lines, "\n")
	if !n.Running() && n.out != nil {
		text += "\n" + n.out.String()
	}
	return text
}
