package mbox

import "testing"

func TestRightsOf(t *testing.T) {
	for _, c := range []struct {
		acl    ACL
		user   UserID
		groups []string
		want   string
	}{
		{"alice\tlrs\t", "alice", nil, "lrs"},
		{"alice\tlrs\t", "bob", nil, ""},
		{"anyone\tlrs\t-alice\tr\t", "alice", nil, "ls"},
		{"group:staff\tlr\t", "bob", []string{"staff"}, "lr"},
		{"group:staff\tlr\t-group:staff\tl\t", "bob", []string{"staff"}, "r"},
		{"alice\tlrs\tbob", "bob", nil, ""}, // cut short
		// Old words: written beside either of their rights, read alone.
		{"alice\tlk\t", "alice", nil, "lkc"},
		{"alice\tlxc\t", "alice", nil, "lxc"},
		{"alice\tlc\t", "alice", nil, "lkxc"},
		{"alice\tld\t", "alice", nil, "lted"},
		{"anyone\tlrswipkxtecda0\t-alice\ted\t", "alice", nil, "lrswipkxtcda0"},
		{"anyone\tlrswipkxtecd\t-alice\tkxc\t", "alice", nil, "lrswipted"},
	} {
		if got := c.acl.RightsOf(c.user, c.groups).String(); got != c.want {
			t.Errorf("%q for %s: got %q, want %q", c.acl, c.user, got, c.want)
		}
	}
}
