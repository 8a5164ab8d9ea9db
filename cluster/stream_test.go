package cluster

import (
	"context"
	"strings"
	"testing"

	"murder/cluster/admin"
	"murder/internal/mbox"
)

func TestStreams(t *testing.T) {
	t.Parallel()
	r := startRig(t, 1, 1)
	n, ctx := r.nodes["c1"], testContext(t)
	f := adminClient(t, r.nodes["f1"])
	write(t, n, act("user.a", "b1!p", "s"), act("user.b", "b2!p", "s"), act("user.b.x", "b2!p", "s"))
	var names []string
	err := f.EachMailbox(ctx, admin.MailboxQuery{Prefix: "user.", Server: "b2", Consistent: true}, func(m admin.Mailbox) error {
		names = append(names, m.Name+"@"+m.Location)
		return nil
	})
	if got := strings.Join(names, " "); err != nil || got != "user.b@b2!p user.b.x@b2!p" {
		t.Errorf("%q %v", got, err)
	}
	if err := f.EachMailbox(ctx, admin.MailboxQuery{State: "lost"}, nil); err == nil || !strings.Contains(err.Error(), "active or reserved") {
		t.Error(err)
	}

	// A watch goes on from an index, and says when changes are no longer kept.
	watch := func(q admin.WatchQuery, want ...string) {
		t.Helper()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		err := f.Watch(ctx, q, func(c admin.MailboxChange) error {
			switch {
			case c.Kind == "alive":
				return nil
			case len(want) == 0:
				t.Errorf("too much: %+v", c)
			default:
				if got := c.Kind + " " + c.Name + " " + c.State + " " + c.Old + ">" + c.Location; got != want[0] {
					t.Errorf("got %q, want %q", got, want[0])
				}
				if want = want[1:]; len(want) == 0 {
					cancel()
				}
			}
			return nil
		})
		if len(want) > 0 {
			t.Errorf("ended with %v before %q", err, want)
		}
	}
	from := n.View().Index()
	write(t, n, act("user.b", "b2!q", "s"), act("user.c", "b1!p", "s"))
	e, _ := n.View().Get("user.c")
	write(t, n, mbox.Write{Kind: mbox.Remove, Name: "user.c", IfIndex: e.Index, By: by("b1", "s")})
	watch(admin.WatchQuery{From: from}, "change user.b active b2!p>b2!q", "change user.c active >b1!p", "change user.c absent b1!p>")
	watch(admin.WatchQuery{From: from, Pattern: "user.c"}, "change user.c active >b1!p", "change user.c absent b1!p>")
}
