package cluster

import (
	"strings"
	"testing"

	"murder/cluster/admin"
	"murder/internal/mbox"
)

func by(server, session string) mbox.Session {
	return mbox.Session{ID: session, Identity: server, Servers: []mbox.Server{mbox.Server(server)}}
}

func act(name, location, session string) mbox.Write {
	l := mbox.Location(location)
	return mbox.Write{Kind: mbox.Activate, Name: mbox.Name(name), Location: l, ACL: "a\tlrs\t", By: by(string(l.Server()), session)}
}

func TestRepair(t *testing.T) {
	t.Parallel()
	r := startRig(t, 1, 1)
	n, ctx := r.nodes["c1"], testContext(t)
	c, f := adminClient(t, n), adminClient(t, r.nodes["f1"])

	// do plans and carries out; the plan must say want, and the record ends at location.
	do := func(req admin.RepairRequest, want, location string) {
		t.Helper()
		plan, err := c.Repair(ctx, req)
		if err != nil || plan.Applied || !strings.Contains(plan.Plan, want) {
			t.Fatalf("%+v: %+v %v, want %q", req, plan, err, want)
		}
		req.Apply, req.Index, req.By = true, plan.Index, "jane"
		if plan, err = c.Repair(ctx, req); err != nil || !plan.Applied {
			t.Fatalf("%+v: %+v %v", req, plan, err)
		}
		e, _ := n.View().Get(mbox.Name(req.Name))
		if string(e.Location) != location || location != "" && e.State != mbox.Active {
			t.Fatalf("%+v: record is %+v", req, e)
		}
		events := n.History(mbox.Name(req.Name))
		if last := events[len(events)-1]; last.Identity != "operator jane" {
			t.Errorf("%+v: the history ends with %+v", req, last)
		}
		if d := n.Detail(req.Name); len(d.Claims) > 0 || d.Hold != nil || d.CutRename {
			t.Errorf("%+v: left %+v", req, d)
		}
	}
	refused := func(req admin.RepairRequest, want string) {
		t.Helper()
		if _, err := c.Repair(ctx, req); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", req, err, want)
		}
	}

	// Two servers claim a name: the holder keeps it, or the claimant gets it.
	write(t, n, act("user.k", "b1!p", "s1"), act("user.g", "b1!p", "s1"))
	write(t, n, act("user.k", "b2!q", "s2"), act("user.g", "b2!q", "s2"))
	if d, err := f.Detail(ctx, "user.k", true); err != nil || len(d.Claims) != 1 || d.Claims[0].Claim != "b2!q" {
		t.Fatal(d, err)
	}
	refused(admin.RepairRequest{Do: admin.DoResolve, Name: "user.k"}, "b1 holds it, b2 claims it")
	refused(admin.RepairRequest{Do: admin.DoResolve, Name: "user.k", Holder: "b3"}, "does not claim")
	do(admin.RepairRequest{Do: admin.DoResolve, Name: "user.k", Holder: "b1"}, "stays at b1!p; the claim of b2", "b1!p")
	do(admin.RepairRequest{Do: admin.DoResolve, Name: "user.g", Holder: "b2"}, "goes to b2!q", "b2!q")
	refused(admin.RepairRequest{Do: admin.DoResolve, Name: "user.g", Holder: "b2"}, "nothing to resolve")
	refused(admin.RepairRequest{Do: admin.DoResolve, Name: "user.none", Holder: "b2"}, "no mailbox")

	// Reservations and moves.
	move := func(name string) {
		write(t, n, act(name, "b1!p", "s3"), mbox.Write{Kind: mbox.Deactivate, Name: mbox.Name(name), Location: "b1!p", By: by("b1", "s3")})
	}
	write(t, n, mbox.Write{Kind: mbox.Reserve, Name: "user.r", Location: "b1!p", By: by("b1", "s3")})
	do(admin.RepairRequest{Do: admin.DoRelease, Name: "user.r"}, "becomes free", "")
	move("user.m1")
	refused(admin.RepairRequest{Do: admin.DoRelease, Name: "user.m1"}, "--force")
	do(admin.RepairRequest{Do: admin.DoRelease, Name: "user.m1", Force: true}, "active at b1!p again", "b1!p")
	move("user.m2")
	refused(admin.RepairRequest{Do: admin.DoResolve, Name: "user.m2", Holder: "b2x"}, "is the name right")
	do(admin.RepairRequest{Do: admin.DoResolve, Name: "user.m2", Holder: "b2"}, "ends at b2", "b2!")
	move("user.m3")
	do(admin.RepairRequest{Do: admin.DoResolve, Name: "user.m3", Holder: "b1"}, "the move is given up", "b1!p")

	// A rename that was cut in half.
	cut := func(name, session string) {
		write(t, n, act(name, "b1!p", session))
		write(t, n, mbox.Write{Kind: mbox.Delete, Name: mbox.Name(name), By: by("b1", session)})
		write(t, n, mbox.Write{Kind: mbox.EndSession, By: mbox.Session{ID: session}})
	}
	cut("user.c1", "s4")
	if d := n.Detail("user.c1"); !d.CutRename || d.Tombstone == nil || d.Tombstone.ACL != "a\tlrs\t" {
		t.Fatalf("%+v", d)
	}
	do(admin.RepairRequest{Do: admin.DoRestore, Name: "user.c1"}, "is at b1!p again", "b1!p")
	refused(admin.RepairRequest{Do: admin.DoRestore, Name: "user.c1"}, "exists at")
	refused(admin.RepairRequest{Do: admin.DoRestore, Name: "user.never"}, "nothing is remembered")
	cut("user.c2", "s5")
	do(admin.RepairRequest{Do: admin.DoDismiss, Name: "user.c2"}, "stays deleted", "")

	// A record goes only if it is the one that was shown.
	do(admin.RepairRequest{Do: admin.DoRemove, Name: "user.m3"}, "taken out", "")
	plan, err := c.Repair(ctx, admin.RepairRequest{Do: admin.DoRemove, Name: "user.k"})
	if err != nil {
		t.Fatal(err)
	}
	write(t, n, act("user.k", "b1!p2", "s1"))
	refused(admin.RepairRequest{Do: admin.DoRemove, Name: "user.k", Apply: true, Index: plan.Index}, "changed since")
	mustHave(t, n, "user.k")

	// A frontend may change records, but not clear registers: it says where to go.
	write(t, n, act("user.k", "b4!q", "s2"))
	plan, err = f.Repair(ctx, admin.RepairRequest{Do: admin.DoResolve, Name: "user.k", Holder: "b1"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Repair(ctx, admin.RepairRequest{Do: admin.DoResolve, Name: "user.k", Holder: "b1", Apply: true, Index: plan.Index})
	if err == nil || !strings.Contains(err.Error(), "run the command on a coordinator") {
		t.Errorf("a frontend cleared a register: %v", err)
	}
}
