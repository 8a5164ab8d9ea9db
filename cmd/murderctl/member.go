package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"murder/cluster/admin"
)

func newMember(c *ctl) *cobra.Command {
	return group("member", "Change who belongs to the cluster and who votes",
		newMemberPromote(c),
		newMemberVote(c, "demote", "Make a voter a learner", "node %s will follow, but not vote any more", (*admin.Client).Demote),
		newMemberVote(c, "remove", "Take a node out of the cluster for good",
			"node %s will be removed: to bring it back, its data directory must be emptied and the node joined again", (*admin.Client).Remove),
		newMemberAddress(c))
}

func newMemberPromote(c *ctl) *cobra.Command {
	var force bool
	cmd := newMemberVote(c, "promote", "Let a coordinator vote", "node %s will vote", func(client *admin.Client, ctx context.Context, node string) error {
		return client.Promote(ctx, node, force)
	})
	cmd.Long = "Refused if the number of voters becomes even: four can lose no more of them than three. To go from three to\n" +
		"five, give the first --force. Coordinators that have kept up are promoted by themselves, in pairs, up to\n" +
		"cluster.voters; this is for one that was demoted."
	cmd.Flags().BoolVar(&force, "force", false, "also if the number of voters becomes even")
	return cmd
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
