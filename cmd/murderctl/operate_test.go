package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// answers is a node that knows some answers by heart, by method and path.
func answers(t *testing.T, known map[string]string) string {
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a, ok := known[r.Method+" "+r.URL.Path]
		if !ok {
			t.Errorf("unexpected request %s %s", r.Method, r.URL)
		}
		fmt.Fprint(w, a)
	}))
	t.Cleanup(node.Close)
	return node.URL
}

func TestOperate(t *testing.T) {
	node := answers(t, map[string]string{
		"GET /v1/findings": `[{"level":"problem","kind":"conflict","subject":"user.a","detail":"held by b1, claimed 3 times by b2","next":"murderctl mailbox resolve user.a --holder SERVER"},
			{"level":"notice","kind":"version","detail":"the nodes run different versions"}]`,
		"GET /v1/sessions":              `{"sessions":[{"node":"f1","id":"ABC","protocol":"imap","user":"u1","peer":"192.0.2.1:5","backends":["b1"]}],"missing":{"f2":"no route"}}`,
		"DELETE /v1/sessions/ABC":       `{"node":"f1"}`,
		"GET /v1/backends":              `{"backends":[{"server":"b1","mailboxes":7,"services":[{"node":"f1","server":"b1","service":"imap","state":"down","connections":2,"last_error":"refused"}]}]}`,
		"POST /v1/mupdate/allow-shrink": `{}`,
		"GET /v1/conflicts":             `[{"name":"user.a","holder":"b1","claimant":"b2"},{"name":"user.b","holder":"b1","claimant":"b4"}]`,
		"GET /v1/list":                  `{"name":"user.a","state":"active","server":"b1","location":"b1!p"}` + "\n" + `{"name":"user.b","state":"reserved","transfer":true,"server":"b1","location":"b1!p"}`,
		"GET /v1/changes":               `{"kind":"alive","index":4}` + "\n" + `{"kind":"change","index":5,"name":"user.a","state":"active","location":"b2!p","old":"b1!p"}`,
		"GET /v1/details/user.a": `{"name":"user.a","state":"active","location":"b1!p","acl":"a\tlrs\t","index":9,
			"claims":[{"name":"user.a","claimant":"b2","claim":"b2!p","identity":"b2","peer":"192.0.2.2:1"}]}`,
		"POST /v1/repair": `{"name":"user.a","index":9,"plan":"user.a goes to b2!p","after":{"name":"user.a","state":"active","location":"b2!p"}}`,
	})
	for _, c := range []struct {
		args []string
		code int
		want string // in what is printed, with spaces made one
	}{
		{[]string{"doctor"}, 1, "problem conflict user.a: held by b1, claimed 3 times by b2 -> murderctl mailbox resolve user.a --holder SERVER notice version: the nodes run different versions 1 to look at"},
		{[]string{"doctor", "-o", "json"}, 1, `"kind": "conflict"`},
		{[]string{"session", "list", "--user", "u1"}, 0, "f1 ABC imap u1 192.0.2.1:5 false"},
		{[]string{"session", "list"}, 0, "without node f2: no route"},
		{[]string{"session", "kick", "ABC"}, 0, "session ABC on f1 was ended"},
		{[]string{"backend", "list"}, 0, "b1 7 0 imap down on f1 2"},
		{[]string{"backend", "status", "b1"}, 0, "refused"},
		{[]string{"backend", "status", "b9"}, 1, "no backend b9 (murderctl backend list)"},
		{[]string{"mupdate", "allow-shrink"}, 0, "may be of any size"},
		{[]string{"mailbox", "list"}, 0, "NAME STATE SERVER LOCATION user.a active b1 b1!p user.b moving b1 b1!p"},
		{[]string{"mailbox", "list", "-o", "json"}, 0, `{"name":"user.a",`},
		{[]string{"watch"}, 0, "5 active user.a b1!p -> b2!p"},
		{[]string{"watch", "-o", "json"}, 0, `"kind":"change"`},
		{[]string{"mailbox", "show", "user.a"}, 0, "b2 claims it too, at b2!p (by b2 from 192.0.2.2:1)"},
		{[]string{"mailbox", "show", "user.a", "-o", "json"}, 0, `{ "name": "user.a",`},
		{[]string{"mailbox", "resolve", "--against", "b1", "--holder", "b2"}, 1,
			"1 names that b2 and b1 both claim go to b2 (user.a); b1 wipes what it has of them at its next ctl_mboxlist -m murderctl: nothing was done: repeat with --yes"},
		{[]string{"mailbox", "resolve", "--against", "b3", "--holder", "b2"}, 1, "b2 and b3 claim no name in common (murderctl mailbox conflicts;"},
		{[]string{"mailbox", "resolve", "user.a", "--against", "b1", "--holder", "b2"}, 2, "name either a mailbox or, with --against, another server"},
		{[]string{"mailbox", "resolve", "--holder", "b2"}, 2, "name either a mailbox"},
		{[]string{"mailbox", "resolve", "user.a", "--holder", "b2"}, 1, "user.a goes to b2!p murderctl: nothing was done: repeat with --yes"},
		{[]string{"mailbox", "resolve", "user.a", "--holder", "b2", "--yes"}, 0, "user.a active b2!p"},
		{[]string{"mailbox", "release", "user.a", "--yes"}, 0, "user.a active"},
		{[]string{"mailbox", "restore", "user.a"}, 1, "--yes"},
		{[]string{"mailbox", "remove", "user.a"}, 1, "--yes"},
		{[]string{"mailbox", "resolve", "user.a"}, 1, "holder"},
	} {
		code, stdout, stderr := ctlRun(t, "", append([]string{"--addr", node}, c.args...)...)
		got := strings.Join(strings.Fields(stdout+stderr), " ")
		if code != c.code || !strings.Contains(got, c.want) {
			t.Errorf("%q: exit %d, want %d with %q\n%s", c.args, code, c.code, c.want, got)
		}
	}
}

// A list that breaks off is not taken for a whole one.
func TestListBrokenOff(t *testing.T) {
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Write([]byte(`{"name":"user.a","state":"active"}` + "\n"))
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}))
	defer node.Close()
	if code, _, stderr := ctlRun(t, "", "--addr", node.URL, "mailbox", "list"); code != 1 || !strings.Contains(stderr, "broke off") {
		t.Errorf("exit %d: %s", code, stderr)
	}
}

func TestPasswd(t *testing.T) {
	file := filepath.Join(t.TempDir(), "users")
	for _, c := range []struct {
		args []string
		code int
	}{
		{[]string{"user", "add", "jane", "--groups", "staff", "--form", "bcrypt"}, 0},
		{[]string{"user", "passwd", "jane"}, 0},
		{[]string{"user", "passwd", "john"}, 1},
	} {
		if code, _, stderr := ctlRun(t, "secret\n", append(c.args, "-f", file)...); code != c.code {
			t.Errorf("%q: exit %d: %s", c.args, code, stderr)
		}
	}
	data, _ := os.ReadFile(file)
	if s := string(data); !strings.HasPrefix(s, "jane:{SCRAM-SHA-256}") || !strings.Contains(s, "staff") {
		t.Error(s)
	}
}
