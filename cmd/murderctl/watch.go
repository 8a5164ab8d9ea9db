package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"murder/cluster/admin"
	"murder/cmd/murderctl/output"
)

// silenceLimit is how long a watch waits for a sign of life, of which there is one every ten seconds.
const silenceLimit = 30 * time.Second

func newWatch(c *ctl) *cobra.Command {
	var q admin.WatchQuery
	cmd := &cobra.Command{
		Use: "watch [PATTERN]", Short: "Print changes of the map as they happen", Args: cobra.MaximumNArgs(1),
		Long: "PATTERN is as in IMAP LIST. A line \"resync\" says that changes were missed, because --from is too\n" +
			"long ago or this program too slow: list the mailboxes again. Ends with Ctrl-C.",
		Example: "  murderctl watch 'user.jane*'\n  murderctl watch -o json --from 123456",
		RunE: func(cmd *cobra.Command, args []string) error {
			q.Pattern = strings.Join(args, "")
			enc := json.NewEncoder(cmd.OutOrStdout())
			err := c.stream(cmd, silenceLimit, func(ctx context.Context, client *admin.Client, arrived func()) error {
				return client.Watch(ctx, q, func(change admin.MailboxChange) error {
					arrived()
					switch {
					case change.Kind == "alive":
						return nil
					case c.format == string(output.JSONFormat):
						return enc.Encode(change)
					}
					return c.watchLine(cmd, change)
				})
			})
			if cmd.Context().Err() != nil {
				return nil // Ctrl-C is the way to end it
			}
			return err
		},
	}
	cmd.Flags().Uint64Var(&q.From, "from", 0, "changes after this log `index`, as far as they are kept")
	return cmd
}

func (c *ctl) watchLine(cmd *cobra.Command, change admin.MailboxChange) error {
	what := mailboxState(change.Mailbox)
	if change.Kind != "change" {
		what = change.Kind
	}
	line := []string{fmt.Sprint(change.Index), what, change.Name, change.Location, change.Old}
	if c.format == string(output.PlainFormat) {
		_, err := fmt.Fprintln(cmd.OutOrStdout(), strings.Join(line, "\t"))
		return err
	}
	text := fmt.Sprintf("%-10d %-9s %s", change.Index, what, change.Name)
	switch {
	case change.Old == change.Location:
	case change.Location == "":
		text += "  was at " + change.Old
	case change.Old == "":
		text += "  at " + change.Location
	default:
		text += "  " + change.Old + " -> " + change.Location
	}
	_, err := fmt.Fprintln(cmd.OutOrStdout(), text)
	return err
}
