package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"murder/cluster/admin"
)

// waitConditions are what scripts wait for.
var waitConditions = map[string]func(admin.Status) bool{
	"member": func(s admin.Status) bool { return s.ClusterID != "" },
	"leader": func(s admin.Status) bool { return s.Leader != "" },
	"ready":  func(s admin.Status) bool { n, ok := self(s); return ok && n.Synced && n.Lag == 0 },
	"voters": func(s admin.Status) bool { return s.Voters > 1 && s.VotersUp == s.Voters },
}

// waitCondition finds a condition by its name; nil if there is none.
func waitCondition(name string) func(admin.Status) bool {
	version, ok := strings.CutPrefix(name, "version=")
	if !ok || version == "" {
		return waitConditions[name]
	}
	return func(s admin.Status) bool {
		for _, n := range s.Nodes {
			if n.Version != version {
				return false
			}
		}
		return len(s.Nodes) > 0
	}
}

func self(s admin.Status) (admin.NodeStatus, bool) {
	for _, n := range s.Nodes {
		if n.ID == s.Node {
			return n, true
		}
	}
	return admin.NodeStatus{}, false
}

const pollInterval = 200 * time.Millisecond

func newWait(c *ctl) *cobra.Command {
	var conditions []string
	cmd := &cobra.Command{
		Use: "wait", Short: "Wait until a node is as far as a script needs it", Args: cobra.NoArgs,
		Example: "  murderctl wait --for leader,ready --timeout 1m",
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, name := range conditions {
				if waitCondition(name) == nil {
					return usageError{fmt.Errorf("unknown condition %q: want member, leader, ready, voters or version=VERSION", name)}
				}
			}
			return c.ask(cmd, func(ctx context.Context, client *admin.Client) error { return await(ctx, client, conditions) })
		},
	}
	cmd.Flags().StringSliceVar(&conditions, "for", []string{"leader", "ready"}, "`conditions`: member (of a cluster), leader (is known), ready (its copy is complete), voters (all answer), version=VERSION (every node runs that program)")
	return cmd
}

func await(ctx context.Context, client *admin.Client, conditions []string) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		s, err := client.Status(ctx)
		var missing []string
		for _, name := range conditions {
			if err != nil || !waitCondition(name)(s) {
				missing = append(missing, name)
			}
		}
		if len(missing) == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			what := fmt.Errorf("waited in vain for %s", strings.Join(missing, ", "))
			if err != nil {
				return errors.Join(what, err)
			}
			return fmt.Errorf("%w: %w", what, ctx.Err())
		}
	}
}
