package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"murder/cluster/admin"
	"murder/cmd/murderctl/output"
)

func newStatus(c *ctl) *cobra.Command {
	cmd := &cobra.Command{
		Use: "status", Short: "Show all nodes: who leads, who lags, who is away", Args: cobra.NoArgs,
		Long: "-o wide has more columns. --watch goes on until Ctrl-C; with -o json it prints one object a line.",
	}
	watch := cmd.Flags().Bool("watch", false, "show it again and again")
	every := cmd.Flags().Duration("every", 2*time.Second, "with --watch: how often")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		show := func(ctx context.Context, client *admin.Client) error {
			s, err := client.Status(ctx)
			if err != nil {
				return err
			}
			if *watch && c.format == string(output.JSONFormat) {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(s)
			}
			return c.show(cmd, s, statusTable(s, c.format == string(output.WideFormat)))
		}
		if !*watch {
			return c.ask(cmd, show)
		}
		return c.again(cmd, *every, show)
	}
	return cmd
}

// again asks until it is interrupted. A node that does not answer at the moment is what is being watched for.
func (c *ctl) again(cmd *cobra.Command, every time.Duration, f func(context.Context, *admin.Client) error) error {
	if every <= 0 {
		return usageError{fmt.Errorf("--every %v: want more than nothing", every)}
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if output.Format(c.format).ForPeople() {
			clearScreen(cmd.OutOrStdout())
			fmt.Fprintln(cmd.OutOrStdout(), time.Now().Format(time.DateTime))
		}
		err := c.ask(cmd, f)
		if usage, ok := err.(usageError); ok {
			return usage
		}
		if err != nil && cmd.Context().Err() == nil {
			fmt.Fprintln(cmd.ErrOrStderr(), "murderctl: "+err.Error())
		}
		select {
		case <-tick.C:
		case <-cmd.Context().Done():
			return nil // Ctrl-C is the way to end it
		}
	}
}

func clearScreen(w io.Writer) {
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		io.WriteString(w, "\x1b[H\x1b[2J")
	}
}

func statusTable(s admin.Status, wide bool) output.Table {
	t := output.Table{Head: []string{"NODE", "ROLE", "ADDRESS", "RAFT", "STATE", "APPLIED", "LAG", "MAILBOXES", "VERSION", "DIGEST"}}
	if wide {
		t.Head = append(t.Head, "TERM", "LAST", "COMMIT", "GOSSIP", "SPEAKS", "CERTIFICATE UNTIL")
	}
	for _, n := range s.Nodes {
		raft := join(n.Suffrage, n.Raft)
		switch {
		case n.Error != "":
			row := []any{n.ID, n.Role, n.Address, n.Suffrage, "unreachable", "", "", "", "", ""}
			if wide {
				row = append(row, "", "", "", n.Gossip, "", "")
			}
			t.Row(row...)
			continue
		case n.Raft == "leader":
			raft = "LEADER"
		}
		state := n.State
		switch {
		case n.Diverged:
			state = "DIVERGED"
		case n.Disputed:
			state = "DISPUTED"
		case !n.Synced:
			state = "loading"
		case n.Draining:
			state = "draining"
		}
		digest := n.Digest
		if len(digest) > 12 {
			digest = digest[:12]
		}
		row := []any{n.ID, n.Role, n.Address, raft, state, n.AppliedIndex, n.Lag, n.Mailboxes, n.Version, digest}
		if wide {
			row = append(row, n.Term, n.LastIndex, n.CommitIndex, n.Gossip, fmt.Sprintf("%d-%d", n.MinCluster, n.MaxCluster), stamp(n.CertExpires))
		}
		t.Row(row...)
	}
	var foot []string
	if s.ClusterID == "" {
		foot = append(foot, "this node belongs to no cluster yet: murderctl cluster init, or cluster join TOKEN")
	} else {
		foot = append(foot, fmt.Sprintf("cluster %s: %d of %d voters answer, %d are needed", s.ClusterID, s.VotersUp, s.Voters, s.Quorum))
	}
	if s.Problem != "" {
		foot = append(foot, "problem: "+s.Problem)
	}
	for _, n := range s.Nodes {
		if n.Error != "" {
			foot = append(foot, fmt.Sprintf("%s: %s", n.ID, n.Error))
		}
		if n.Refused != "" {
			foot = append(foot, fmt.Sprintf("%s: %s", n.ID, n.Refused))
		}
	}
	t.Foot = strings.Join(foot, "\n")
	return t
}
