package mbox

import (
	"slices"
	"strings"
	"testing"
)

// The example that breaks ctl_mboxlist when it is wrong, in each order.
func TestOrders(t *testing.T) {
	for _, c := range []struct {
		order Order
		want  []Name
	}{
		{OrderOctet, []Name{"a", "a - SH", "a-b", "a.b"}},
		{OrderDB, []Name{"a", "a.b", "a - SH", "a-b"}},
		{OrderMboxsort, []Name{"a", "a.b", "a - SH", "a-b"}},
		{OrderMboxsort, []Name{"a\t", "a.b", "a\x01", "a\x08", "a\x0b", "a\x1f", "a "}},
		{OrderDB, []Name{"user.t.a", "user.t.a.b", "user.t.a-b", "user.t.a^b"}},
		{OrderDB, []Name{"ex.org!user.a", "ex.org!user.a.b", "ex.org.uk!user.a", "user.b"}},
	} {
		got := slices.Clone(c.want)
		slices.Reverse(got)
		slices.SortFunc(got, c.order.Compare)
		if !slices.Equal(got, c.want) {
			t.Errorf("%v: got %q, want %q", c.order, got, c.want)
		}
	}
}

// dbKey is the definition that Compare must agree with.
func dbKey(n Name) string {
	domain, local := n.Split()
	key := strings.NewReplacer(".", "\x1f", "^", ".").Replace(string(local))
	if strings.Contains(string(n), "!") {
		return domain + "\x1d" + key
	}
	return key
}

func FuzzCompareDB(f *testing.F) {
	f.Add("a.b!c.d", "a.b!c^d")
	f.Add("a!b", "a")
	f.Add("a.b", "a!b")
	f.Fuzz(func(t *testing.T, a, b string) {
		x, y := Name(a), Name(b)
		if x.Validate() != nil || y.Validate() != nil {
			return
		}
		want := strings.Compare(dbKey(x), dbKey(y))
		if got := OrderDB.Compare(x, y); got != want {
			t.Fatalf("%q %q: got %d, want %d", a, b, got, want)
		}
		if OrderDB.Compare(x, y) != -OrderDB.Compare(y, x) {
			t.Fatalf("%q %q: not antisymmetric", a, b)
		}
	})
}
