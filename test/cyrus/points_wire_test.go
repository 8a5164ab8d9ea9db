//go:build cyrus

package cyrus

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"murder/internal/mbox"
	"murder/test/loopback"
)

// taught starts a rig whose MUPDATE server is a scribe.
func taught(t *testing.T, o Options) (*Rig, *scribe) {
	t.Helper()
	Require(t)
	n, err := loopback.Claim()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Release() })
	s := newScribe(t, n.Host(9)+":0")
	o.Net, o.Mupdate = n, s.addr()
	r := Start(t, o)
	return r, s
}

// sorted is the order of this Cyrus.
func sorted(t *testing.T) mbox.Order {
	t.Helper()
	o, err := order()
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// Every Cyrus reads rows of quoted strings, of any length, also ctl_mboxlist and the slave. Literals are another
// matter: 3.4.8, 3.6.5 and 3.8.3 give up at the first that does not wait, and then a backend does not start; 3.6.1,
// 3.8.7, 3.10.3 and 3.12.3 read all forms. What a Cyrus cannot read it must at least not take for something else.
func TestRowForms(t *testing.T) {
	t.Parallel()
	r, s := taught(t, Options{Backends: 1, Frontends: 1})
	be1, fe := r.Node("be1"), r.Node("fe1")
	admin := signOn(t, be1, r.Admin())
	for _, name := range awkward {
		ok(t, admin, "CREATE %q", name)
	}
	for i := range 60 {
		ok(t, admin, "SETACL shared somebody-with-a-long-name-%02d lrs", i)
	}
	for _, form := range []struct {
		what   string
		write  func(string) string
		always bool
	}{
		{"quoted", quotedForm, true},
		{"literal", literalForm, false},
		{"literal that waits", syncLiteralForm, false},
		{"quoted, with escapes", escapedForm, true},
	} {
		t.Run(form.what, func(t *testing.T) {
			s.write(form.write, sorted(t))
			switch out, err := be1.Exec("ctl_mboxlist", "-m", "-w"); {
			case err != nil && form.always:
				t.Errorf("ctl_mboxlist -mw: %v\n%s", err, out)
			case err != nil:
				t.Logf("this Cyrus cannot read it: %v", err)
			case strings.TrimSpace(out) != "":
				t.Errorf("ctl_mboxlist -mw reads something else:\n%s", out)
			}

			added := "user.u2." + strings.Fields(form.what)[len(strings.Fields(form.what))-1]
			s.learn(added, "elsewhere.rig.test!default", "u2\tlrs\t")
			done, failed := fe.logged(synchronised), fe.logged(unsynchronised)
			s.cut()
			eventually(t, func() error {
				if fe.logged(synchronised) == done && fe.logged(unsynchronised) < failed+2 { // one is that of the cut
					return fmt.Errorf("the slave has not come to an end with it")
				}
				return nil
			})
			names, err := fe.names()
			if err != nil {
				t.Fatal(err)
			}
			want := s.names()
			if fe.logged(synchronised) == done {
				t.Log("the slave cannot read it")
				want = slices.DeleteFunc(want, func(name string) bool { return name == added })
				if form.always {
					t.Error("it must")
				}
			}
			if slices.Sort(names); !slices.Equal(names, want) {
				t.Errorf("the frontend has %q, want %q", names, want)
			}
		})
	}
}

// unsynchronised is what a slave logs whenever its connection ends, also before it has the whole map.
const unsynchronised = "retrying connection to mupdate server"

// The order in which this Cyrus wants the rows of LIST is that of its own list, and we have it among ours. Since 3.6
// improved_mboxlist_sort changes nothing in it.
func TestOrderOfLists(t *testing.T) {
	t.Parallel()
	Require(t)
	for _, c := range []struct {
		conf  []string
		older mbox.Order
	}{
		{nil, mbox.OrderOctet},
		{[]string{"improved_mboxlist_sort: 1"}, mbox.OrderMboxsort},
		{[]string{"virtdomains: userid", "defaultdomain: rig.test"}, mbox.OrderOctet},
	} {
		want := mbox.OrderDB
		if sorted(t) != mbox.OrderDB {
			want = c.older
		}
		if o, err := ListOrder(c.conf...); err != nil || o != want {
			t.Errorf("with %q the order is %v (%v), want %v", c.conf, o, err, want)
		}
		t.Run(strings.Join(c.conf, " "), func(t *testing.T) {
			t.Parallel()
			r, s := taught(t, Options{Backends: 1, NoPush: true, Conf: map[string][]string{"": c.conf}})
			be1 := r.Node("be1")
			admin := signOn(t, be1, r.Admin())
			for _, name := range awkward {
				ok(t, admin, "CREATE %q", name)
			}
			for _, o := range []mbox.Order{mbox.OrderDB, mbox.OrderOctet, mbox.OrderMboxsort} {
				s.write(quotedForm, o)
				out, err := be1.Exec("ctl_mboxlist", "-m", "-w")
				switch differs := o != want && !same(s.names(), o, want); {
				case !differs && (err != nil || strings.TrimSpace(out) != "" || s.missed() != 0):
					t.Errorf("ctl_mboxlist -mw with rows in order %v: asks %d times, %v\n%s", o, s.missed(), err, out)
				case differs && s.missed() == 0:
					t.Errorf("ctl_mboxlist -mw is content with rows in order %v", o)
				case differs:
					t.Logf("with rows in order %v: %v\n%s", o, err, out)
				}
			}
		})
	}
}

// same reports whether two orders are one for these names.
func same(names []string, a, b mbox.Order) bool {
	by := func(o mbox.Order) []string {
		return slices.SortedFunc(slices.Values(names), func(x, y string) int { return o.Compare(mbox.Name(x), mbox.Name(y)) })
	}
	return slices.Equal(by(a), by(b))
}
