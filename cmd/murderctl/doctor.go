package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"murder/cluster/admin"
	"murder/cmd/murderctl/output"
)

func newDoctor(c *ctl) *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "List everything that needs a human, each with the command to go on with", Args: cobra.NoArgs,
		Long: "Contested names, renames that were cut off, moves that got stuck, creations that nobody confirmed;\n" +
			"nodes that are away, behind or different; backends that are down or refuse us; certificates and\n" +
			"backups. Exit 0 when there is nothing to do, 1 when there is.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.ask(cmd, func(ctx context.Context, client *admin.Client) error {
				found, err := client.Findings(ctx)
				if err != nil {
					return err
				}
				t := output.Table{Head: []string{"LEVEL", "KIND", "SUBJECT", "DETAIL", "NEXT"}}
				problems := 0
				for _, f := range found {
					t.Row(f.Level, f.Kind, f.Subject, f.Detail, f.Next)
					if f.Level == admin.LevelProblem {
						problems++
					}
				}
				t.Foot = "nothing needs you"
				if problems > 0 {
					t.Foot = fmt.Sprintf("%d to look at", problems)
				}
				if output.Format(c.format).ForPeople() {
					doctorText(cmd, found)
					t = output.Table{Foot: t.Foot}
				}
				if err := c.show(cmd, found, t); err != nil {
					return err
				}
				if problems > 0 {
					return exitCode(1)
				}
				return nil
			})
		},
	}
}

// doctorText is for people: sentences are too long for columns.
func doctorText(cmd *cobra.Command, found []admin.Finding) {
	w := cmd.OutOrStdout()
	for _, f := range found {
		head := f.Level + " " + f.Kind
		if f.Subject != "" {
			head += " " + f.Subject
		}
		fmt.Fprintf(w, "%s: %s\n", head, f.Detail)
		if f.Next != "" {
			fmt.Fprintf(w, "    -> %s\n", f.Next)
		}
	}
}
