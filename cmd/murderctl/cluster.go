package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"murder/cluster/admin"
	"murder/cmd/murderctl/output"
)

func newCluster(c *ctl) *cobra.Command {
	return group("cluster", "Make a cluster, join it, see how it is",
		newInit(c), newToken(c), newJoin(c), newStatus(c), newHealth(c), newVerify(c), newTransfer(c), newUpgrade(c), newFinalize(c))
}

func newInit(c *ctl) *cobra.Command {
	var req admin.InitRequest
	cmd := &cobra.Command{
		Use: "init", Short: "Make a new cluster of this node", Args: cobra.NoArgs,
		Long: "The node gets a certificate authority of its own and leads from then on.\n" +
			"Run it once, on one coordinator; the others join.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.ask(cmd, func(ctx context.Context, client *admin.Client) error {
				a, err := client.Init(ctx, req)
				if err != nil {
					return err
				}
				return c.show(cmd, a, output.Table{
					Rows: [][]string{{a.ClusterID}}, Head: []string{"CLUSTER"},
					Foot: "next: murderctl cluster token create --role coordinator --uses 2",
				})
			})
		},
	}
	cmd.Flags().StringVar(&req.ClusterID, "id", "", "`name` of the cluster; drawn at random if empty")
	return cmd
}

func newJoin(c *ctl) *cobra.Command {
	return &cobra.Command{
		Use: "join TOKEN", Short: "Make this node a member of the cluster that the token is for", Args: cobra.ExactArgs(1),
		Long: "The token is one line from \"murderctl cluster token create\" and names the addresses of the cluster.\n" +
			"A coordinator first follows as a learner and votes once it has kept up for a while.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.stream(cmd, c.timeout, func(ctx context.Context, client *admin.Client, _ func()) error {
				if err := client.Join(ctx, args[0]); err != nil {
					return err
				}
				c.done(cmd, "joined; murderctl cluster status shows how far its copy is")
				return nil
			})
		},
	}
}

func newHealth(c *ctl) *cobra.Command {
	return &cobra.Command{
		Use: "health", Short: "Exit 0 when all is well, 1 when degraded, 2 without a majority", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.ask(cmd, func(ctx context.Context, client *admin.Client) error {
				h, err := client.Health(ctx, "/healthz/cluster")
				if err != nil {
					return err
				}
				s, err := client.Status(ctx)
				if err != nil {
					return err
				}
				t := output.Table{Head: []string{"CHECK", "OK", "DETAIL"}}
				for _, check := range h.Checks {
					t.Row(check.Name, check.OK, check.Detail)
				}
				t.Foot = s.Problem
				if err := c.show(cmd, h, t); err != nil {
					return err
				}
				switch {
				case s.VotersUp < s.Quorum || s.Leader == "":
					return exitCode(2)
				case !h.OK || s.Problem != "":
					return exitCode(1)
				}
				return nil
			})
		},
	}
}

func newVerify(c *ctl) *cobra.Command {
	return &cobra.Command{
		Use: "verify", Short: "Compare the copies of all nodes at one index", Args: cobra.NoArgs,
		Long: "Exit 0 only if every node answered and all copies are equal.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.ask(cmd, func(ctx context.Context, client *admin.Client) error {
				d, err := client.Digest(ctx)
				if err != nil {
					return err
				}
				t := output.Table{Head: []string{"NODE", "DIGEST", "ERROR"}}
				for _, n := range d.Nodes {
					t.Row(n.Node, n.Digest, n.Error)
				}
				if d.Equal {
					t.Foot = fmt.Sprintf("all copies are equal at index %d", d.Index)
				} else {
					t.Foot = fmt.Sprintf("not all copies could be shown to be equal at index %d: a copy that differs is repaired by emptying the data directory of its node and joining again", d.Index)
				}
				if err := c.show(cmd, d, t); err != nil {
					return err
				}
				if !d.Equal {
					return exitCode(1)
				}
				return nil
			})
		},
	}
}

func newTransfer(c *ctl) *cobra.Command {
	return &cobra.Command{
		Use: "transfer [NODE]", Short: "Let another coordinator lead", Args: cobra.MaximumNArgs(1),
		Long: "Without NODE the one whose copy is furthest. Writes wait for some milliseconds.",
		RunE: func(cmd *cobra.Command, args []string) error {
			to := strings.Join(args, "")
			return c.ask(cmd, func(ctx context.Context, client *admin.Client) error {
				if err := client.Transfer(ctx, to); err != nil {
					return err
				}
				c.done(cmd, "leadership was handed over")
				return nil
			})
		},
	}
}
