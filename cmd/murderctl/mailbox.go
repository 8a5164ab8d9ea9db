package main

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"murder/cluster/admin"
	"murder/cmd/murderctl/output"
)

func newMailbox(c *ctl) *cobra.Command {
	return group("mailbox", "Look at the map and repair it: where is a mailbox, who put it there, who else claims it",
		newMailboxList(c), newMailboxShow(c), newMailboxHistory(c), newMailboxConflicts(c), newMailboxReservations(c),
		newMailboxResolve(c), newMailboxRelease(c), newMailboxRestore(c), newMailboxRemove(c))
}

func newMailboxList(c *ctl) *cobra.Command {
	var q admin.MailboxQuery
	cmd := &cobra.Command{
		Use: "list [PATTERN]", Short: "List mailboxes by their internal names", Args: cobra.MaximumNArgs(1),
		Long:    "PATTERN is as in IMAP LIST: * is any text, % any text without a dot.",
		Example: "  murderctl mailbox list 'user.%'\n  murderctl mailbox list --server be1.example.org -o plain | wc -l",
		RunE: func(cmd *cobra.Command, args []string) error {
			q.Pattern = strings.Join(args, "")
			return c.list(cmd, q)
		},
	}
	f := cmd.Flags()
	f.StringVar(&q.Server, "server", "", "only those on this `server`")
	f.StringVar(&q.State, "state", "", "only `active` or reserved ones")
	f.StringVar(&q.Prefix, "prefix", "", "only names that begin with this `text`")
	f.BoolVar(&q.Consistent, "consistent", false, "wait for everything committed before")
	return cmd
}

// list prints each record as it comes: a map may have millions. For people a screenful at a time is
// lined up.
func (c *ctl) list(cmd *cobra.Command, q admin.MailboxQuery) error {
	const screen = 1000
	enc := json.NewEncoder(cmd.OutOrStdout())
	t := output.Table{Head: []string{"NAME", "STATE", "SERVER", "LOCATION"}}
	err := c.stream(cmd, c.timeout, func(ctx context.Context, client *admin.Client, arrived func()) error {
		return client.EachMailbox(ctx, q, func(m admin.Mailbox) error {
			arrived()
			if c.format == string(output.JSONFormat) {
				return enc.Encode(m)
			}
			t.Row(m.Name, mailboxState(m), m.Server, m.Location)
			if len(t.Rows) < screen {
				return nil
			}
			err := c.show(cmd, nil, t)
			t = output.Table{}
			return err
		})
	})
	if err != nil || c.format == string(output.JSONFormat) {
		return err
	}
	return c.show(cmd, nil, t)
}

func mailboxState(m admin.Mailbox) string {
	if m.Transfer {
		return "moving"
	}
	return m.State
}

func newMailboxShow(c *ctl) *cobra.Command {
	var local bool
	cmd := &cobra.Command{
		Use: "show NAME", Short: "Show one mailbox", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.ask(cmd, func(ctx context.Context, client *admin.Client) error {
				d, err := client.Detail(ctx, args[0], !local)
				if err != nil {
					return err
				}
				t := output.Table{Head: []string{"NAME", "STATE", "LOCATION", "ACL", "INDEX"}, Foot: detailFoot(args[0], d)}
				if m := d.Mailbox; m != nil {
					t.Row(m.Name, mailboxState(*m), m.Location, strings.ReplaceAll(strings.TrimSuffix(m.ACL, "\t"), "\t", " "), m.Index)
				} else if d.Tombstone == nil {
					return &admin.Error{Code: 404, Message: "no mailbox " + strconv.Quote(args[0]),
						Hint: "names are internal: user.jane, not user/jane; list them with a prefix"}
				}
				return c.show(cmd, d, t)
			})
		},
	}
	cmd.Flags().BoolVar(&local, "local", false, "as the asked node sees it, without waiting for the leader")
	return cmd
}

func newMailboxHistory(c *ctl) *cobra.Command {
	return &cobra.Command{
		Use: "history NAME", Short: "Show who changed a mailbox, from where, and when", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.ask(cmd, func(ctx context.Context, client *admin.Client) error {
				events, err := client.History(ctx, args[0])
				if err != nil {
					return err
				}
				t := output.Table{Head: []string{"INDEX", "TIME", "WHAT", "LOCATION", "BEFORE", "WHO", "FROM"}}
				for _, e := range events {
					t.Row(e.Index, e.At.Local().Format(time.DateTime), e.Kind, e.Location, e.Old, e.Identity, e.Peer)
				}
				if len(events) == 0 {
					t.Foot = "nothing is remembered of " + args[0]
				}
				return c.show(cmd, events, t)
			})
		},
	}
}

func newMailboxConflicts(c *ctl) *cobra.Command {
	return &cobra.Command{
		Use: "conflicts", Short: "List names that two servers claim", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.ask(cmd, func(ctx context.Context, client *admin.Client) error {
				found, err := client.Conflicts(ctx)
				if err != nil {
					return err
				}
				t := output.Table{Head: []string{"NAME", "HOLDER", "CLAIMED BY", "TIMES", "LAST", "WHO", "FROM"}}
				for _, k := range found {
					t.Row(k.Name, k.Holder, k.Claimant, k.Count, k.Last.Local().Format(time.DateTime), k.Identity, k.Peer)
				}
				if len(found) == 0 {
					t.Foot = "no name is claimed twice"
				}
				return c.show(cmd, found, t)
			})
		},
	}
}

func newMailboxReservations(c *ctl) *cobra.Command {
	return &cobra.Command{
		Use: "reservations", Short: "List names that are reserved, the oldest first", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.ask(cmd, func(ctx context.Context, client *admin.Client) error {
				held, err := client.Reservations(ctx)
				if err != nil {
					return err
				}
				slices.SortStableFunc(held, func(a, b admin.Reservation) int { return cmp.Compare(b.AgeSeconds, a.AgeSeconds) })
				t := output.Table{Head: []string{"NAME", "KIND", "LOCATION", "AGE", "SESSION"}}
				for _, r := range held {
					kind := "create"
					if r.Transfer {
						kind = "move"
					}
					session := r.Session
					if r.SessionGone {
						session += " (gone)"
					}
					t.Row(r.Name, kind, r.Location, time.Duration(r.AgeSeconds)*time.Second, session)
				}
				if len(held) == 0 {
					t.Foot = "no name is reserved"
				}
				return c.show(cmd, held, t)
			})
		},
	}
}

func localTime(t time.Time) string { return t.Local().Format(time.DateTime) }

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
