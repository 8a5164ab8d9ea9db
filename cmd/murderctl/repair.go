package main

import (
	"context"
	"os"
	"os/user"
	"strings"

	"github.com/spf13/cobra"

	"murder/cluster/admin"
	"murder/cmd/murderctl/output"
)

func newMailboxRelease(c *ctl) *cobra.Command {
	req := admin.RepairRequest{Do: admin.DoRelease}
	cmd := &cobra.Command{
		Use: "release NAME", Short: "End the reservation of a name", Args: cobra.ExactArgs(1),
		Long: "A name that was being created becomes free. One that was being moved goes back to the server it\n" +
			"came from, which needs --force: see mailbox resolve for the other direction.",
	}
	cmd.Flags().BoolVar(&req.Force, "force", false, "also when the mailbox is being moved")
	c.repairs(cmd, func() admin.RepairRequest { return req })
	return cmd
}

func newMailboxRestore(c *ctl) *cobra.Command {
	cmd := &cobra.Command{
		Use: "restore NAME", Short: "Bring back the record of a deleted mailbox", Args: cobra.ExactArgs(1),
		Long: "Records of the last week are remembered. The mailbox must still be on its server, as after a\n" +
			"rename that was cut off in the middle.",
	}
	c.repairs(cmd, func() admin.RepairRequest { return admin.RepairRequest{Do: admin.DoRestore} })
	return cmd
}

func newMailboxRemove(c *ctl) *cobra.Command {
	cmd := &cobra.Command{
		Use: "remove NAME", Short: "Take a record out of the map, if it has not changed since it was shown", Args: cobra.ExactArgs(1),
		Long: "For records whose mailbox is gone. The server is not asked: if it still has the mailbox, its next\n" +
			"ctl_mboxlist -m brings the record back.",
	}
	c.repairs(cmd, func() admin.RepairRequest { return admin.RepairRequest{Do: admin.DoRemove} })
	return cmd
}

// repairs makes cmd show a plan, and carry it out with --yes if nothing has changed in between.
func (c *ctl) repairs(cmd *cobra.Command, request func() admin.RepairRequest) (yes *bool) {
	yes = yesFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return c.ask(cmd, func(ctx context.Context, client *admin.Client) error {
			req := request()
			req.Name, req.By = args[0], operator()
			plan, err := client.Repair(ctx, req)
			if err != nil {
				return err
			}
			if err := confirm(cmd, *yes, plan.Plan); err != nil {
				return err
			}
			req.Apply, req.Index = true, plan.Index
			if plan, err = client.Repair(ctx, req); err != nil {
				return err
			}
			var t output.Table
			t.Head = []string{"NAME", "STATE", "LOCATION"}
			if m := plan.After; m != nil {
				t.Row(m.Name, mailboxState(*m), m.Location)
			} else {
				t.Row(plan.Name, "absent", "")
			}
			return c.show(cmd, plan, t)
		})
	}
	return yes
}

// operator is who is at the keyboard, for the history.
func operator() string {
	if name := os.Getenv("SUDO_USER"); name != "" {
		return name
	}
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return ""
}

// detailFoot says what else is known about a name, and what can be done about it.
func detailFoot(name string, d admin.Detail) string {
	var lines []string
	for _, k := range d.Claims {
		lines = append(lines, k.Claimant+" claims it too, at "+k.Claim+" (by "+k.Identity+" from "+k.Peer+
			"): look which copy has the mail, then murderctl mailbox resolve "+name+" --holder SERVER")
	}
	if h := d.Hold; h != nil && h.Transfer {
		line := "it is being moved from " + h.Location
		switch {
		case h.SourceDropped:
			line += ", which has dropped its copy: murderctl mailbox resolve " + name + " --holder SERVER says where it went"
		case h.SessionGone:
			line += "; the session that began it is over: murderctl mailbox resolve " + name + " --holder SERVER ends it"
		}
		lines = append(lines, line)
	}
	if t := d.Tombstone; t != nil && d.Mailbox == nil {
		line := "it was deleted on " + localTime(t.Deleted) + " at " + t.Location
		if d.CutRename {
			line += ", perhaps in the middle of a rename"
		}
		lines = append(lines, line+": murderctl mailbox restore "+name+" brings the record back")
	}
	return strings.Join(lines, "\n")
}
