package harness

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"murder/test/loopback"
)

const (
	startTimeout = 90 * time.Second
	stopTimeout  = 20 * time.Second
	toolTimeout  = 60 * time.Second
)

// Options say what `murderd dev` is to start.
type Options struct {
	Net          *loopback.Net // nil: the harness claims its own
	Coordinators int           // default 3
	Frontends    int           // default 1
	Args         []string      // further flags of `murderd dev`
	Bin          string        // directory of the programs; default: Binaries
}

// Cluster is a running `murderd dev`.
type Cluster struct {
	Dir string
	// Spawn starts a node's process from now on, if it is set: in a network of its own, say.
	Spawn func(id string, cmd *exec.Cmd) error

	bin     string
	bins    map[string]string // of nodes that run another program than bin
	dev     *process
	env     map[string]string
	ids     []string            // c1, c2, c3, f1
	nodes   map[string]*process // nodes that the harness has started again
	release func()
}

// process is a child of the test.
type process struct {
	cmd  *exec.Cmd
	out  *os.File
	done chan struct{}
}

// Start starts a cluster, waits until everything answers, and ends it with the test. When the test
// has failed, the end of every log is shown.
func Start(t testing.TB, o Options) *Cluster {
	t.Helper()
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(c.Logs(30))
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// New is Start without a test: the caller calls Close.
func New(o Options) (_ *Cluster, err error) {
	bin := o.Bin
	if bin == "" {
		if bin, err = Binaries(); err != nil {
			return nil, err
		}
	}
	c := &Cluster{bin: bin, bins: map[string]string{}, nodes: map[string]*process{}, release: func() {}}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, c.Logs(30))
			c.Close()
		}
	}()
	if c.Dir, err = os.MkdirTemp("", "murder-dev"); err != nil {
		return nil, err
	}
	if o.Coordinators == 0 {
		o.Coordinators = 3
	}
	if o.Frontends == 0 {
		o.Frontends = 1
	}
	args := []string{"dev", "--dir", c.Dir, "--coordinators", strconv.Itoa(o.Coordinators), "--frontends", strconv.Itoa(o.Frontends)}
	if o.Net == nil {
		o.Net, err = loopback.Claim()
		if err == nil {
			c.release = func() { o.Net.Release() }
		} else if !errors.Is(err, loopback.ErrOneAddress) {
			return nil, err
		}
	}
	if o.Net != nil {
		args = append(args, "--net", o.Net.Prefix())
	}
	if c.dev, err = c.run("dev", append(args, o.Args...)...); err != nil {
		return nil, err
	}
	if err = c.awaitEnv(); err != nil {
		return nil, err
	}
	for i := 1; i <= o.Coordinators; i++ {
		c.ids = append(c.ids, "c"+strconv.Itoa(i))
	}
	for i := 1; i <= o.Frontends; i++ {
		c.ids = append(c.ids, "f"+strconv.Itoa(i))
	}
	for _, id := range c.ids {
		if c.PID(id) == 0 {
			return nil, fmt.Errorf("%s/env has no process id of %s", c.Dir, id)
		}
	}
	return c, nil
}

// run starts one of our processes; what it writes goes to a file.
func (c *Cluster) run(name string, args ...string) (*process, error) {
	out, err := os.OpenFile(filepath.Join(c.Dir, name+".out"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	bin := c.bin
	if b := c.bins[name]; b != "" {
		bin = b
	}
	cmd := exec.Command(filepath.Join(bin, "murderd"), args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = ChildAttr()
	start := cmd.Start
	if spawn := c.Spawn; spawn != nil {
		start = func() error { return spawn(name, cmd) }
	}
	if err := start(); err != nil {
		out.Close()
		return nil, err
	}
	p := &process{cmd: cmd, out: out, done: make(chan struct{})}
	go func() {
		cmd.Wait()
		out.Close()
		close(p.done)
	}()
	return p, nil
}

// awaitEnv waits for the file that is written once everything answers.
func (c *Cluster) awaitEnv() error {
	limit := time.NewTimer(startTimeout)
	defer limit.Stop()
	for {
		if err := c.readEnv(); err == nil {
			return nil
		} else if !errors.Is(err, os.ErrNotExist) {
			return err
		}
		select {
		case <-c.dev.done:
			return fmt.Errorf("murderd dev ended: %s", c.dev.cmd.ProcessState)
		case <-limit.C:
			return fmt.Errorf("murderd dev wrote no %s/env within %s", c.Dir, startTimeout)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (c *Cluster) readEnv() error {
	data, err := os.ReadFile(filepath.Join(c.Dir, "env"))
	if err != nil {
		return err
	}
	env := map[string]string{}
	for s := bufio.NewScanner(bytes.NewReader(data)); s.Scan(); {
		key, value, ok := strings.Cut(strings.TrimPrefix(s.Text(), "export "), "=")
		if ok {
			env[key] = strings.Trim(value, `'"`)
		}
	}
	c.env = env
	return nil
}

// Nodes returns the ids of all nodes: c1 .., f1 ..
func (c *Cluster) Nodes() []string { return slices.Clone(c.ids) }

// Coordinators returns the ids of the coordinators.
func (c *Cluster) Coordinators() []string {
	return slices.DeleteFunc(c.Nodes(), func(id string) bool { return id[0] != 'c' })
}

// Env is one value of DIR/env: Env("F1_IMAP").
func (c *Cluster) Env(key string) string { return c.env[key] }

// Addr is the host:port of a node's service: Addr("f1", "imap").
func (c *Cluster) Addr(id, service string) string {
	return c.env[strings.ToUpper(id+"_"+service)]
}

// Addrs are the addresses of a service at all nodes.
func (c *Cluster) Addrs(service string) []string {
	var addrs []string
	for _, id := range c.ids {
		addrs = append(addrs, c.Addr(id, service))
	}
	return addrs
}

// PID is the process of a node, 0 if unknown.
func (c *Cluster) PID(id string) int {
	if p := c.nodes[id]; p != nil {
		return p.cmd.Process.Pid
	}
	pid, _ := strconv.Atoi(c.env[strings.ToUpper(id)+"_PID"])
	return pid
}

// Signal sends a signal to a node's process.
func (c *Cluster) Signal(id string, sig syscall.Signal) error {
	pid := c.PID(id)
	if pid <= 1 {
		return fmt.Errorf("no process of %s is known", id)
	}
	if err := syscall.Kill(pid, sig); err != nil {
		return fmt.Errorf("sending %v to %s: %w", sig, id, err)
	}
	return nil
}

// Kill ends a node at once and returns when it is gone.
func (c *Cluster) Kill(id string) error {
	if err := c.Signal(id, syscall.SIGKILL); err != nil {
		return err
	}
	return c.awaitEnd(id)
}

// Stop ends a node in order and returns when it is gone.
func (c *Cluster) Stop(id string) error {
	if err := c.Signal(id, syscall.SIGTERM); err != nil {
		return err
	}
	return c.awaitEnd(id)
}

// Pause stops a node's process without ending it; Resume lets it go on.
func (c *Cluster) Pause(id string) error  { return c.Signal(id, syscall.SIGSTOP) }
func (c *Cluster) Resume(id string) error { return c.Signal(id, syscall.SIGCONT) }

func (c *Cluster) awaitEnd(id string) error {
	pid := c.PID(id)
	for end := time.Now().Add(stopTimeout); alive(pid); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("%s (process %d) is still there after %s", id, pid, stopTimeout)
		}
	}
	return nil
}

// Use lets a node run the programs of another directory from its next start on.
func (c *Cluster) Use(id, bin string) { c.bins[id] = bin }

// Ended waits until a node that was started again has ended by itself, and returns its exit code.
func (c *Cluster) Ended(ctx context.Context, id string) (int, error) {
	p := c.nodes[id]
	if p == nil {
		return 0, fmt.Errorf("%s was not started by the test", id)
	}
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode(), nil
	case <-ctx.Done():
		return 0, fmt.Errorf("%s still runs: %w", id, ctx.Err())
	}
}

// Launch starts a node again and does not wait for it.
func (c *Cluster) Launch(id string) error {
	if alive(c.PID(id)) {
		return fmt.Errorf("%s runs already", id)
	}
	p, err := c.run(id, "--config", c.env[strings.ToUpper(id)+"_CONFIG"])
	if err != nil {
		return fmt.Errorf("starting %s: %w", id, err)
	}
	c.nodes[id] = p
	return nil
}

// Start starts a node again that has ended, with the configuration that it had, and returns when it
// is ready.
func (c *Cluster) Start(id string) error { return c.StartAll([]string{id}) }

// StartAll starts several nodes again, and only then waits for them: a majority may be among them.
func (c *Cluster) StartAll(ids []string) error {
	for _, id := range ids {
		if err := c.Launch(id); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for _, id := range ids {
		if err := c.AwaitReady(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// Done tells the end of `murderd dev`.
func (c *Cluster) Done() <-chan struct{} { return c.dev.done }

// Close stops everything in order and removes the cluster's directory. It fails if something had to
// be killed.
func (c *Cluster) Close() error {
	defer c.release()
	var errs []error
	for id, p := range c.nodes {
		c.Resume(id)
		errs = append(errs, p.stop(id))
	}
	for _, id := range c.ids { // a paused node could not follow an order to stop
		if pid := c.PID(id); c.nodes[id] == nil && alive(pid) {
			syscall.Kill(pid, syscall.SIGCONT)
		}
	}
	if c.dev != nil {
		errs = append(errs, c.dev.stop("murderd dev"))
	}
	for _, id := range c.ids {
		if pid := c.PID(id); alive(pid) {
			syscall.Kill(pid, syscall.SIGKILL)
			errs = append(errs, fmt.Errorf("murderd dev left %s (process %d) behind", id, pid))
		}
	}
	if os.Getenv("MURDER_KEEP") == "" {
		os.RemoveAll(c.Dir)
	}
	return errors.Join(errs...)
}

func (p *process) stop(name string) error {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		return nil
	case <-time.After(stopTimeout):
		p.cmd.Process.Kill()
		<-p.done
		return fmt.Errorf("%s did not stop within %s and was killed", name, stopTimeout)
	}
}

// alive reports whether a process exists and is more than a zombie. The first thread of a killed process can
// be a zombie while others still hold its sockets: it is gone when it has no other thread.
func alive(pid int) bool {
	if pid <= 1 || syscall.Kill(pid, 0) != nil {
		return false
	}
	if _, err := os.Stat("/proc/self"); err != nil {
		return true // no /proc on this system
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false // gone between the two questions
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	threads, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	return !strings.HasPrefix(rest, "Z") || len(threads) > 1
}

// Logs returns the last lines of every log of the cluster.
func (c *Cluster) Logs(lines int) string {
	var b strings.Builder
	filepath.WalkDir(c.Dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || (filepath.Ext(path) != ".log" && filepath.Ext(path) != ".out") {
			return nil
		}
		if last, err := lastLines(path, lines); err == nil {
			fmt.Fprintf(&b, "== %s\n%s\n", path, last)
		}
		return nil
	})
	return b.String()
}

func lastLines(path string, lines int) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	all := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n"), nil
}
