package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"murder/cluster/admin"
	"murder/cmd/murderctl/output"
)

func newNode(c *ctl) *cobra.Command {
	return group("node", "Look at one node, take it out of service", newNodeStatus(c), newDrain(c), newUndrain(c), newLeave(c), newNodeLog(c), newFreeBallast())
}

// newFreeBallast works without a node: it is for one that cannot start.
func newFreeBallast() *cobra.Command {
	cmd := &cobra.Command{
		Use: "free-ballast", Short: "Make room on a full disk, so that a coordinator can start", Args: cobra.NoArgs,
		Long: "A coordinator keeps a file in its data directory that holds nothing. Removing it gives room to start,\n" +
			"and time to make more. It comes back when the node starts with room to spare.",
	}
	dir := dataDirFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		octets, err := admin.FreeBallast(*dir)
		if err == nil {
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d MiB are free again on the disk of %s\n", octets>>20, *dir)
		}
		return err
	}
	return cmd
}

func dataDirFlag(cmd *cobra.Command) *string {
	return cmd.Flags().String("data-dir", "/var/lib/murder", "data `directory` of the node")
}

func newNodeStatus(c *ctl) *cobra.Command {
	return &cobra.Command{
		Use: "status [NODE]", Short: "Show everything about a node, by default the one that is asked", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.ask(cmd, func(ctx context.Context, client *admin.Client) error {
				s, err := client.Status(ctx)
				if err != nil {
					return err
				}
				n, err := nodeOf(s, args)
				if err != nil {
					return err
				}
				return c.show(cmd, n, nodeTable(n))
			})
		},
	}
}

func nodeTable(n admin.NodeStatus) output.Table {
	t := output.Table{Head: []string{"WHAT", "VALUE"}}
	t.Row("id", n.ID)
	t.Row("role", n.Role)
	t.Row("address", n.Address)
	for _, name := range sortedKeys(n.Services) {
		t.Row(name, n.Services[name])
	}
	t.Row("suffrage", n.Suffrage)
	t.Row("state", n.State)
	if n.Error != "" {
		t.Row("error", n.Error)
		return t
	}
	t.Row("raft", n.Raft)
	t.Row("leader", n.Leader)
	t.Row("term", n.Term)
	t.Row("last index", n.LastIndex)
	t.Row("commit index", n.CommitIndex)
	t.Row("applied index", n.AppliedIndex)
	t.Row("lag", n.Lag)
	t.Row("mailboxes", n.Mailboxes)
	t.Row("digest", n.Digest)
	t.Row("synced", n.Synced)
	t.Row("version", n.Version)
	if !n.CertExpires.IsZero() {
		t.Row("certificate expires", n.CertExpires.Local().Format(time.DateTime))
	}
	t.Foot = n.Refused
	return t
}
