package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"murder/cluster/admin"
	"murder/cmd/murderctl/output"
)

func newLeave(c *ctl) *cobra.Command {
	cmd := &cobra.Command{
		Use: "leave [NODE]", Short: "Drain a node and take it out of the cluster for good", Args: cobra.MaximumNArgs(1),
		Long: "The node, by default the one that is asked, lets its clients go, hands over the lead and is removed. It can\n" +
			"be stopped then; to bring it back, its data directory must be emptied and the node joined again. Refused\n" +
			"while the cluster could not do without it.",
	}
	yes := yesFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !cmd.Flags().Changed("timeout") {
			c.timeout = drainWait
		}
		return c.ask(cmd, func(ctx context.Context, client *admin.Client) error {
			s, err := client.Status(ctx)
			if err != nil {
				return err
			}
			n, err := nodeOf(s, args)
			if err != nil {
				return err
			}
			id, voters := n.ID, s.Voters
			if n.Suffrage == "voter" {
				voters--
			}
			plan := fmt.Sprintf("node %s will let its clients go and leave for good; %d voters remain", id, voters)
			if err := confirm(cmd, *yes, plan); err != nil {
				return err
			}
			if err := client.Drain(ctx, id); err != nil {
				return err
			}
			err = awaitNode(ctx, client, id, gone(id))
			if err == nil {
				if err = client.Remove(ctx, id); err != nil && removed(ctx, client, id) {
					err = nil
				}
			}
			if err != nil {
				return &admin.Error{Message: fmt.Sprintf("node %s drains but is still a member: %v", id, err),
					Hint: "murderctl node leave again, with a longer --timeout, or murderctl node undrain " + id}
			}
			t := output.Table{Head: []string{"NODE", "VOTERS LEFT"}, Foot: "stop murderd on it; its data directory is of no more use"}
			t.Row(id, voters)
			return c.show(cmd, leaveAnswer{Node: id, Voters: voters}, t)
		})
	}
	return cmd
}

// leaveAnswer is what node leave -o json prints.
type leaveAnswer struct {
	Node   string `json:"node"`
	Voters int    `json:"voters"` // that remain
}

// removedLimit is how long a node may take to learn that it has been removed.
const removedLimit = 5 * time.Second

// removed reports whether a node is no member any more: one that is asked to remove itself may be cut off before
// it hears that it has been done. It looks even when the command's time is over, unless somebody has ended it.
func removed(ctx context.Context, client *admin.Client, id string) bool {
	if errors.Is(ctx.Err(), context.Canceled) {
		return false
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removedLimit)
	defer cancel()
	for {
		if s, err := client.Status(ctx); err == nil {
			if n, member := findNode(s, id); !member || strings.Contains(n.Refused, "removed") {
				return true
			}
		}
		select {
		case <-time.After(pollInterval):
		case <-ctx.Done():
			return false
		}
	}
}
