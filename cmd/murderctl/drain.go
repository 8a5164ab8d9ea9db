package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"murder/cluster/admin"
	"murder/cmd/murderctl/output"
)

// drainWait is the limit of drain --wait: node.drain_timeout is half a minute unless it is set.
const drainWait = time.Minute

func newDrain(c *ctl) *cobra.Command {
	cmd := &cobra.Command{
		Use: "drain [NODE]", Short: "Take a node out of service before it is stopped", Args: cobra.MaximumNArgs(1),
		Long: "The node, by default the one that is asked, says that it is not ready, so that load balancers turn\n" +
			"away from it, no longer leads, and lets its clients go as when it is stopped: it takes no new ones,\n" +
			"idle ones are told to connect elsewhere, the others finish what they are doing, for at most\n" +
			"node.drain_timeout. It goes on to run, to follow and to vote. Refused while the cluster could not do\n" +
			"without it. \"undrain\" or a restart ends it.",
	}
	wait := cmd.Flags().Bool("wait", false, "return when the node has no clients any more and another one leads")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *wait && !cmd.Flags().Changed("timeout") {
			c.timeout = drainWait
		}
		return c.ask(cmd, func(ctx context.Context, client *admin.Client) error {
			id, err := nodeArg(ctx, client, args)
			if err != nil {
				return err
			}
			if err := client.Drain(ctx, id); err != nil {
				return err
			}
			if *wait {
				if err := awaitNode(ctx, client, id, gone(id)); err != nil {
					return err
				}
			}
			c.done(cmd, "node %s is drained; it may be stopped now, or put back with murderctl node undrain %s", id, id)
			return nil
		})
	}
	return cmd
}

// gone says what is in the way of stopping a node that is drained.
func gone(id string) func(admin.Status, admin.NodeStatus) error {
	return func(s admin.Status, n admin.NodeStatus) error {
		switch {
		case !n.Draining || n.State != "draining":
			return fmt.Errorf("node %s is %s", id, n.State)
		case s.Leader == "" || s.Leader == id:
			return fmt.Errorf("nobody else leads")
		case n.Serving:
			return fmt.Errorf("node %s still has clients that are not done", id)
		}
		return nil
	}
}

func newUndrain(c *ctl) *cobra.Command {
	return &cobra.Command{
		Use: "undrain [NODE]", Short: "Put a drained node back into service", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.ask(cmd, func(ctx context.Context, client *admin.Client) error {
				id, err := nodeArg(ctx, client, args)
				if err != nil {
					return err
				}
				if err := client.Undrain(ctx, id); err != nil {
					return err
				}
				c.done(cmd, "node %s is back in service", id)
				return nil
			})
		},
	}
}

func newFinalize(c *ctl) *cobra.Command {
	return &cobra.Command{
		Use: "finalize", Short: "End an upgrade: let the cluster use what all nodes know", Args: cobra.NoArgs,
		Long: "Raises the cluster version to the newest that every registered node can speak, whether it can be\n" +
			"reached or not. From then on no node can go back to the version of murderd before. The cluster does\n" +
			"the same by itself after cluster.auto_finalize.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.ask(cmd, func(ctx context.Context, client *admin.Client) error {
				a, err := client.Finalize(ctx)
				if err != nil {
					return err
				}
				return c.show(cmd, a, finalizeTable(a))
			})
		},
	}
}

func finalizeTable(a admin.FinalizeAnswer) output.Table {
	t := output.Table{Head: []string{"FROM", "VERSION"}}
	t.Row(a.From, a.Version)
	t.Foot = fmt.Sprintf("the cluster version is %d", a.Version)
	if len(a.BlockedBy) > 0 {
		t.Foot += "; it could be higher but for " + strings.Join(a.BlockedBy, ", ")
	}
	return t
}

// nodeArg is the node that a command names, or the one that is asked.
func nodeArg(ctx context.Context, client *admin.Client, args []string) (string, error) {
	if len(args) == 1 {
		return args[0], nil
	}
	s, err := client.Status(ctx)
	return s.Node, err
}

// nodeOf is the same, with what its status says of it.
func nodeOf(s admin.Status, args []string) (admin.NodeStatus, error) {
	id := s.Node
	if len(args) == 1 {
		id = args[0]
	}
	n, ok := findNode(s, id)
	if !ok {
		return n, &admin.Error{Message: "no node " + id, Hint: "murderctl cluster status lists them"}
	}
	return n, nil
}

// awaitNode asks until a node is as wanted; the error says how it is instead.
func awaitNode(ctx context.Context, client *admin.Client, id string, wanted func(admin.Status, admin.NodeStatus) error) error {
	for {
		s, err := client.Status(ctx)
		if err == nil {
			n, ok := findNode(s, id)
			if err = fmt.Errorf("node %s is no member", id); ok {
				err = wanted(s, n)
			}
		}
		if err == nil {
			return nil
		}
		select {
		case <-time.After(pollInterval):
		case <-ctx.Done():
			return fmt.Errorf("waited in vain: %w", err)
		}
	}
}

func findNode(s admin.Status, id string) (admin.NodeStatus, bool) {
	for _, n := range s.Nodes {
		if n.ID == id {
			return n, true
		}
	}
	return admin.NodeStatus{}, false
}
