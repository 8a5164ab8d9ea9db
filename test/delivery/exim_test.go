//go:build cyrus

package delivery

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"murder/test/cyrus"
)

// eximScript shows Exim the user that it was built for, whom only its package makes.
const eximScript = `set -e
mount --make-rprivate /
(cat /etc/passwd; echo Debian-exim:x:4999:4999::/:/bin/false) >"$1/passwd"
(cat /etc/group; echo Debian-exim:x:4999:) >"$1/group"
mount --bind "$1/passwd" /etc/passwd
mount --bind "$1/group" /etc/group
conf=$1/exim.conf program=$2
shift 2
exec "$program" -C "$conf" "$@"`

// eximProgram finds Exim. Debian lets it stand beside no other MTA: make test-deps unpacks it below bin.
func eximProgram(t *testing.T) string {
	t.Helper()
	unpacked, err := filepath.Abs("../../bin/exim/usr/sbin/exim4")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{unpacked, "exim4", "exim"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	cyrus.Lacking(t, "Exim, which \"make test-deps\" unpacks into bin/exim")
	return ""
}

// Exim asks whether there is such a mailbox, and delivers by LMTP; with lmtp_ignore_quota into a full one.
func exim(t *testing.T, w *world) {
	program := eximProgram(t)
	lmtp, tcp := w.cluster.Addr("f1", "lmtp"), w.net.Host(21)+":7405"
	host, port := hostPort(t, lmtp)
	tcpHost, tcpPort := hostPort(t, tcp)
	text, err := os.ReadFile("../../deploy/exim/exim.conf")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(w.dir, "exim")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, 4999, 4999); err != nil {
		t.Fatal(err)
	}
	configure := func(more string) {
		t.Helper()
		example := strings.NewReplacer("* 127.0.0.1", "* "+host, "port = 24\n", "port = "+port+"\n"+more, "inet:127.0.0.1:7405", "inet:"+tcpHost+":"+tcpPort).Replace(string(text))
		w.write(t, "exim/exim.conf", fmt.Sprintf("exim_path = %[3]s\nspool_directory = %[1]s/spool\nlog_file_path = %[1]s/%%slog\nprimary_hostname = mta.example.net\nkeep_environment =\nrfc1413_hosts =\nhost_lookup =\n%[2]s\nbegin retry\n* * F,1h,1m\n", dir, example, program), 0o644)
	}
	run := func(input string, args ...string) (string, error) {
		return run(t, input, "unshare", append([]string{"-m", "sh", "-c", eximScript, "exim", dir, program}, args...)...)
	}
	configure("")
	for rcpt, want := range map[string]string{"Alice+Foo@example.org": "transport = murder", "nobody@example.org": "User unknown", "carol@example.org": "transport = murder"} {
		if out, _ := run("", "-bt", rcpt); !strings.Contains(out, want) {
			t.Errorf("-bt %s: %s", rcpt, out)
		}
	}
	stored := func(subject string, want map[string]int) {
		t.Helper()
		for user, n := range map[string]*cyrus.Node{"alice": w.be1, "carol": w.be2, "bob": w.be2} {
			if got := count(messages(t, n, user, "INBOX"), "Subject: "+subject+"\n"); got != want[user] {
				t.Errorf("%s: %s has %d, want %d", subject, user, got, want[user])
			}
		}
	}
	// bob has no room. His message waits in the queue, and is delivered when nobody asks about room.
	for _, more := range []string{"", "  lmtp_ignore_quota\n"} {
		configure(more)
		subject := map[bool]string{true: "quota", false: "noquota"}[more == ""]
		if out, err := run(strings.ReplaceAll(letter(subject, ".dot\n"), "\r\n", "\n"), "-odi", "-i", "-f", "sender@example.net", "alice@example.org", "bob@example.org", "carol@example.org"); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		log, _ := os.ReadFile(dir + "/mainlog")
		if more == "" {
			if !strings.Contains(string(log), "== bob@example.org R=murder T=murder defer") || !strings.Contains(string(log), "452 4.2.2") {
				t.Errorf("Exim wrote:\n%s", log)
			}
			stored(subject+"\r", map[string]int{"alice": 1, "carol": 1})
			continue
		}
		stored(subject+"\r", map[string]int{"alice": 1, "carol": 1, "bob": 1})
		run("", "-qff")
		stored("quota\r", map[string]int{"alice": 1, "carol": 1, "bob": 1})
		if out, _ := run("", "-bpc"); strings.TrimSpace(out) != "0" {
			t.Errorf("%s messages are left in the queue", out)
		}
	}
	log, _ := os.ReadFile(dir + "/mainlog")
	if strings.Contains(string(log), "** ") { // bounced
		t.Errorf("Exim wrote:\n%s", log)
	}
}
