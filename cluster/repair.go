package cluster

import (
	"context"
	"fmt"
	"strings"
	"time"

	"murder/cluster/admin"
	"murder/fsm"
	"murder/internal/mbox"
)

// repairIdentity is who the history names for a change by an operator; the operator's own name follows.
const repairIdentity = "operator"

// repair is one change of one record, planned on one view of the map.
type repair struct {
	req  admin.RepairRequest
	view *fsm.View
	name mbox.Name
	cur  mbox.Entry // State Absent without a record
	plan admin.RepairPlan

	write   *mbox.Write  // changes the record
	resolve *fsm.Resolve // clears a register
}

// Repair plans or makes a change of one record that only a person can decide on. What is made is
// in the history of the name under the operator's identity.
func (n *Node) Repair(ctx context.Context, req admin.RepairRequest) (admin.RepairPlan, error) {
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	if _, err := n.Barrier(ctx); err != nil {
		return admin.RepairPlan{}, err
	}
	r := &repair{req: req, view: n.State(), name: mbox.Name(req.Name)}
	r.cur, _ = r.view.Get(r.name)
	r.plan = admin.RepairPlan{Name: req.Name, Index: r.cur.Index}
	if r.cur.State != mbox.Absent {
		r.plan.Before = mailboxOf(r.cur)
	}
	if err := r.decide(); err != nil {
		return admin.RepairPlan{}, err
	}
	if !req.Apply {
		return r.plan, nil
	}
	if req.Index != r.plan.Index {
		return admin.RepairPlan{}, refuse("%s has changed since the plan was made: look again", req.Name)
	}
	if err := n.carryOut(ctx, r); err != nil {
		return admin.RepairPlan{}, err
	}
	r.plan.Applied = true
	n.log.Warn("record changed by an operator", "mailbox", req.Name, "what", req.Do, "by", req.By, "plan", r.plan.Plan)
	return r.plan, nil
}

func (r *repair) decide() error {
	switch r.req.Do {
	case admin.DoResolve:
		return r.decideResolve()
	case admin.DoRelease:
		return r.decideRelease()
	case admin.DoRestore:
		return r.decideRestore()
	case admin.DoRemove:
		if r.cur.State == mbox.Absent {
			return r.absent()
		}
		r.remove()
		r.say("the record of %s at %s is taken out of the map; mail for it is refused from then on. The mailbox itself, if %s has it, stays there",
			r.name, r.cur.Location, r.cur.Location.Server())
		return nil
	case admin.DoDismiss:
		for c := range r.view.CutRenames {
			if c.Name == r.name {
				r.resolve = &fsm.Resolve{What: fsm.RegisterCutRenames}
				r.plan.Index = c.Index
				r.say("%s stays deleted, and is listed no longer", r.name)
				return nil
			}
		}
		return refuse("%s is not in the list of cut renames: see murderctl doctor", r.name)
	}
	return refuse("unknown repair %q", r.req.Do)
}

// decideResolve gives a name to one of those who claim it.
func (r *repair) decideResolve() error {
	if r.cur.State == mbox.Absent {
		return r.absent()
	}
	holder, claims := r.cur.Location.Server(), r.view.Conflict(r.name)
	hold, moving := r.view.Transfer(r.name)
	want := mbox.Server(r.req.Holder)
	for _, c := range claims {
		r.plan.Claims = append(r.plan.Claims, conflictOf(c))
	}
	if len(claims) > 0 {
		r.resolve = &fsm.Resolve{What: fsm.RegisterConflicts}
	}
	switch {
	case want == "":
		return refuse("say who shall have %s: %s", r.name, r.candidates(claims))
	case len(claims) == 0 && !moving && want == holder:
		return refuse("nobody but %s claims %s: there is nothing to resolve", holder, r.name)
	case len(claims) == 0 && !moving:
		return refuse("%s claims no mailbox %s, which %s holds: let it say so with ctl_mboxlist -m there, or remove the record", want, r.name, holder)
	case want == holder && moving:
		if hold.SourceDropped && !r.req.Force {
			return refuse("%s has dropped its copy of %s while it moved: name the server that it moved to, or use --force", holder, r.name)
		}
		r.activate(hold.Location, hold.ACL)
		r.say("%s stays at %s; the move is given up%s", r.name, hold.Location, others(claims))
		return nil
	case want == holder:
		r.plan.After = r.plan.Before
		r.say("%s stays at %s%s", r.name, r.cur.Location, others(claims))
		return nil
	}
	for _, c := range claims {
		if c.Claimant != want {
			continue
		}
		r.activate(c.Claim, c.ACL)
		r.resolve = nil // the claims on the old holder's record go with it
		r.say("%s goes to %s; the copy at %s is wiped by that server at its next ctl_mboxlist -m", r.name, c.Claim, holder)
		return nil
	}
	if !moving {
		return refuse("%s does not claim %s: %s", want, r.name, r.candidates(claims))
	}
	if !r.known(want) && !r.req.Force {
		return refuse("no mailbox of the map is at %s: is the name right? --force takes it as it is", want)
	}
	r.activate(mbox.Location(want)+"!", hold.ACL)
	r.say("the move of %s from %s ends at %s, which tells its partition at its next ctl_mboxlist -m", r.name, holder, want)
	return nil
}

func (r *repair) candidates(claims []fsm.Conflict) string {
	list := []string{string(r.cur.Location.Server()) + " holds it"}
	for _, c := range claims {
		list = append(list, string(c.Claimant)+" claims it")
	}
	return strings.Join(list, ", ")
}

func others(claims []fsm.Conflict) string {
	if len(claims) == 0 {
		return ""
	}
	names := make([]string, len(claims))
	for i, c := range claims {
		names[i] = string(c.Claimant)
	}
	return fmt.Sprintf("; the claim of %s is cleared, which wipes its copy at its next ctl_mboxlist -m", strings.Join(names, ", "))
}

func (r *repair) known(server mbox.Server) (found bool) {
	r.view.AscendAt(string(server)+"!", func(mbox.Entry) bool {
		found = true
		return false
	})
	return found
}

func (r *repair) decideRelease() error {
	hold, moving := r.view.Transfer(r.name)
	switch {
	case r.cur.State == mbox.Absent:
		return r.absent()
	case r.cur.State != mbox.Reserved:
		return refuse("%s is not reserved, but active at %s", r.name, r.cur.Location)
	case !moving:
		r.remove()
		r.say("%s, which is being created at %s, becomes free again", r.name, r.cur.Location)
	case !r.req.Force:
		return refuse("%s is being moved from %s: if that has failed, murderctl mailbox resolve says which copy counts, and --force gives it back to %s",
			r.name, hold.Location, hold.Location.Server())
	case hold.SourceDropped:
		return refuse("%s has dropped its copy of %s: name the server that it moved to with murderctl mailbox resolve --holder", hold.Location.Server(), r.name)
	default:
		r.activate(hold.Location, hold.ACL)
		r.say("%s is active at %s again; a move that still goes on there ends in a conflict", r.name, hold.Location)
	}
	return nil
}

func (r *repair) decideRestore() error {
	t, ok := r.view.Tombstone(r.name)
	switch {
	case r.cur.State != mbox.Absent:
		return refuse("%s exists at %s: nothing to restore", r.name, r.cur.Location)
	case !ok:
		return refuse("nothing is remembered of %s: only what was deleted in the last week can be restored; a backend that has it tells by ctl_mboxlist -m", r.name)
	case t.State != mbox.Active:
		return refuse("%s was never active: it had been reserved at %s", r.name, t.Location)
	}
	r.plan.Index = t.Deleted
	r.activate(t.Location, t.ACL)
	r.say("%s is at %s again, as before its deletion on %s; the backend must still have it", r.name, t.Location, time.Unix(t.At, 0).UTC().Format(time.DateTime))
	return nil
}

func (r *repair) absent() error {
	hint := "list names with murderctl mailbox list"
	if _, ok := r.view.Tombstone(r.name); ok {
		hint = "it was deleted: murderctl mailbox restore brings it back"
	}
	return &admin.Error{Code: 404, Message: fmt.Sprintf("no mailbox %q", r.name), Hint: hint}
}

func (r *repair) say(format string, args ...any) { r.plan.Plan = fmt.Sprintf(format, args...) }

func (r *repair) remove() {
	r.write = &mbox.Write{Kind: mbox.Remove, Name: r.name, IfIndex: r.cur.Index}
}

func (r *repair) activate(at mbox.Location, acl mbox.ACL) {
	r.write = &mbox.Write{Kind: mbox.Activate, Name: r.name, Location: at, ACL: acl}
	r.plan.After = mailboxOf(mbox.Entry{Name: r.name, Location: at, ACL: acl, State: mbox.Active})
}

func (n *Node) carryOut(ctx context.Context, r *repair) error {
	by := repairIdentity
	if r.req.By != "" {
		by += " " + r.req.By
	}
	if r.write != nil {
		r.write.By = mbox.Session{ID: "repair/" + n.cfg.NodeID, Identity: by, Peer: n.cfg.NodeID, Flags: mbox.Takeover}
		if at := r.write.Location; at != "" {
			r.write.By.Servers = []mbox.Server{at.Server()}
		}
		verdicts, err := n.Write(ctx, []mbox.Write{*r.write})
		switch {
		case err != nil:
			return err
		case verdicts[0].Outcome != mbox.Done:
			return refuse("%s was left alone: it has changed meanwhile (%s)", r.name, verdicts[0].Outcome)
		}
		// What looks like an echo of a rename is answered, but not taken.
		if e, _ := n.State().Get(r.name); r.write.Kind == mbox.Activate && e.State != mbox.Active {
			return refuse("%s was deleted a moment ago: try again in a minute", r.name)
		}
	}
	if r.resolve == nil {
		return nil
	}
	r.resolve.Name, r.resolve.Identity, r.resolve.At = r.name, by, n.now().Unix()
	return n.propose(ctx, *r.resolve)
}

// Detail returns all that this node's copy has about a name.
func (n *Node) Detail(name string) admin.Detail {
	v := n.State()
	var d admin.Detail
	if e, ok := v.Get(mbox.Name(name)); ok {
		d.Mailbox = mailboxOf(e)
	}
	for _, c := range v.Conflict(mbox.Name(name)) {
		d.Claims = append(d.Claims, conflictOf(c))
	}
	if h, ok := v.Hold(mbox.Name(name)); ok {
		r := reservationOf(v, h)
		d.Hold = &r
	}
	if t, ok := v.Tombstone(mbox.Name(name)); ok {
		d.Tombstone = &admin.Tombstone{Mailbox: *mailboxOf(t.Entry), Deleted: time.Unix(t.At, 0).UTC()}
	}
	for c := range v.CutRenames {
		d.CutRename = d.CutRename || string(c.Name) == name
	}
	return d
}

func mailboxOf(e mbox.Entry) *admin.Mailbox {
	m := admin.MailboxOf(e)
	return &m
}
