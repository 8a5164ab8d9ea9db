package mbox

import (
	"errors"
	"regexp"
	"strings"
	"testing"
)

func TestNames(t *testing.T) {
	alt := Namespace{Alt: true}
	plain := Namespace{}
	dot := Namespace{Dot: true}
	virtual := Namespace{Alt: true, Virtual: true, DefaultDomain: "example.net"}
	cross := virtual
	cross.CrossDomains = true
	for _, c := range []struct {
		ns    Namespace
		user  UserID
		admin bool
		ext   Extern
		name  Name
	}{
		{alt, "alice", false, "INBOX", "user.alice"},
		{alt, "alice", false, "Work", "user.alice.Work"},
		{alt, "alice", false, "Work/v1.2", "user.alice.Work.v1^2"},
		{alt, "alice", false, "Alt Folders/INBOX", "user.alice.INBOX"},
		{alt, "alice", false, "INBOX/x", "user.alice.INBOX.x"},
		{alt, "alice", false, "Alt Folders/inbox/x", "user.alice.inbox.x"},
		{alt, "alice", false, "Alt Folders/Other Users", "user.alice.Other Users"},
		{alt, "alice", false, "Alt Folders/Alt Folders/x", "user.alice.Alt Folders.x"},
		{alt, "alice", false, "Other Users/bob/Work", "user.bob.Work"},
		{alt, "alice", false, "Other Users/bob", "user.bob"},
		{alt, "alice", false, "Other Users/john.smith", "user.john^smith"},
		{alt, "alice", false, "Shared Folders/projects/q1", "projects.q1"},
		{alt, "john.smith", false, "INBOX", "user.john^smith"},
		{alt, "cyrus", true, "user/alice/Work", "user.alice.Work"},
		{alt, "cyrus", true, "user/john.smith", "user.john^smith"},
		{alt, "cyrus", true, "projects/q1", "projects.q1"},
		{alt, "cyrus", true, "DELETED/user/alice/Work/6B043F11", "DELETED.user.alice.Work.6B043F11"},
		{plain, "alice", false, "INBOX", "user.alice"},
		{plain, "alice", false, "INBOX/Work", "user.alice.Work"},
		{plain, "alice", false, "INBOX/INBOX/x", "user.alice.INBOX.x"},
		{plain, "alice", false, "user/bob/Work", "user.bob.Work"},
		{plain, "alice", false, "projects/q1", "projects.q1"},
		{dot, "alice", false, "INBOX.Drafts", "user.alice.Drafts"},
		{dot, "alice", false, "user.bob.proj", "user.bob.proj"},
		{dot, "alice", false, "shared", "shared"},
		{virtual, "foo@example.com", false, "INBOX", "example.com!user.foo"},
		{virtual, "foo@example.com", false, "Drafts", "example.com!user.foo.Drafts"},
		{virtual, "foo@example.com", false, "Shared Folders/s", "example.com!s"},
		{virtual, "foo@example.com", false, "Other Users/bar/x", "example.com!user.bar.x"},
		{virtual, "foo", false, "INBOX", "user.foo"},
		{virtual, "cyrus", true, "user/foo/x@example.com", "example.com!user.foo.x"},
		{virtual, "cyrus", true, "user/foo", "user.foo"},
		{cross, "foo@example.com", false, "Other Users/bob@other.org/Work", "other.org!user.bob.Work"},
		{cross, "foo@example.com", false, "Other Users/bob@example.net/Work", "user.bob.Work"},
	} {
		v := c.ns.View(c.user, c.admin, false)
		if got, err := v.Internal(c.ext); err != nil || got != c.name {
			t.Errorf("%s, %+v: %q is %q %v, want %q", c.user, c.ns, c.ext, got, err, c.name)
		}
		if got, ok := v.External(c.name); !ok || got != c.ext {
			t.Errorf("%s, %+v: %q shows as %q %v, want %q", c.user, c.ns, c.name, got, ok, c.ext)
		}
	}
}

func TestNamesOneWay(t *testing.T) {
	alice := (&Namespace{Alt: true}).View("alice", false, false)
	for ext, want := range map[Extern]Name{
		"inbox":                                 "user.alice",
		"inbox/x":                               "user.alice.INBOX.x",
		"Other Users/alice/Work":                "user.alice.Work",
		"Alt Folders/Work":                      "user.alice.Work",
		"user/bob":                              "user.alice.user.bob",
		"Entw&APw-rfe":                          "user.alice.Entw&APw-rfe",
		"Shared Folders/user/bob":               "",
		"Shared Folders/DELETED/x":              "",
		"Other Users":                           "",
		"Shared Folders":                        "",
		"a//b":                                  "",
		"/a":                                    "",
		"a/":                                    "",
		"":                                      "",
		"a^b":                                   "",
		"example.com!x":                         "",
		"Entw\xfcrfe":                           "",
		"a&b":                                   "",
		"a\tb":                                  "",
		Extern(strings.Repeat("x", MaxNameLen)): "",
	} {
		got, err := alice.Internal(ext)
		if got != want || (want == "") != (err != nil) {
			t.Errorf("%q: got %q %v, want %q", ext, got, err, want)
		}
		if err != nil && !errors.Is(err, ErrBadName) && !errors.Is(err, ErrNotMailbox) {
			t.Errorf("%q: untyped error %v", ext, err)
		}
	}
	for _, n := range []Name{"user", "DELETED.user.alice.x.1", "other.org!user.bob"} {
		if got, ok := alice.External(n); ok {
			t.Errorf("%q shows as %q, want hidden", n, got)
		}
	}
	utf := (&Namespace{Alt: true}).View("alice", false, true)
	if got, err := utf.Internal("Entwürfe"); got != "user.alice.Entw&APw-rfe" || err != nil {
		t.Errorf("UTF-8 name: got %q %v", got, err)
	}
	if got, ok := utf.External("user.alice.Entw&APw-rfe"); got != "Entwürfe" || !ok {
		t.Errorf("UTF-8 name: got %q %v", got, ok)
	}
}

func TestScanFrom(t *testing.T) {
	admin := (&Namespace{Alt: true}).View("cyrus", true, false)
	for pattern, want := range map[string]Name{"user/al*": "user.al", "user/j.s/%": "user.j^s.", "*": "", "%": "", "shared": "shared", "inbox": ""} {
		if got := admin.ScanFrom(CompilePattern("", pattern, '/')); got != want {
			t.Errorf("%q: got %q, want %q", pattern, got, want)
		}
	}
	if got := (&Namespace{Alt: true}).View("alice", false, false).ScanFrom(CompilePattern("", "Work", '/')); got != "" {
		t.Errorf("a user's: %q", got)
	}
}

func TestCanonical(t *testing.T) {
	virtual := Namespace{Virtual: true, DefaultDomain: "example.net"}
	for in, want := range map[string]UserID{
		"Alice": "alice", "foo@Example.NET": "foo", "foo@example.com": "foo@example.com",
		"": "", "a b": "", "a/b": "", "a*": "", "@example.net": "",
	} {
		if got, err := virtual.Canonical(in); got != want || (want == "") != (err != nil) {
			t.Errorf("%q: got %q %v, want %q", in, got, err, want)
		}
	}
	if u, ok := virtual.Owner("example.com!user.john^s.x"); u != "john.s@example.com" || !ok {
		t.Errorf("owner: got %q %v", u, ok)
	}
}

func TestPattern(t *testing.T) {
	for _, c := range []struct {
		ref, pat string
		name     Extern
		want     bool
	}{
		{"", "*", "a/b", true},
		{"", "%", "a/b", false},
		{"", "%", "a", true},
		{"", "%/%", "a/b", true},
		{"", "%/%", "a/b/c", false},
		{"", "*%", "a/b/c", true},
		{"a/", "/b", "a/b", true},
		{"a", "/b", "a/b", true},
		{"Other Users/", "%", "Other Users/bob", true},
		{"", "inbox", "INBOX", true},
		{"", "inbox/*", "INBOX/x", true},
		{"", "inbox*", "inboxes", true},
		{"", "Work", "work", false},
		{"", "a*c", "abbbc", true},
		{"", "a*c", "abbb", false},
		{"", "*x%y", "axbxby", true},
		{"", "*x%y", "ax/xy", true},
		{"", "*x%y", "ax/y", false},
		{"", "%a*b%", "xa/y/bz", true},
		{"", "", "", true},
	} {
		if got := CompilePattern(c.ref, c.pat, '/').Match(c.name); got != c.want {
			t.Errorf("%q %q on %q: got %v", c.ref, c.pat, c.name, got)
		}
	}
}

func FuzzPattern(f *testing.F) {
	f.Add("*a%b*", "xa/b")
	f.Fuzz(func(t *testing.T, pat, name string) {
		if len(pat) > 12 || len(name) > 30 || strings.HasPrefix(strings.ToUpper(pat), "INBOX") {
			return
		}
		expr := regexp.QuoteMeta(pat)
		expr = strings.NewReplacer(`\*`, `.*`, `%`, `[^/]*`).Replace(expr)
		re, err := regexp.Compile(`(?s)\A` + expr + `\z`)
		if err != nil || strings.ContainsRune(name, '\uFFFD') || strings.ToValidUTF8(name, "") != name || strings.ToValidUTF8(pat, "") != pat {
			return
		}
		if got, want := CompilePattern("", pat, '/').Match(Extern(name)), re.MatchString(name); got != want {
			t.Fatalf("%q on %q: got %v, want %v", pat, name, got, want)
		}
	})
}

// The cost of a hostile pattern stays the product of the lengths.
func TestPatternCost(t *testing.T) {
	p := CompilePattern("", strings.Repeat("*a%", 300)+"b", '/')
	if p.Match(Extern(strings.Repeat("a", MaxNameLen))) {
		t.Error("matched")
	}
}
