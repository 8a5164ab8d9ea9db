package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"murder/cluster/admin"
	"murder/cmd/murderctl/output"
)

// maxUpgradeLag is how far behind a node may be, in entries, and still count as caught up under writes.
const maxUpgradeLag = 256

// gateLimit is how long the cluster may take to be fit for the next step.
const gateLimit = 30 * time.Second

// upgrade walks a cluster from one version of murderd to the next.
type upgrade struct {
	ctl    *ctl
	cmd    *cobra.Command
	client *admin.Client

	to                string
	exec              string
	stable, nodeLimit time.Duration
	total, done       int
}

func newUpgrade(c *ctl) *cobra.Command {
	u := &upgrade{ctl: c}
	cmd := &cobra.Command{
		Use: "upgrade", Short: "Upgrade all nodes, one after the other, without a pause in service", Args: cobra.NoArgs,
		Long: "Learners first, a fifth at a time, then the voters one by one, the leader last. Before each step every\n" +
			"node must answer, have caught up and hold the same copy, and the cluster must be able to do without the\n" +
			"node. Then the node is drained and restarted with the new program: by --exec, or by you, while this\n" +
			"command waits. It goes on when the node runs the new version, has caught up and has stayed so.\n\n" +
			"The first failure stops it. Give the command again and it goes on where it stopped: nodes that run the\n" +
			"new version already are left out. Until the end is declared (--finalize, murderctl cluster finalize, or\n" +
			"cluster.auto_finalize) every node can go back.",
		Example: "  murderctl cluster upgrade --plan\n" +
			"  murderctl cluster upgrade --exec 'ssh {host} \"apt-get install -y murder && systemctl restart murderd\"' --finalize",
	}
	f := cmd.Flags()
	f.StringVar(&u.to, "to", version, "`version` that murderd is to have in the end; default: that of this program")
	f.StringVar(&u.exec, "exec", "", "`command` for the shell that restarts a node with the new program; {node} and {host} are replaced")
	f.DurationVar(&u.stable, "stable", 10*time.Second, "how long a restarted node must be well before the next")
	f.DurationVar(&u.nodeLimit, "node-timeout", 10*time.Minute, "give up when a node takes longer")
	planOnly := f.Bool("plan", false, "only show the order, and what is in the way of the first step")
	finalize := f.Bool("finalize", false, "raise the cluster version in the end, after which no node can go back")
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		u.cmd = cmd
		if u.client, err = admin.NewClient(c.addr, nil); err != nil {
			return usageError{err}
		}
		defer u.client.Close()
		if *planOnly {
			return u.show(cmd.Context())
		}
		return u.run(cmd.Context(), *finalize)
	}
	return cmd
}

// upgradePlan is what --plan -o json prints.
type upgradePlan struct {
	To      string `json:"to"`
	Waves   []wave `json:"waves"`
	Problem string `json:"problem,omitempty"` // in the way of the first wave
}

func (u *upgrade) show(ctx context.Context) error {
	s, err := u.status(ctx)
	if err != nil {
		return err
	}
	p := upgradePlan{To: u.to, Waves: plan(s, u.to)}
	t := output.Table{Head: []string{"STEP", "KIND", "NODES"}}
	for i, w := range p.Waves {
		t.Row(i+1, w.Kind, strings.Join(w.Nodes, " "))
	}
	t.Foot = fmt.Sprintf("to version %s; the cluster version is %d", u.to, s.Version)
	switch {
	case len(p.Waves) == 0:
		t.Foot = fmt.Sprintf("every node runs version %s; %s", u.to, u.next(s))
	default:
		if err := u.mayGoDown(ctx, p.Waves[0]); err != nil {
			p.Problem = err.Error()
			t.Foot += "\nin the way of the first step: " + p.Problem
		}
	}
	return u.ctl.show(u.cmd, p, t)
}

func (u *upgrade) run(ctx context.Context, finalize bool) error {
	s, err := u.status(ctx)
	if err != nil {
		return err
	}
	for _, w := range plan(s, u.to) {
		u.total += len(w.Nodes)
	}
	for {
		waves := plan(s, u.to) // again each time: who leads may have changed
		if len(waves) == 0 {
			break
		}
		if err := u.upgrade(ctx, waves[0]); err != nil {
			return fmt.Errorf("the upgrade stops here, and goes on when the command is given again: %w", err)
		}
		if s, err = u.status(ctx); err != nil {
			return err
		}
	}
	u.say("", "done", fmt.Sprintf("every node runs version %s", u.to))
	if !finalize {
		u.say("", "next", u.next(s))
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, u.ctl.timeout)
	defer cancel()
	a, err := u.client.Finalize(ctx)
	if err != nil {
		return err
	}
	u.say("", "finalized", fmt.Sprintf("the cluster version is %d", a.Version))
	return nil
}

// next is what is left to do.
func (u *upgrade) next(s admin.Status) string {
	switch {
	case s.VersionPossible <= s.Version:
		return fmt.Sprintf("the cluster version is %d", s.Version)
	case s.VersionRaisedAt.IsZero():
		return fmt.Sprintf("the cluster version stays %d until murderctl cluster finalize", s.Version)
	}
	return fmt.Sprintf("the cluster version stays %d until %s, or murderctl cluster finalize", s.Version, s.VersionRaisedAt.Local().Format(time.DateTime))
}

// upgrade takes one wave through all steps.
func (u *upgrade) upgrade(ctx context.Context, w wave) error {
	look, cancelLook := context.WithTimeout(ctx, gateLimit)
	defer cancelLook()
	if err := u.retry(look, func() error { return u.mayGoDown(look, w) }); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, u.nodeLimit)
	defer cancel()
	var wg sync.WaitGroup
	failed := make([]error, len(w.Nodes))
	for i, id := range w.Nodes {
		wg.Go(func() { failed[i] = u.restart(ctx, id) })
	}
	wg.Wait()
	return errors.Join(failed...)
}

// mayGoDown is the health gate.
func (u *upgrade) mayGoDown(ctx context.Context, w wave) error {
	s, err := u.status(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, u.ctl.timeout)
	defer cancel()
	d, err := u.client.Digest(ctx)
	if err != nil {
		return err
	}
	return gate(s, d, w)
}

func (u *upgrade) restart(ctx context.Context, id string) error {
	s, err := u.status(ctx)
	if err != nil {
		return err
	}
	n, _ := findNode(s, id)
	if n.Version != u.to {
		u.say(id, "drain", "")
		if err := u.drain(ctx, id); err != nil {
			return fmt.Errorf("draining node %s: %w", id, err)
		}
		if err := u.start(ctx, n); err != nil {
			return fmt.Errorf("restarting node %s: %w", id, err)
		}
	} else if err := u.client.Undrain(ctx, id); err != nil { // restarted before, and drained again by hand
		return fmt.Errorf("undraining node %s: %w", id, err)
	}
	if err := u.awaitHealthy(ctx, id); err != nil {
		return err
	}
	u.done++
	u.say(id, "upgraded", fmt.Sprintf("%d of %d nodes", u.done, u.total))
	return nil
}

func (u *upgrade) drain(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return u.retry(ctx, func() error { return u.client.Drain(ctx, id) }) // nobody may lead at the moment
}

var plainHost = regexp.MustCompile(`^[A-Za-z0-9.:_-]+$`)

// start runs the operator's command, or waits for the operator.
func (u *upgrade) start(ctx context.Context, n admin.NodeStatus) error {
	host, _, err := net.SplitHostPort(n.Address)
	if err != nil || !plainHost.MatchString(host) || !plainHost.MatchString(n.ID) {
		return fmt.Errorf("address %q is not fit for a command line", n.Address)
	}
	if u.exec == "" {
		u.say(n.ID, "waiting", fmt.Sprintf("restart murderd on %s with version %s now", host, u.to))
		return nil
	}
	line := strings.NewReplacer("{node}", n.ID, "{host}", host).Replace(u.exec)
	u.say(n.ID, "exec", line)
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", line)
	cmd.Stdout, cmd.Stderr = u.cmd.ErrOrStderr(), u.cmd.ErrOrStderr()
	return cmd.Run()
}

// awaitHealthy returns when a node has been well for a while without a break.
func (u *upgrade) awaitHealthy(ctx context.Context, id string) error {
	var since time.Time
	return u.retry(ctx, func() error {
		s, err := u.status(ctx)
		if err == nil {
			n, _ := findNode(s, id)
			err = healthy(n, u.to)
		}
		if err != nil {
			since = time.Time{}
			return err
		}
		if since.IsZero() {
			since = time.Now()
			u.say(id, "well", fmt.Sprintf("runs version %s and has caught up; watching it for %s", u.to, u.stable))
		}
		if rest := u.stable - time.Since(since); rest > 0 {
			return fmt.Errorf("node %s has not been well for %s yet", id, u.stable)
		}
		return nil
	})
}

// retry asks until the answer is good or time is up. The node that is asked may be the one that restarts.
func (u *upgrade) retry(ctx context.Context, f func() error) error {
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-time.After(pollInterval):
		case <-ctx.Done():
			return err
		}
	}
}

func (u *upgrade) status(ctx context.Context) (s admin.Status, err error) {
	ctx, cancel := context.WithTimeout(ctx, u.ctl.timeout)
	defer cancel()
	return u.client.Status(ctx)
}

var saying sync.Mutex

// say prints one line of progress.
func (u *upgrade) say(node, step, detail string) {
	saying.Lock()
	defer saying.Unlock()
	out := u.cmd.OutOrStdout()
	if u.ctl.format == string(output.JSONFormat) {
		json.NewEncoder(out).Encode(struct {
			Time   time.Time `json:"time"`
			Node   string    `json:"node,omitempty"`
			Step   string    `json:"step"`
			Detail string    `json:"detail,omitempty"`
		}{time.Now().UTC(), node, step, detail})
		return
	}
	fmt.Fprintln(out, strings.Join(strings.Fields(fmt.Sprintf("%s %s %s %s", time.Now().Format(time.TimeOnly), node, step, detail)), " "))
}
