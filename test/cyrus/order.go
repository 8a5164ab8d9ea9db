package cyrus

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"murder/internal/mbox"
)

// telling are names of which no two orders of Cyrus make the same list.
var telling = []string{
	"user.a", "user.a.b", "user.a b", "user.a-b", "user.a^b", "user.a#b", "user.a$b", "user.a(b", "user.a+b", "user.a,b", "user.a/b",
	"user.a0", "user.A", "user.a\x01b", "user.a\x08b", "user.a\x0bb", "user.a\x1eb", "user.a\x7fb", "user.a.b-c", "user.a.b.c", "user.a-b.c",
	"d!user.a", "d!user.a.b", "d!user.a-b", "d.e!user.a", "d-e!user.a", "d0!user.a", "d", "d.user.a", "z!x", "user", "zz",
}

// ListOrder is the order in which the Cyrus that is installed keeps its mailbox list, and so wants LIST and
// UPDATE; conf are further lines of its imapd.conf. It is found by experiment: a Cyrus that is older or newer
// than all that are known must not be taken for one of them.
func ListOrder(conf ...string) (mbox.Order, error) {
	names, err := listed(telling, conf...)
	if err != nil {
		return 0, err
	}
	for _, o := range []mbox.Order{mbox.OrderDB, mbox.OrderOctet, mbox.OrderMboxsort} {
		if slices.IsSortedFunc(names, func(a, b string) int { return o.Compare(mbox.Name(a), mbox.Name(b)) }) {
			return o, nil
		}
	}
	return 0, fmt.Errorf("this Cyrus sorts as nobody else does: %q", names)
}

// order is ListOrder of an imapd.conf without more.
var order = sync.OnceValues(func() (mbox.Order, error) { return ListOrder() })

// OrderArgs are the arguments that tell the servers of harness.Options the order of the installed Cyrus, for
// the identity that its nodes sign on with.
func OrderArgs(identity string) ([]string, error) {
	o, err := order()
	if err != nil || o == mbox.OrderDB {
		return nil, err
	}
	return []string{"--set", "mupdate.identities." + identity + ".order=" + o.String()}, nil
}

// listed puts names into the mailbox list of a node that never runs, and returns them as ctl_mboxlist finds them.
func listed(names []string, conf ...string) ([]string, error) {
	r, err := New(Options{Backends: 1, Users: []string{}, Conf: map[string][]string{"": conf}})
	if err != nil {
		return nil, err
	}
	defer r.Close()
	n := r.Node("be1")
	var old, legacy strings.Builder // Cyrus: what 3.6 calls the legacy form has more than what 3.4 wrote
	for i, name := range names {
		fmt.Fprintf(&old, "%s\t0 default anyone\tlrs\t\n", name)
		fmt.Fprintf(&legacy, "%s\t0 default anyone\tlrs\t>id%d 1 2 3 4 -\n", name, i)
	}
	_, err = n.ExecInput(legacy.String(), "ctl_mboxlist", "-u", "-L")
	if status := new(ToolError); errors.As(err, &status) { // before 3.6 there is no -L
		_, err = n.ExecInput(old.String(), "ctl_mboxlist", "-u")
	}
	if err != nil {
		return nil, err
	}
	found, err := n.names()
	if err == nil && len(found) != len(names) {
		err = fmt.Errorf("of %d names the list has %d", len(names), len(found))
	}
	return found, err
}

// names is the mailbox list of a node, in its order.
func (n *Node) names() ([]string, error) {
	out, err := n.Exec("ctl_mboxlist", "-d")
	if err != nil {
		return nil, err
	}
	var names []string
	if !strings.HasPrefix(out, "{") {
		for line := range strings.Lines(out) {
			if name, _, ok := strings.Cut(line, "\t"); ok {
				names = append(names, name)
			}
		}
		return names, nil
	}
	d := json.NewDecoder(strings.NewReader(out))
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, fmt.Errorf("ctl_mboxlist -d: %w", err)
		}
		names = append(names, name.(string))
		if err := d.Decode(new(json.RawMessage)); err != nil {
			return nil, fmt.Errorf("ctl_mboxlist -d: %w", err)
		}
	}
	return names, nil
}
