package harness

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
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

// AwaitReady waits until a node says that it is ready, or its process has ended.
func (c *Cluster) AwaitReady(ctx context.Context, id string) error {
	client, err := admin.NewClient("http://"+c.Addr(id, "http"), nil)
	if err != nil {
		return err
	}
	defer client.Close()
	_, err = poll(ctx, func() (h admin.Health, err error) {
		if err := c.running(id); err != nil {
			return h, err
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
	if err := c.Equal(); err != nil {
		t.Errorf("comparing the copies: %v", err)
	}
}

// Equal is AwaitEqual without a test.
func (c *Cluster) Equal() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	client, err := c.Admin(c.anyone())
	if err != nil {
		return err
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
	for _, n := range report.Nodes {
		if err == nil && n.Digest != report.Nodes[0].Digest {
			err = fmt.Errorf("the report says equal and is not: %+v", report)
		}
	}
	return err
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

// errEnded ends all waiting for a node.
var errEnded = errors.New("has ended")

// running fails with the last lines of a node's log if its process has ended.
func (c *Cluster) running(id string) error {
	if alive(c.PID(id)) {
		return nil
	}
	var last strings.Builder
	for _, ext := range []string{".log", ".out"} { // of murderd dev, and of the harness
		if lines, err := lastLines(filepath.Join(c.Dir, id+ext), 10); err == nil {
			last.WriteString("\n" + lines)
		}
	}
	return fmt.Errorf("%s %w, and said last:%s", id, errEnded, last.String())
}

// poll asks until there is an answer, or never can be; the error is that of the last question.
func poll[A any](ctx context.Context, ask func() (A, error)) (A, error) {
	var last error
	for {
		a, err := ask()
		if err == nil || errors.Is(err, errEnded) {
			return a, err
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

// Metrics reads the metrics of a node that have no labels.
func (c *Cluster) Metrics(ctx context.Context, id string) (map[string]float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.Addr(id, "http")+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("metrics of %s: %w", id, err)
	}
	defer resp.Body.Close()
	all := map[string]float64{}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		name, value, ok := strings.Cut(lines.Text(), " ")
		if v, err := strconv.ParseFloat(value, 64); ok && err == nil {
			all[name] = v
		}
	}
	return all, lines.Err()
}
