package dev

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"murder/cluster/admin"
	"murder/internal/config"
)

// runner is a cluster that is being started, used and stopped.
type runner struct {
	o    *Options
	plan *plan
	http *http.Client

	out      sync.Mutex
	mu       sync.Mutex
	running  map[string]*process
	expected map[string]bool // ends that are not worth a word
	stopping bool
}

const (
	startLimit = 80 * time.Second // until everything answers
	pollPause  = 20 * time.Millisecond
)

// Run starts a cluster, plays the tour if asked for, and stays until ctx ends.
func Run(ctx context.Context, o Options) (err error) {
	if err := o.check(); err != nil {
		return err
	}
	p, err := newPlan(&o)
	if err != nil {
		return err
	}
	if p.remove {
		defer os.RemoveAll(p.sockets)
	}
	if err := p.write(); err != nil {
		return err
	}
	r := &runner{o: &o, plan: p, http: &http.Client{Timeout: 5 * time.Second}, running: map[string]*process{}, expected: map[string]bool{}}
	defer func() { err = errors.Join(err, r.stop()) }()
	began := time.Now()
	if err := r.form(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("%w\n%s", err, r.logs())
	}
	if err := r.writeEnv(); err != nil {
		return err
	}
	r.describe(time.Since(began))
	if o.Tour {
		err := r.tour(ctx)
		if o.Once {
			return err
		}
		if err != nil && ctx.Err() == nil {
			r.print("%v", err)
		}
	}
	r.print("Ctrl-C stops everything.")
	<-ctx.Done()
	return nil
}

// form starts the nodes and makes them one cluster.
func (r *runner) form(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for _, n := range r.plan.nodes {
		if n.role != "" {
			if err := r.start(n); err != nil {
				return err
			}
		}
	}
	if err := r.join(ctx); err != nil {
		return err
	}
	for _, n := range r.plan.ofRole("") {
		if err := r.start(n); err != nil {
			return err
		}
	}
	for _, n := range r.plan.nodes {
		if err := r.awaitNode(ctx, n); err != nil {
			return err
		}
	}
	return r.awaitVoters(ctx)
}

// join makes a new cluster on the first node and takes in the others. Nodes with data of an earlier
// run are members already.
func (r *runner) join(ctx context.Context) error {
	first := r.plan.nodes[0]
	client, err := r.client(first)
	if err != nil {
		return err
	}
	member, err := r.member(ctx, first)
	if err != nil {
		return err
	}
	if !member {
		if _, err := client.Init(ctx, admin.InitRequest{}); err != nil {
			return fmt.Errorf("making a cluster on %s: %w", first.id, err)
		}
	}
	tokens := map[string]string{}
	for _, n := range r.plan.nodes[1:] {
		if n.role == "" {
			continue
		}
		if member, err := r.member(ctx, n); err != nil {
			return err
		} else if member {
			continue
		}
		if tokens[n.role] == "" {
			t, err := client.CreateToken(ctx, admin.TokenRequest{Role: n.role, Uses: len(r.plan.ofRole(n.role))})
			if err != nil {
				return fmt.Errorf("making a token for a %s: %w", n.role, err)
			}
			tokens[n.role] = t.Token
		}
		c, err := r.client(n)
		if err != nil {
			return err
		}
		if err := c.Join(ctx, tokens[n.role]); err != nil {
			return fmt.Errorf("joining %s: %w", n.id, err)
		}
	}
	return nil
}

func (r *runner) client(n *node) (*admin.Client, error) { return admin.NewClient(n.socket, nil) }

// member waits until a node's admin API answers, and says whether it belongs to a cluster.
func (r *runner) member(ctx context.Context, n *node) (bool, error) {
	client, err := r.client(n)
	if err != nil {
		return false, err
	}
	defer client.Close()
	var s admin.Status
	err = r.poll(ctx, n, func() (err error) { s, err = client.Status(ctx); return err })
	return s.ClusterID != "", err
}

// awaitNode waits until every service of a node answers.
func (r *runner) awaitNode(ctx context.Context, n *node) error {
	if n.role != "" {
		if err := r.poll(ctx, n, func() error { return r.get(ctx, n.addr["http"], "/readyz") }); err != nil {
			return err
		}
	}
	for _, service := range n.services {
		addr := n.addr[service]
		err := r.poll(ctx, n, func() error {
			conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
			if err != nil {
				return fmt.Errorf("%s: %w", service, err)
			}
			return conn.Close()
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// awaitVoters waits until as many coordinators vote as shall.
func (r *runner) awaitVoters(ctx context.Context) error {
	first := r.plan.nodes[0]
	client, err := r.client(first)
	if err != nil {
		return err
	}
	defer client.Close()
	want := voters(r.o.Coordinators)
	return r.poll(ctx, first, func() error {
		s, err := client.Status(ctx)
		if err == nil && (s.Leader == "" || s.VotersUp < want) {
			err = fmt.Errorf("%d of %d coordinators vote", s.VotersUp, want)
		}
		return err
	})
}

// poll asks until the answer is good, the node has ended, or ctx ends.
func (r *runner) poll(ctx context.Context, n *node, ask func() error) error {
	for {
		err := ask()
		if err == nil {
			return nil
		}
		r.mu.Lock()
		_, runs := r.running[n.id]
		r.mu.Unlock()
		switch {
		case !runs:
			return fmt.Errorf("%s has ended; see %s", n.id, n.log)
		case ctx.Err() != nil:
			return fmt.Errorf("waiting for %s: %w", n.id, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pollPause):
		}
	}
}

func (r *runner) get(ctx context.Context, addr, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		return err
	}
	resp, err := r.http.Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s%s: %s", addr, path, resp.Status)
	}
	return nil
}

// writeEnv writes DIR/env in one step: whoever waits for it finds it whole.
func (r *runner) writeEnv() error {
	tmp := r.plan.env() + ".new"
	if err := os.WriteFile(tmp, r.plan.shell(r.pids()), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, r.plan.env())
}

func (r *runner) print(format string, args ...any) {
	r.out.Lock()
	defer r.out.Unlock()
	fmt.Fprintf(r.o.Out, format+"\n", args...)
}

func (r *runner) commandLine(n *node) string {
	return r.o.Program + " " + strings.Join(n.args, " ")
}

// describe says where to connect.
func (r *runner) describe(took time.Duration) {
	r.print("A murder of %d coordinators, %d frontends and %d backends, ready in %s.\n",
		r.o.Coordinators, r.o.Frontends, len(r.plan.servers), took.Round(100*time.Millisecond))
	for _, n := range r.plan.nodes {
		kind := n.role
		if kind == "" {
			kind = "demo backend"
		}
		var where []string
		for _, s := range n.services {
			where = append(where, s+" "+n.addr[s])
		}
		r.print("  %-4s %-13s %s", n.id, kind, strings.Join(where, "  "))
	}
	names := func(list []Account) string {
		var s []string
		for _, a := range list {
			s = append(s, a.Name)
		}
		return strings.Join(s, " ")
	}
	r.print("\n  administrator: %s   users: %s", names(r.o.Admins), names(r.o.Users))
	if len(r.o.Users) > 0 {
		r.print("  password of %s: %s", r.o.Users[0].Name, r.o.Users[0].Password)
	}
	first := r.plan.nodes[0]
	ctl := filepath.Join(filepath.Dir(r.o.Program), "murderctl")
	r.print("  addresses for scripts: . %s", r.plan.env())
	r.print("  look inside:           %s --addr %s cluster status", ctl, first.socket)
	r.print("  kill a node:           kill -9 $%s_PID", strings.ToUpper(first.id))
	r.print("  start it again:        %s\n", r.commandLine(first))
}

// logs is the end of every node's log, for a start that failed.
func (r *runner) logs() string {
	const lines = 8
	var b strings.Builder
	for _, n := range r.plan.nodes {
		data, err := os.ReadFile(n.log)
		if err != nil {
			continue
		}
		all := strings.Split(strings.TrimSpace(string(data)), "\n")
		fmt.Fprintf(&b, "%s:\n  %s\n", n.log, strings.Join(all[max(0, len(all)-lines):], "\n  "))
	}
	return b.String()
}

// frontend is the one that the tour uses.
func (p *plan) frontend() *node { return p.ofRole(config.Frontend)[0] }
