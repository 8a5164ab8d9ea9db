package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"murder/cluster/admin"
)

// pause lies between two questions about what nobody announces.
const pause = 20 * time.Millisecond

// Admin returns a client of a node's admin interface.
func (c *Cluster) Admin(id string) (*admin.Client, error) {
	socket := c.env[strings.ToUpper(id)+"_ADMIN"]
	if socket == "" {
		return nil, fmt.Errorf("%s/env has no admin socket of %s", c.Dir, id)
	}
	return admin.NewClient(socket, nil)
}

// Status is the cluster as one node sees it.
func (c *Cluster) Status(ctx context.Context, id string) (admin.Status, error) {
	client, err := c.Admin(id)
	if err != nil {
		return admin.Status{}, err
	}
	defer client.Close()
	return client.Status(ctx)
}

// Leader waits until the coordinators that run agree on a leader among them, and returns its id.
func (c *Cluster) Leader(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return poll(ctx, func() (string, error) {
		var leader string
		for _, id := range c.Coordinators() {
			if !alive(c.PID(id)) {
				continue
			}
			s, err := c.Status(ctx, id)
			if err != nil {
				return "", err
			}
			if s.Leader == "" || (leader != "" && leader != s.Leader) {
				return "", fmt.Errorf("%s follows %q, another %q", id, s.Leader, leader)
			}
			leader = s.Leader
		}
		if !slices.Contains(c.ids, leader) || !alive(c.PID(leader)) {
			return "", fmt.Errorf("the leader %q does not run", leader)
		}
		return leader, nil
	})
}

// AwaitReady waits until a node says that it is ready.
func (c *Cluster) AwaitReady(ctx context.Context, id string) error {
	client, err := admin.NewClient("http://"+c.Addr(id, "http"), nil)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	_, err = poll(ctx, func() (h admin.Health, err error) {
		if !alive(c.PID(id)) {
			cancel(fmt.Errorf("%s has ended", id))
		}
		if h, err = client.Health(ctx, "/readyz"); err == nil && !h.OK {
			err = fmt.Errorf("%s is not ready: %+v", id, h.Checks)
		}
		return h, err
	})
	return err
}

// AwaitEqual waits until every node's copy has the same digest at one index, and fails the test if
// they do not come to that.
func (c *Cluster) AwaitEqual(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	client, err := c.Admin(c.anyone())
	if err != nil {
		t.Error(err)
		return
	}
	defer client.Close()
	report, err := poll(ctx, func() (admin.DigestReport, error) {
		r, err := client.Digest(ctx)
		if err != nil {
			return r, err
		}
		if !r.Equal || len(r.Nodes) < len(c.ids) {
			return r, fmt.Errorf("not equal: %+v", r)
		}
		return r, nil
	})
	if err != nil {
		t.Errorf("comparing the copies: %v", err)
		return
	}
	for _, n := range report.Nodes {
		if n.Digest != report.Nodes[0].Digest {
			t.Errorf("the report says equal and is not: %+v", report)
		}
	}
}

// anyone is a coordinator that runs.
func (c *Cluster) anyone() string {
	for _, id := range c.Coordinators() {
		if alive(c.PID(id)) {
			return id
		}
	}
	return c.ids[0]
}

// poll asks until there is an answer; the error is that of the last question.
func poll[A any](ctx context.Context, ask func() (A, error)) (A, error) {
	var last error
	for {
		a, err := ask()
		if err == nil {
			return a, nil
		}
		if last == nil || ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return a, fmt.Errorf("%w: %w", context.Cause(ctx), last)
		case <-time.After(pause):
		}
	}
}

// Murderctl runs the operator's tool at a node and returns what it writes to its output.
func (c *Cluster) Murderctl(ctx context.Context, id string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, toolTimeout)
	defer cancel()
	args = append([]string{"--addr", c.env[strings.ToUpper(id)+"_ADMIN"]}, args...)
	cmd := exec.CommandContext(ctx, filepath.Join(c.bin, "murderctl"), args...)
	var errText bytes.Buffer
	cmd.Stderr = &errText
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("murderctl %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(errText.Bytes()))
	}
	return out, err
}

// MurderctlJSON runs the operator's tool with -o json and decodes its answer.
func (c *Cluster) MurderctlJSON(ctx context.Context, id string, answer any, args ...string) error {
	out, err := c.Murderctl(ctx, id, append(args, "-o", "json")...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(out, answer); err != nil {
		return fmt.Errorf("murderctl %s: %w in %q", strings.Join(args, " "), err, out)
	}
	return nil
}

// AwaitWhole waits until the leader sees every node answer and follow closely: a cluster that has got over
// what was done to it.
func (c *Cluster) AwaitWhole(ctx context.Context) error {
	_, err := poll(ctx, func() (s admin.Status, err error) {
		leader, err := c.Leader(ctx)
		if err != nil {
			return s, err
		}
		if s, err = c.Status(ctx, leader); err != nil {
			return s, err
		}
		if s.Problem != "" {
			return s, errors.New(s.Problem)
		}
		for _, m := range s.Nodes {
			if m.Error != "" || m.Lag > closeBehind || m.Leader != leader {
				return s, fmt.Errorf("%s: follows %q, %d entries behind %s", m.ID, m.Leader, m.Lag, m.Error)
			}
		}
		return s, nil
	})
	return err
}

// closeBehind is how many entries a node that follows may lack while writes go on.
const closeBehind = 256
