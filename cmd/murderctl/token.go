package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"murder/cluster/admin"
	"murder/cmd/murderctl/output"
)

func newToken(c *ctl) *cobra.Command {
	return group("token", "Tokens with which nodes join", newTokenCreate(c), newTokenList(c), newTokenRevoke(c))
}

func newTokenCreate(c *ctl) *cobra.Command {
	var req admin.TokenRequest
	cmd := &cobra.Command{
		Use: "create", Short: "Make a join token: one line, a secret", Args: cobra.NoArgs,
		Example: "  murderctl cluster token create --role frontend --uses 4 --lifetime 24h",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.ask(cmd, func(ctx context.Context, client *admin.Client) error {
				a, err := client.CreateToken(ctx, req)
				if err != nil {
					return err
				}
				if output.Format(c.format).ForPeople() {
					cmd.PrintErrf("for %d %s(s) until %s; on each: murderctl cluster join TOKEN\n", a.Uses, a.Role, a.Expires.Local().Format(time.DateTime))
					cmd.Println(a.Token)
					return nil
				}
				return c.show(cmd, a, output.Table{Rows: [][]string{{a.Token}}})
			})
		},
	}
	cmd.Flags().StringVar(&req.Role, "role", "", "`role` of the node that joins: coordinator, frontend or agent")
	cmd.Flags().IntVar(&req.Uses, "uses", 1, "how many nodes may use it")
	cmd.Flags().DurationVar(&req.Lifetime, "lifetime", time.Hour, "how long it is good")
	cmd.MarkFlagRequired("role")
	return cmd
}

func newTokenList(c *ctl) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the tokens that are still good", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.ask(cmd, func(ctx context.Context, client *admin.Client) error {
				tokens, err := client.Tokens(ctx)
				if err != nil {
					return err
				}
				t := output.Table{Head: []string{"ID", "ROLE", "USES LEFT", "USED BY", "EXPIRES"}}
				for _, k := range tokens {
					t.Row(k.ID, k.Role, k.UsesLeft, strings.Join(k.UsedBy, ","), k.Expires.Local().Format(time.DateTime))
				}
				return c.show(cmd, tokens, t)
			})
		},
	}
}

func newTokenRevoke(c *ctl) *cobra.Command {
	return &cobra.Command{
		Use: "revoke ID", Short: "Make a token useless", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.ask(cmd, func(ctx context.Context, client *admin.Client) error {
				if err := client.RevokeToken(ctx, args[0]); err != nil {
					return err
				}
				c.done(cmd, "token %s is revoked; nodes that joined with it stay", args[0])
				return nil
			})
		},
	}
}
