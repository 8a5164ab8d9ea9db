package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"murder/cluster/admin"
)

func newMember(c *ctl) *cobra.Command {
	return group("member", "Change who belongs to the cluster and who votes",
		newMemberVote(c, "promote", "Let a coordinator vote", "node %s will vote", (*admin.Client).Promote),
		newMemberVote(c, "demote", "Make a voter a learner", "node %s will follow, but not vote any more", (*admin.Client).Demote),
		newMemberVote(c, "remove", "Take a node out of the cluster for good",
			"node %s will be removed: to bring it back, its data directory must be emptied and the node joined again", (*admin.Client).Remove),
		newMemberAddress(c))
}

func newMemberVote(c *ctl, verb, short, plan string, do func(*admin.Client, context.Context, string) error) *cobra.Command {
	cmd := &cobra.Command{Use: verb + " NODE", Short: short, Args: cobra.ExactArgs(1)}
	yes := yesFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return c.ask(cmd, func(ctx context.Context, client *admin.Client) error {
			s, err := client.Status(ctx)
			if err != nil {
				return err
			}
			preview := fmt.Sprintf(plan, args[0]) + fmt.Sprintf(" (now %d of %d voters answer)", s.VotersUp, s.Voters)
			if err := confirm(cmd, *yes, preview); err != nil {
				return err
			}
			return do(client, ctx, args[0])
		})
	}
	return cmd
}

func newMemberAddress(c *ctl) *cobra.Command {
	return &cobra.Command{
		Use: "set-address NODE HOST:PORT", Short: "Tell the cluster where a node is", Args: cobra.ExactArgs(2),
		Long: "A node that starts with another address tells it by itself, as long as a majority is reachable.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.ask(cmd, func(ctx context.Context, client *admin.Client) error {
				return client.SetAddress(ctx, args[0], args[1])
			})
		},
	}
}
