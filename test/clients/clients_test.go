//go:build cyrus

package clients

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"murder/test/cyrus"
	"murder/test/imapcyrus"
	"murder/test/imapline"
)

var world *imapcyrus.World

func TestMain(m *testing.M) {
	if missing := cyrus.Missing(); len(missing) > 0 {
		fmt.Fprintln(os.Stderr, "real Cyrus servers need:", strings.Join(missing, "; "))
		if os.Getenv("MURDER_REQUIRE_CYRUS") == "1" {
			os.Exit(1)
		}
		return
	}
	var err error
	if world, err = imapcyrus.New(); err == nil {
		err = fill()
	}
	code := 1
	if err == nil {
		code = m.Run()
	} else {
		fmt.Fprintln(os.Stderr, err)
	}
	if world != nil {
		if code != 0 {
			fmt.Fprintln(os.Stderr, world.Cluster.Logs(15))
		}
		world.Close()
	}
	os.Exit(code)
}

// where the folders of alice lie.
var own = []string{"INBOX", "Work", "Work/2026", "with space"}
var others = []string{"Shared Folders/shared", "Other Users/bob/proj"}

// fill puts messages everywhere.
func fill() error {
	c, err := imapline.Login(world.F1, "alice", imapcyrus.Password)
	if err != nil {
		return err
	}
	defer c.Close()
	for _, f := range append(slices.Clone(own), others...) {
		if f != "INBOX" && slices.Contains(own, f) {
			if _, err := c.OK("CREATE %s", imapline.Quote(f)); err != nil {
				return err
			}
		}
		for i := range 3 {
			if err := c.Append(f, message(fmt.Sprintf("%s-%d", strings.NewReplacer(" ", "_", "/", "_").Replace(f), i))); err != nil {
				return err
			}
		}
		if _, err := c.OK("SUBSCRIBE %s", imapline.Quote(f)); err != nil {
			return err
		}
	}
	return nil
}

func message(id string) string {
	return "From: a@example.com\r\nDate: Sun, 01 Feb 2026 10:00:00 +0000\r\nSubject: " + id + "\r\nMessage-ID: <" + id + "@example.com>\r\n\r\nbody of " + id + "\r\n"
}

// need skips a test whose program is not here, or fails it if nothing may be missing.
func need(t *testing.T, program, pkg string) {
	t.Helper()
	if _, err := exec.LookPath(program); err == nil {
		return
	}
	if os.Getenv("MURDER_REQUIRE_CYRUS") == "1" {
		t.Fatalf("%s is missing: apt-get install %s", program, pkg)
	}
	t.Skipf("%s is missing: apt-get install %s", program, pkg)
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = time.Second // for what it has started itself
	// Some look their own host's name up first, for which nobody may be there to answer.
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "LANG=C.UTF-8", "TERM=xterm", "SHELL=/bin/sh", "RES_OPTIONS=timeout:1 attempts:1")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %q: %v\n%s\n%s", name, args, err, out.String(), errs.String())
	}
	return out.String()
}

// ids returns the Message-IDs in a folder, sorted, as the backend that holds it tells them.
func ids(t *testing.T, folder string) []string {
	t.Helper()
	node := world.Be1
	if slices.Contains(others, folder) {
		node = world.Be2
	}
	c, err := imapline.Login(node.Addr(cyrus.IMAPPort), "alice", imapcyrus.Password)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.OK("EXAMINE %s", imapline.Quote(folder)); err != nil {
		t.Fatal(err)
	}
	r, err := c.OK("FETCH 1:* BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)]")
	if err != nil {
		return nil // Cyrus: an empty mailbox has no messages 1:*
	}
	return idsIn(r.Lines)
}

func idsIn(texts []string) []string {
	var list []string
	for _, text := range texts {
		for line := range strings.Lines(text) {
			if key, value, ok := strings.Cut(strings.TrimRight(line, "\r\n)"), ": "); ok && strings.EqualFold(key, "message-id") {
				list = append(list, value)
			}
		}
	}
	slices.Sort(list)
	return list
}

// maildir returns the Message-IDs in a Maildir, sorted.
func maildir(t *testing.T, dir string) []string {
	t.Helper()
	var texts []string
	for _, sub := range []string{"cur", "new"} {
		files, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil {
			t.Error(err)
		}
		for _, f := range files {
			text, err := os.ReadFile(filepath.Join(dir, sub, f.Name()))
			if err != nil {
				t.Fatal(err)
			}
			texts = append(texts, string(text))
		}
	}
	return idsIn(texts)
}

// agrees compares Maildirs below root with the backends.
func agrees(t *testing.T, path func(folder string) string) {
	t.Helper()
	for _, f := range append(slices.Clone(own), others...) {
		if here, there := maildir(t, path(f)), ids(t, f); !slices.Equal(here, there) || len(here) < 3 {
			t.Errorf("%s:\n here %q\nthere %q", f, here, there)
		}
	}
}

func deliver(t *testing.T, dir, id string) {
	t.Helper()
	text := strings.ReplaceAll(message(id), "\r\n", "\n")
	if err := os.WriteFile(filepath.Join(dir, "new", id+".host"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func config(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func address() (host, port string) { host, port, _ = net.SplitHostPort(world.F1); return host, port }

// secure is where the first frontend speaks TLS from the first octet on.
func secure() string { return world.Cluster.Addr("f1", "imaps") }

func TestImaplib(t *testing.T) {
	need(t, "python3", "python3")
	tree := func(addr string, what ...string) []string {
		h, p, _ := net.SplitHostPort(addr)
		args := append([]string{"tree.py", h, p, "alice", imapcyrus.Password}, what...)
		lines := strings.Split(strings.TrimSpace(run(t, "python3", args...)), "\n")
		slices.Sort(lines)
		return lines
	}
	compare := func() {
		t.Helper()
		here := tree(world.F1, "read")
		for how, addr := range map[string]string{"starttls": world.F2, "tls": secure()} {
			if again := tree(addr, "read", how, world.CA()); !slices.Equal(here, again) {
				t.Errorf("with %s:\n%s\nin clear:\n%s", how, strings.Join(again, "\n"), strings.Join(here, "\n"))
			}
		}
		there := append(tree(world.Be1.Addr(cyrus.IMAPPort), "read"), tree(world.Be2.Addr(cyrus.IMAPPort), "read")...)
		slices.Sort(there)
		if !slices.Equal(here, there) || len(here) < 3*(len(own)+len(others)) {
			t.Errorf("through the frontend:\n%s\nthe backends:\n%s", strings.Join(here, "\n"), strings.Join(there, "\n"))
		}
	}
	compare()
	tree(secure(), "work", "tls", world.CA())
	compare()
	for folder, id := range map[string]string{"Shared Folders/shared": "<py2@example.com>", "Other Users/bob/proj": "<py2@example.com>", "Python": "<py@example.com>"} {
		if !slices.Contains(ids(t, folder), id) {
			t.Errorf("%s lacks %s: %q", folder, id, ids(t, folder))
		}
	}
}

func TestCurl(t *testing.T) {
	need(t, "curl", "curl")
	for how, begin := range map[string][]string{
		"clear":    {"imap://" + world.F1 + "/"},
		"starttls": {"imap://" + world.F1 + "/", "--ssl-reqd", "--cacert", world.CA()},
		"tls":      {"imaps://" + secure() + "/", "--cacert", world.CA()},
	} {
		t.Run(how, func(t *testing.T) {
			id := "curl-" + how
			curl := func(path string, args ...string) string {
				args = append(slices.Clone(begin[1:]), args...)
				return run(t, "curl", append([]string{"-sS", "--user", "alice:" + imapcyrus.Password, begin[0] + path}, args...)...)
			}
			for _, f := range others {
				if out := curl(""); !strings.Contains(out, f) {
					t.Errorf("LIST lacks %s: %s", f, out)
				}
			}
			for _, folder := range []string{"Work", "Shared%20Folders/shared"} {
				curl(folder, "-T", config(t, message(id)))
				out := curl(folder, "-X", "SEARCH HEADER MESSAGE-ID "+id+"@example.com")
				n := strings.Fields(strings.TrimPrefix(strings.TrimSpace(out), "* SEARCH"))
				if len(n) != 1 {
					t.Fatalf("%q", out)
				}
				if got := curl(folder + ";MAILINDEX=" + n[0]); got != message(id) {
					t.Errorf("%s: got %q", folder, got)
				}
			}
			if out := curl("", "-X", "STATUS \"Shared Folders/shared\" (MESSAGES)"); !strings.Contains(out, "MESSAGES") {
				t.Error(out)
			}
		})
	}
}

func TestMbsync(t *testing.T) {
	need(t, "mbsync", "isync")
	host, port := address()
	root := t.TempDir()
	rc := config(t, fmt.Sprintf(`IMAPStore far
Host %s
Port %s
User alice
Pass %s
SSLType STARTTLS
CertificateFile %s
AuthMechs LOGIN

MaildirStore near
Path %s/
Inbox %s/INBOX
SubFolders Verbatim

Channel all
Far :far:
Near :near:
Patterns *
Create Both
Remove Both
Expunge Both
SyncState *
`, host, port, imapcyrus.Password, world.CA(), root, root))
	path := func(folder string) string { return filepath.Join(root, folder) }
	run(t, "mbsync", "-c", rc, "all")
	agrees(t, path)
	deliver(t, path("Work"), "mbsync-own")
	deliver(t, path("Shared Folders/shared"), "mbsync-shared")
	run(t, "mbsync", "-c", rc, "all")
	agrees(t, path)
	if !slices.Contains(ids(t, "Shared Folders/shared"), "<mbsync-shared@example.com>") {
		t.Error("not at the backend")
	}
}

func TestOfflineimap(t *testing.T) {
	need(t, "offlineimap", "offlineimap3")
	host, port, _ := net.SplitHostPort(secure())
	root := t.TempDir()
	rc := config(t, fmt.Sprintf(`[general]
accounts = a
metadata = %s/.meta
ui = quiet
[Account a]
localrepository = near
remoterepository = far
[Repository near]
type = Maildir
localfolders = %s/mail
sep = /
[Repository far]
type = IMAP
remotehost = %s
remoteport = %s
remoteuser = alice
remotepass = %s
ssl = yes
sslcacertfile = %s
auth_mechanisms = LOGIN
`, root, root, host, port, imapcyrus.Password, world.CA()))
	path := func(folder string) string { return filepath.Join(root, "mail", folder) }
	run(t, "offlineimap", "-o", "-c", rc)
	agrees(t, path)
	deliver(t, path("Work/2026"), "offline-own")
	deliver(t, path("Other Users/bob/proj"), "offline-proj")
	run(t, "offlineimap", "-o", "-c", rc)
	agrees(t, path)
	if !slices.Contains(ids(t, "Other Users/bob/proj"), "<offline-proj@example.com>") {
		t.Error("not at the backend")
	}
}

// neomutt copies and moves what it has tagged between folders on two servers. (A space would mean
// something else in its prompt, hence quote-char. Only --foreground leaves it the terminal, whatever the
// shell that script runs it with.)
func TestNeomutt(t *testing.T) {
	need(t, "neomutt", "neomutt")
	need(t, "script", "bsdutils")
	host, port := address()
	url := fmt.Sprintf("imap://alice@%s:%s/", host, port)
	rc := config(t, fmt.Sprintf(`set imap_pass=%q
set folder=%q
set spoolfile="+INBOX"
set ssl_starttls=no ssl_force_tls=no
set imap_authenticators="login"
set confirmappend=no confirmcreate=no move=no delete=yes mark_old=no quit=yes wait_key=no sleep_time=0
set crypt_use_gpgme=no header_cache="" message_cachedir="" sort=mailbox-order record=""
set beep=no
`, imapcyrus.Password, url))
	want := append(ids(t, "Shared Folders/shared"), ids(t, "INBOX")...)
	slices.Sort(want)
	keys := `<tag-pattern>~A<enter><tag-prefix><copy-message><kill-line>=Shared<quote-char> Folders/shared<enter><sync-mailbox><quit>`
	run(t, "script", "-qec", fmt.Sprintf("timeout --foreground -k 5 30 neomutt -n -F %s -f '%sINBOX' -e 'push \"%s\"'", rc, url, keys), "/dev/null")
	if got := ids(t, "Shared Folders/shared"); !slices.Equal(got, want) {
		t.Errorf("after copying:\n got %q\nwant %q", got, want)
	}
	before := ids(t, "Work")
	keys = `<tag-pattern>~A<enter><tag-prefix><save-message><kill-line>=Other<quote-char> Users/bob/proj<enter><sync-mailbox><quit>`
	run(t, "script", "-qec", fmt.Sprintf("timeout --foreground -k 5 30 neomutt -n -F %s -f '%sWork' -e 'push \"%s\"'", rc, url, keys), "/dev/null")
	after := ids(t, "Other Users/bob/proj")
	for _, id := range before {
		if !slices.Contains(after, id) {
			t.Errorf("%s was not moved: %q", id, after)
		}
	}
	if left := ids(t, "Work"); len(left) > 0 {
		t.Errorf("still there: %q", left)
	}
}
