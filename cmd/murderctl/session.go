package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"murder/cluster/admin"
	"murder/cmd/murderctl/output"
)

func newSession(c *ctl) *cobra.Command {
	return group("session", "See and end the sessions of mail clients", newSessionList(c), newSessionKick(c))
}

func newSessionList(c *ctl) *cobra.Command {
	var user string
	cmd := &cobra.Command{
		Use: "list", Short: "List the clients of all frontends", Args: cobra.NoArgs,
		Long: "A coordinator asks all nodes; a frontend knows its own clients only.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.ask(cmd, func(ctx context.Context, client *admin.Client) error {
				a, err := client.Sessions(ctx, user)
				if err != nil {
					return err
				}
				t := output.Table{Head: []string{"NODE", "ID", "PROTOCOL", "USER", "PEER", "TLS", "SINCE", "IDLE", "COMMAND", "MAILBOX", "BACKENDS"}}
				for _, s := range a.Sessions {
					t.Row(s.Node, s.ID, s.Protocol, s.User, s.Peer, s.TLS, localTime(s.Since), time.Since(s.Active).Round(time.Second),
						s.Command, s.Mailbox, strings.Join(s.Backends, ","))
				}
				t.Foot = joinLines(fmt.Sprintf("%d sessions", len(a.Sessions)), partial(a.Only, a.Missing))
				return c.show(cmd, a, t)
			})
		},
	}
	cmd.Flags().StringVar(&user, "user", "", "only those of this `user`")
	return cmd
}

// partial says what an answer lacks.
func partial(only string, missing map[string]string) string {
	var lines []string
	if only != "" {
		lines = append(lines, "of node "+only+" only: a coordinator knows those of all")
	}
	for _, id := range sortedKeys(missing) {
		lines = append(lines, "without node "+id+": "+missing[id])
	}
	return strings.Join(lines, "\n")
}

func joinLines(lines ...string) string {
	return strings.Join(slices.DeleteFunc(lines, func(s string) bool { return s == "" }), "\n")
}

func newSessionKick(c *ctl) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: "kick ID", Short: "End a session; clients usually come back", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.ask(cmd, func(ctx context.Context, client *admin.Client) error {
				a, err := client.Kick(ctx, args[0], reason)
				if err != nil {
					return err
				}
				c.done(cmd, "session %s on %s was ended", args[0], a.Node)
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "`text` for the client")
	return cmd
}

func newBackend(c *ctl) *cobra.Command {
	return group("backend", "See the servers that hold the mail", newBackendList(c), newBackendStatus(c))
}

func newBackendList(c *ctl) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the servers of the map: how much they hold, and whether the frontends reach them", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.ask(cmd, func(ctx context.Context, client *admin.Client) error {
				a, err := client.Backends(ctx)
				if err != nil {
					return err
				}
				t := output.Table{Head: []string{"SERVER", "MAILBOXES", "RESERVED", "STATE", "CONNECTIONS"}, Foot: partial(a.Only, a.Missing)}
				for _, b := range a.Backends {
					conns := 0
					var bad []string
					for _, s := range b.Services {
						conns += s.Connections
						if s.State != "up" {
							bad = append(bad, s.Service+" "+s.State+" on "+s.Node)
						}
					}
					state := "up"
					switch {
					case len(b.Services) == 0:
						state = "not used yet"
					case len(bad) > 0:
						state = strings.Join(bad, ", ")
					}
					t.Row(b.Server, b.Mailboxes, b.Reserved, state, conns)
				}
				return c.show(cmd, a, t)
			})
		},
	}
}

func newBackendStatus(c *ctl) *cobra.Command {
	return &cobra.Command{
		Use: "status [SERVER]", Short: "Show how each frontend reaches the servers, and what went wrong last", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.ask(cmd, func(ctx context.Context, client *admin.Client) error {
				a, err := client.Backends(ctx)
				if err != nil {
					return err
				}
				states, known := []admin.BackendStatus{}, len(args) == 0
				t := output.Table{Head: []string{"SERVER", "SERVICE", "NODE", "STATE", "CONNECTIONS", "FAILURES", "NEXT TRY", "LAST ERROR"}, Foot: partial(a.Only, a.Missing)}
				for _, b := range a.Backends {
					if len(args) == 1 && b.Server != args[0] {
						continue
					}
					known = true
					for _, s := range b.Services {
						states = append(states, s)
						next, last := "", s.LastError
						if s.State == "down" {
							next = localTime(s.RetryAt)
						}
						if last != "" {
							last = localTime(s.LastAt) + " " + last
						}
						t.Row(s.Server, s.Service, s.Node, s.State, s.Connections, s.Failures, next, last)
					}
				}
				if !known {
					return &admin.Error{Message: "no backend " + args[0], Hint: "murderctl backend list"}
				}
				if len(states) == 0 {
					t.Foot = joinLines("no frontend has used it since it started", t.Foot)
				}
				return c.show(cmd, states, t)
			})
		},
	}
}

func newMUPDATE(c *ctl) *cobra.Command {
	return group("mupdate", "Look after this node's MUPDATE server", &cobra.Command{
		Use: "allow-shrink", Short: "Let the next dump for Cyrus frontends be much smaller than the one before", Args: cobra.NoArgs,
		Long: "A dump that has lost more than half of its records is held back, because Cyrus frontends would forget\n" +
			"them. After a wanted change, such as the removal of a server, say so on each node that Cyrus\n" +
			"frontends follow.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.ask(cmd, func(ctx context.Context, client *admin.Client) error {
				if err := client.AllowShrink(ctx); err != nil {
					return err
				}
				c.done(cmd, "the next dump of this node may be of any size")
				return nil
			})
		},
	})
}
