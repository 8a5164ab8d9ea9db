package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"murder/cluster/admin"
	"murder/cmd/murderctl/output"
)

func newMailboxResolve(c *ctl) *cobra.Command {
	var req admin.RepairRequest
	var deleted bool
	var against string
	cmd := &cobra.Command{
		Use: "resolve {NAME | --against OTHER} --holder SERVER", Short: "Decide who has a mailbox that two servers claim, or that got stuck in a move", Args: cobra.MaximumNArgs(1),
		Long: "SERVER keeps or gets the record, and the claims of others are cleared. The other servers wipe their\n" +
			"copy at their next ctl_mboxlist -m, so look first which copy has the mail.\n" +
			"--against decides for all names that SERVER and OTHER both claim, as when a backend has got another\n" +
			"servername.\n" +
			"--deleted says instead that a name in the list of cut renames was meant to be deleted.",
	}
	cmd.Flags().StringVar(&req.Holder, "holder", "", "`server` that shall have it")
	cmd.Flags().StringVar(&against, "against", "", "every name that this `server` claims too")
	cmd.Flags().BoolVar(&deleted, "deleted", false, "it was deleted on purpose: list it no longer")
	cmd.Flags().BoolVar(&req.Force, "force", false, "also where it looks wrong")
	cmd.MarkFlagsOneRequired("holder", "deleted")
	cmd.MarkFlagsMutuallyExclusive("holder", "deleted")
	cmd.MarkFlagsMutuallyExclusive("against", "deleted")
	yes := c.repairs(cmd, func() admin.RepairRequest {
		req.Do = admin.DoResolve
		if deleted {
			req.Do = admin.DoDismiss
		}
		return req
	})
	one := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if (len(args) == 1) == (against != "") {
			return usageError{fmt.Errorf("name either a mailbox or, with --against, another server")}
		}
		if against == "" {
			return one(cmd, args)
		}
		return c.stream(cmd, c.timeout, func(ctx context.Context, client *admin.Client, arrived func()) error {
			d := decision{client: client, holder: req.Holder, against: against, force: req.Force}
			found, err := d.find(ctx)
			if err != nil {
				return err
			}
			if err := confirm(cmd, *yes, d.plan(found)); err != nil {
				return err
			}
			for len(found) > 0 {
				before := d.Resolved
				for _, name := range found {
					if err := d.make(ctx, name); err != nil {
						return err
					}
					arrived()
				}
				if d.Resolved == before {
					break // what is left has failed before
				}
				if found, err = d.find(ctx); err != nil {
					return err
				}
			}
			t := output.Table{Head: []string{"NAME", "LEFT ALONE BECAUSE"}, Foot: fmt.Sprintf("%d names are at %s now", d.Resolved, d.holder)}
			for _, f := range d.Failed {
				t.Row(f.Name, f.Error)
			}
			if err := c.show(cmd, d, t); err != nil || len(d.Failed) == 0 {
				return err
			}
			return fmt.Errorf("%d names were left alone", len(d.Failed))
		})
	}
	return cmd
}

// decision gives one of two servers every name that both claim.
type decision struct {
	client          *admin.Client
	holder, against string
	force           bool

	Resolved int              `json:"resolved"`
	Failed   []failedDecision `json:"failed,omitempty"`
}

type failedDecision struct {
	Name  string `json:"name"`
	Error string `json:"error"`
}

// find returns names that wait for the decision: all, or as many as a node lists at a time.
func (d *decision) find(ctx context.Context) ([]string, error) {
	all, err := d.client.Conflicts(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, k := range all {
		ours := k.Holder == d.holder && k.Claimant == d.against || k.Holder == d.against && k.Claimant == d.holder
		failed := slices.ContainsFunc(d.Failed, func(f failedDecision) bool { return f.Name == k.Name })
		if ours && !failed {
			names = append(names, k.Name)
		}
	}
	if len(names) == 0 && d.Resolved+len(d.Failed) == 0 {
		return nil, &admin.Error{Code: 404, Message: fmt.Sprintf("%s and %s claim no name in common", d.holder, d.against),
			Hint: "murderctl mailbox conflicts; a server claims what it has by ctl_mboxlist -m"}
	}
	return names, nil
}

func (d *decision) plan(names []string) string {
	const shown = 5
	list := strings.Join(names[:min(len(names), shown)], ", ")
	if len(names) > shown {
		list += " ..."
	}
	return fmt.Sprintf("%d names that %s and %s both claim go to %s (%s); %s wipes what it has of them at its next ctl_mboxlist -m",
		len(names), d.holder, d.against, d.holder, list, d.against)
}

// make decides for one name. A refusal is remembered and does not end the rest.
func (d *decision) make(ctx context.Context, name string) error {
	req := admin.RepairRequest{Do: admin.DoResolve, Name: name, Holder: d.holder, Force: d.force, By: operator()}
	plan, err := d.client.Repair(ctx, req)
	if err == nil {
		req.Apply, req.Index = true, plan.Index
		_, err = d.client.Repair(ctx, req)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		d.Failed = append(d.Failed, failedDecision{name, err.Error()})
		return nil
	}
	d.Resolved++
	return nil
}
