//go:build cyrus

package cyrus

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"murder/test/lmtpline"
)

// readMail is a user's session with Python's imaplib: prints the folders and the subjects in INBOX.
const readMail = `
import imaplib, sys
host, port, user, password = sys.argv[1:5]
m = imaplib.IMAP4(host, int(port))
m.login(user, password)
typ, folders = m.list()
assert typ == "OK", folders
for f in sorted(folders):
    print("FOLDER", f.decode())
typ, n = m.select("INBOX")
assert typ == "OK", n
typ, found = m.search(None, "ALL")
assert typ == "OK", found
for number in found[0].split():
    typ, data = m.fetch(number, "(BODY.PEEK[HEADER.FIELDS (SUBJECT)])")
    assert typ == "OK", data
    print(data[0][1].decode().strip())
typ, n = m.status('"user.u2.shared"', "(MESSAGES)")
assert typ == "OK", n
print("STATUS", n[0].decode())
m.logout()
`

// Mail comes in through our LMTP frontend for two users on two backends, and one of them reads it
// through our IMAP frontend, with clients that people use.
func TestMailInAndOut(t *testing.T) {
	t.Parallel()
	Require(t, "python3", "curl", "swaks")
	m := newMurder(t, Options{})
	be1, be2 := m.Node("be1"), m.Node("be2")
	ok(t, signOn(t, be1, m.Admin()), "CREATE user.u1")
	admin2 := signOn(t, be2, m.Admin())
	ok(t, admin2, "CREATE user.u2")
	ok(t, admin2, "CREATE user.u2.shared")
	ok(t, admin2, "SETACL user.u2.shared u1 lrs")

	host, port, _ := strings.Cut(m.lmtp, ":")
	out := run(t, "swaks", "--protocol", "LMTP", "--server", host, "--port", port, "--from", "sender@example.org",
		"--to", "u1,u2", "--header", "Subject: to both", "--body", "hello")
	if n := strings.Count(out, "<-  250 2.1.5"); n < 2 { // its status tells as well
		t.Errorf("swaks got %d deliveries confirmed:\n%s", n, out)
	}
	if out, err := exec.Command("swaks", "--protocol", "LMTP", "--server", host, "--port", port, "--from", "sender@example.org",
		"--to", "nobody").CombinedOutput(); err == nil || !strings.Contains(string(out), "550") {
		t.Errorf("mail for an unknown user: %v\n%s", err, out)
	}

	host, port, _ = strings.Cut(m.imap, ":")
	out = run(t, "python3", "-c", readMail, host, port, "u1", m.Password())
	for _, want := range []string{"INBOX", "user.u2.shared", "Subject: to both", "MESSAGES 0"} {
		if !strings.Contains(out, want) {
			t.Errorf("imaplib saw no %q:\n%s", want, out)
		}
	}
	for _, user := range []string{"u1", "u2"} {
		url := fmt.Sprintf("imap://%s/INBOX;MAILINDEX=1;SECTION=TEXT", m.imap)
		if out := run(t, "curl", "-sS", "--max-time", "20", "-u", user+":"+m.Password(), url); !strings.Contains(out, "hello") {
			t.Errorf("curl as %s reads %q", user, out)
		}
	}
	if out := run(t, "curl", "-sS", "--max-time", "20", "-u", "u1:"+m.Password(), "imap://"+m.imap+"/"); !strings.Contains(out, "user.u2.shared") {
		t.Errorf("curl lists %q", out)
	}

	c := m.login(t, "u1")
	refused(t, c, "SELECT user.u2")
	ok(t, c, "SELECT INBOX")
	ok(t, c, "CREATE INBOX.kept")
	ok(t, c, "COPY 1 INBOX.kept")
	ok(t, c, "SELECT INBOX.kept")
	if r := ok(t, c, "FETCH 1 (RFC822.SIZE BODY[])"); !contains(r.Lines, "hello") {
		t.Errorf("the copy: %q", r.Lines)
	}
	m.lives(t, "user.u1.kept", be1)
}

// A backend that is away: mail for its users waits, mail for others is delivered, and other users
// notice nothing.
func TestBackendAway(t *testing.T) {
	t.Parallel()
	m := newMurder(t, Options{})
	be1, be2 := m.Node("be1"), m.Node("be2")
	ok(t, signOn(t, be1, m.Admin()), "CREATE user.u1")
	ok(t, signOn(t, be2, m.Admin()), "CREATE user.u2")
	be1.Kill()
	c, err := lmtpline.Dial(m.lmtp)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	replies, err := c.Deliver("Subject: one of two\r\n\r\nhello\r\n", "u1", "u2")
	if err != nil {
		t.Fatal(err)
	}
	if replies[0].Code/100 != 4 || replies[1].Code != 250 {
		t.Errorf("want a temporary failure and a delivery: %q", replies)
	}
	u2 := m.login(t, "u2")
	ok(t, u2, "SELECT INBOX")
	if r := ok(t, u2, "STATUS INBOX (MESSAGES)"); !contains(r.Lines, "MESSAGES 1") {
		t.Errorf("u2: %q", r.Lines)
	}
	u1 := m.login(t, "u1")
	refused(t, u1, "SELECT INBOX")
	if err := be1.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { _, err := u1.OK("SELECT INBOX"); return err })
}

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}
