package dev

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// process is one running node.
type process struct {
	node  *node
	cmd   *exec.Cmd
	stdin io.Closer // its end tells the process that we are gone
	done  chan struct{}
}

// start starts a node as a process of its own group, so that a terminal's Ctrl-C reaches only us and
// the nodes are stopped in order.
func (r *runner) start(n *node) error {
	log, err := os.OpenFile(n.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(r.o.Program, append([]string{}, append(n.args, "--with-parent")...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", n.id, err)
	}
	p := &process{node: n, cmd: cmd, stdin: stdin, done: make(chan struct{})}
	r.mu.Lock()
	r.running[n.id] = p
	r.mu.Unlock()
	go r.watch(p)
	return nil
}

// watch tells of a node that ends although nobody told it to.
func (r *runner) watch(p *process) {
	p.cmd.Wait()
	p.stdin.Close()
	close(p.done)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.running[p.node.id] == p {
		delete(r.running, p.node.id)
	}
	if !r.stopping && !r.expected[p.node.id] {
		r.print("%s has ended (%s). Start it again: %s", p.node.id, p.cmd.ProcessState, r.commandLine(p.node))
	}
}

// kill ends a node at once and waits until it is gone.
func (r *runner) kill(id string) error {
	r.mu.Lock()
	p := r.running[id]
	r.expected[id] = true
	r.mu.Unlock()
	if p == nil {
		return fmt.Errorf("%s does not run", id)
	}
	if err := p.cmd.Process.Kill(); err != nil {
		return fmt.Errorf("killing %s: %w", id, err)
	}
	<-p.done
	r.mu.Lock()
	delete(r.expected, id)
	r.mu.Unlock()
	return nil
}

func (r *runner) pids() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	pids := map[string]int{}
	for id, p := range r.running {
		pids[id] = p.cmd.Process.Pid
	}
	return pids
}

const (
	firstWave  = 5 * time.Second // frontends and backends
	secondWave = 8 * time.Second // coordinators
)

// stop ends everything that was started: those who use coordinators first.
func (r *runner) stop() error {
	r.mu.Lock()
	r.stopping = true
	var first, second []*process
	for _, p := range r.running {
		if p.node.id[0] == 'c' {
			second = append(second, p)
		} else {
			first = append(first, p)
		}
	}
	r.mu.Unlock()
	return errors.Join(end(first, firstWave), end(second, secondWave))
}

// end asks processes to stop, and kills those who take too long.
func end(list []*process, limit time.Duration) error {
	var wg sync.WaitGroup
	errs := make([]error, len(list))
	for i, p := range list {
		wg.Go(func() {
			p.cmd.Process.Signal(syscall.SIGTERM)
			timer := time.NewTimer(limit)
			defer timer.Stop()
			select {
			case <-p.done:
			case <-timer.C:
				p.cmd.Process.Kill()
				<-p.done
				errs[i] = fmt.Errorf("%s did not stop within %s and was killed", p.node.id, limit)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
