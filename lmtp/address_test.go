package lmtp

import (
	"testing"

	"murder/internal/mbox"
)

func TestParseAddress(t *testing.T) {
	for _, c := range []struct{ in, path, local, detail, domain string }{
		{"alice", "alice", "alice", "", ""},
		{"alice@ex.com", "alice@ex.com", "alice", "", "ex.com"},
		{"@r:alice@x", "alice@x", "alice", "", "x"},
		{"@a,@b:alice@x", "alice@x", "alice", "", "x"},
		{`"alice"`, "alice", "alice", "", ""},
		{`"alice"@x`, "alice@x", "alice", "", "x"},
		{`"alice+Work"@x`, "alice+Work@x", "alice", "Work", "x"},
		{`"a\lice"@x`, "alice@x", "alice", "", "x"},
		{`"a b"@x`, `"a b"@x`, `"a b"`, "", "x"},
		{`"a@b"@x`, `"a@b"@x`, `"a@b"`, "", "x"},
		{"a@b@x", "a@b@x", "a@b", "", "x"},
		{"alice+Work@x", "alice+Work@x", "alice", "Work", "x"},
		{"alice+a+b", "alice+a+b", "alice", "a+b", ""},
		{"+shared.ann", "+shared.ann", "", "shared.ann", ""},
		{"alice+B\u00fccher@x", "alice+B\u00fccher@x", "alice", "B\u00fccher", "x"},
	} {
		a, err := ParseAddress(c.in)
		if err != nil || a.Path != c.path || a.local != c.local || a.detail != c.detail || a.domain != c.domain {
			t.Errorf("%s: got %+v, %v", c.in, a, err)
		}
	}
	for _, in := range []string{"", "@", "@x", "alice@", `"alice`, `"alice"x@y`, "a b", "a<b", "a\x01b", "a\x7f", "@r", "@:@@x", "alice@\u00fc"} {
		if a, err := ParseAddress(in); err == nil {
			t.Errorf("%q: got %+v, want an error", in, a)
		}
	}
}

func TestTarget(t *testing.T) {
	unix := Mapping{PostUser: "bb"}
	dot := Mapping{PostUser: "bb", Namespace: mbox.Namespace{Dot: true}}
	virtual := Mapping{Namespace: mbox.Namespace{Virtual: true, DefaultDomain: "def.org"}}
	keep := Mapping{KeepCase: true}
	for _, c := range []struct {
		name         string
		m            Mapping
		in           string
		want, folder mbox.Name
	}{
		{"user", unix, "alice", "user.alice", "user.alice"},
		{"folded", unix, "ALICE@any.domain", "user.alice", "user.alice"},
		{"detail is not folded", unix, "Alice+Work@x", "user.alice", "user.alice.Work"},
		{"dot in user", unix, "a.b+c/d.e", "user.a^b", "user.a^b.c.d^e"},
		{"dot in user, dot separates", dot, "alice.x", "", ""},
		{"detail, dot separates", dot, "alice+a.b", "user.alice", "user.alice.a.b"},
		{"empty detail", unix, "alice+", "user.alice", "user.alice"},
		{"odd detail", unix, "alice+/x", "user.alice", "user.alice"},
		{"detail in UTF-8", unix, "alice+B\u00fccher", "user.alice", "user.alice.B&APw-cher"},
		{"case kept", keep, "Alice", "user.Alice", "user.Alice"},
		{"quoted is another", unix, `"a b"`, "", ""},
		{"not a user", unix, "a!b", "", ""},
		{"8-bit user", unix, "\u00fc", "", ""},

		{"shared", dot, "bb+shared.ann", "shared.ann", "shared.ann"},
		{"shared, folded post user", dot, "BB+shared.ann@x", "shared.ann", "shared.ann"},
		{"shared keeps its case", dot, "bb+Shared.Ann", "Shared.Ann", "Shared.Ann"},
		{"shared, unix separator", unix, "bb+shared/ann", "shared.ann", "shared.ann"},
		{"shared, dot inside", unix, "bb+shared.ann", "shared^ann", "shared^ann"},
		{"post user alone", unix, "bb", "", ""},
		{"post user and plus", unix, "bb+", "", ""},
		{"no post user", virtual, "+news", "news", "news"},
		{"deleted", dot, "bb+DELETED.user.alice", "", ""},
		{"shared in a domain", virtual, "+news@ex.com", "ex.com!news", "ex.com!news"},

		{"virtual", virtual, "alice@Ex.COM", "ex.com!user.alice", "ex.com!user.alice"},
		{"virtual, default domain", virtual, "alice@DEF.org", "user.alice", "user.alice"},
		{"virtual, no domain", virtual, "alice", "user.alice", "user.alice"},
	} {
		a, err := ParseAddress(c.in)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		target, ok := c.m.Target(a)
		if ok != (c.want != "") || ok && (target.Name != c.want || target.Folder != c.folder) {
			t.Errorf("%s: got %+v %v, want %q %q", c.name, target, ok, c.want, c.folder)
		}
	}
}

func TestFuzzyMatch(t *testing.T) {
	dir := newDirectory(
		active("shared.ann", "be1"), active("Shared.Ann_Two", "be1"), active("user.shared", "be1"), active("zoo", "be1"),
		active("ex.com!team.a-b", "be1"), active("user-like", "be1"), active("shared", "be1"), active("zoo.big news", "be1"),
	)
	for in, want := range map[mbox.Name]mbox.Name{
		"Shared.Ann":          "shared.ann",
		"shared.ann two":      "Shared.Ann_Two",
		"SHARED.nothing.here": "shared",
		"Zoo":                 "zoo",
		"user like":           "user-like",
		"ex.com!TEAM.A B":     "ex.com!team.a-b",
		"ex.com!zoo":          "",
		"user.shared":         "",
		"sharedx":             "",
		"zoo.big-news":        "zoo", // its name is no address
	} {
		if e, _ := fuzzyMatch(dir.View(), in, Mapping{Namespace: mbox.Namespace{Dot: true}}.addressable); e.Name != want {
			t.Errorf("%s: got %q, want %q", in, e.Name, want)
		}
	}
}

func FuzzParseAddress(f *testing.F) {
	for _, seed := range []string{"alice@x", `"a b"@x`, "@r:a@b", "bb+shared.ann", `"\"`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		a, err := ParseAddress(in)
		if err != nil {
			return
		}
		for i := range len(a.Path) {
			if c := a.Path[i]; c < ' ' || c == 0x7f {
				t.Fatalf("%q: path %q holds a control octet", in, a.Path)
			}
		}
		again, err := ParseAddress(a.Path)
		if err != nil || again.Path != a.Path {
			t.Fatalf("%q: path %q reads as %q, %v", in, a.Path, again.Path, err)
		}
		if end := pathEnd("<" + a.Path + ">"); end != len(a.Path)+1 {
			t.Fatalf("%q: path %q would end at %d", in, a.Path, end)
		}
		Mapping{}.Target(a)
	})
}
