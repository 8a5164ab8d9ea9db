//go:build cyrus

package delivery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"murder/test/cyrus"
)

// poplib reads alice's mail and says QUIT or not.
const poplib = `
import poplib, sys, socket, struct
host, port, how = sys.argv[1:4]
p = poplib.POP3(host, int(port), timeout=30)
caps = p.capa()
assert "STLS" in caps and "UTF8" not in caps, caps
try:
    p.user("alice"); p.pass_("wrong")
except poplib.error_proto as e:
    assert b"[AUTH]" in e.args[0], e
else:
    raise SystemExit("a wrong password was good enough")
p.user("alice")
p.pass_("labpass")
n, size = p.stat()
print("STAT", n, size == sum(int(l.split()[1]) for l in p.list()[1]))
print(b"\n".join(p.retr(1)[1]).decode())
p.dele(1)
if how == "quit":
    p.quit()
elif how == "reset":
    p.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    p.sock.close()
else:
    p.sock.close()
`

// Programs that people fetch their mail with, each in its turn.
func TestPOP3Clients(t *testing.T) {
	cyrus.Require(t, "python3", "curl", "fetchmail", "mpop", "getmail")
	w := newWorld(t, options{flags: []string{"--user", "erin:" + password}})
	addr := w.cluster.Addr("f1", "pop3")
	host, port := hostPort(t, addr)
	fill := func(subject string, more ...string) {
		t.Helper()
		c := signOn(t, w.be1, "alice")
		if c.OK("SELECT INBOX"); true {
			c.OK("STORE 1:* +FLAGS (\\Deleted)")
			c.OK("EXPUNGE")
		}
		for _, s := range append([]string{subject}, more...) {
			if err := c.Append("INBOX", letter(s, ".dots\r\n..\r\nend\r\n")); err != nil {
				t.Fatal(err)
			}
		}
		c.Close()
	}
	left := func() int { return len(messages(t, w.be1, "alice", "INBOX")) }
	maildir := func(name string) string {
		dir := w.dir + "/" + name
		for _, d := range []string{"", "/new", "/cur", "/tmp"} {
			if err := os.Mkdir(dir+d, 0o777); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	got := func(t *testing.T, dir string, want int) {
		t.Helper()
		files, err := os.ReadDir(dir + "/new")
		if err != nil || len(files) != want {
			t.Fatalf("%d messages, %v; want %d", len(files), err, want)
		}
		for _, f := range files {
			if text, _ := os.ReadFile(dir + "/new/" + f.Name()); !strings.Contains(strings.ReplaceAll(string(text), "\r\n", "\n"), "\n.dots\n..\nend\n") {
				t.Errorf("%s: %q", f.Name(), text)
			}
		}
	}

	t.Run("poplib", func(t *testing.T) {
		ended := 0
		for how, want := range map[string]int{"quit": 1, "close": 2, "reset": 2} {
			fill("poplib", "second")
			out := must(t, "python3", "-c", poplib, host, port, how)
			if !strings.Contains(out, "STAT 2 True") || !strings.Contains(out, "\n.dots\n..\nend") {
				t.Errorf("%s: %s", how, out)
			}
			ended++
			eventually(t, func() error { // the backend has heard what it will ever hear
				log, err := os.ReadFile(w.cluster.Dir + "/f1.log")
				if err == nil && strings.Count(string(log), `msg="session ended"`) < ended {
					err = errors.New("the session goes on")
				}
				return err
			})
			if n := left(); n != want {
				t.Errorf("after %s: %d messages, want %d", how, n, want)
			}
		}
	})
	t.Run("curl", func(t *testing.T) {
		fill("curl")
		for _, args := range [][]string{{"pop3://" + addr + "/1"}, {"--ssl-reqd", "-k", "pop3://" + addr + "/1"}, {"--login-options", "AUTH=PLAIN", "pop3://" + addr + "/1"}} {
			if out := must(t, "curl", append([]string{"-sS", "--max-time", "20", "-u", "alice:" + password}, args...)...); !strings.Contains(out, "Subject: curl") {
				t.Errorf("%q: %q", args, out)
			}
		}
	})
	t.Run("mpop", func(t *testing.T) {
		dir := maildir("mpop")
		for i, how := range []string{"tls off\nauth user", "tls off\nauth plain", "tls off\nauth scram-sha-256", "tls on\ntls_starttls on\ntls_certcheck off\nauth user"} {
			fill("mpop", "second")
			rc := w.write(t, "mpoprc", fmt.Sprintf("account default\nhost %s\nport %s\nuser alice\npassword %s\n%s\nkeep off\ndelivery maildir %s\nuidls_file %s/mpop.uidls\n", host, port, password, how, dir, w.dir), 0o600)
			must(t, "mpop", "-C", rc)
			got(t, dir, 2*(i+1))
			if n := left(); n != 0 {
				t.Errorf("%s: %d are left", how, n)
			}
		}
	})
	t.Run("getmail", func(t *testing.T) {
		fill("getmail", "second", "third")
		dir := maildir("getmail")
		mda := w.write(t, "getmda", "#!/bin/sh\ncat > "+dir+"/new/$$\n", 0o755) // getmail as root writes no files itself
		w.write(t, "getmailrc", fmt.Sprintf("[retriever]\ntype = SimplePOP3Retriever\nserver = %s\nport = %s\nusername = alice\npassword = %s\n"+
			"[destination]\ntype = MDA_external\npath = %s\nallow_root_commands = true\n[options]\nread_all = true\ndelete = true\ndelivered_to = false\nreceived = false\n", host, port, password, mda), 0o600)
		must(t, "getmail", "--getmaildir", w.dir, "--rcfile", "getmailrc")
		got(t, dir, 3)
		if n := left(); n != 0 {
			t.Errorf("%d are left", n)
		}
	})
	t.Run("fetchmail", func(t *testing.T) {
		fill("fetchmail", "second")
		mda := w.write(t, "mda", "#!/bin/sh\ncat > "+w.dir+"/fetched.$$\n", 0o755)
		rc := w.write(t, "fetchmailrc", fmt.Sprintf("poll %s protocol pop3 port %s user alice password %s fetchall nokeep sslproto '' mda \"%s\"\n", host, port, password, mda), 0o600)
		home := w.dir
		out, err := run(t, "", "env", "HOME="+home, "FETCHMAILHOME="+home, "fetchmail", "-f", rc, "-i", w.dir+"/fetchids", "--pidfile", w.dir+"/fetchmail.pid", "-v")
		if err != nil || left() != 0 {
			t.Errorf("%v, %d left\n%s", err, left(), out)
		}
	})

	t.Run("two sessions", func(t *testing.T) { // as Cyrus has it: no lock
		fill("two", "second")
		one, two := loginPOP3(t, addr, "alice"), loginPOP3(t, addr, "alice")
		for _, p := range []*textproto.Conn{one, two} {
			if got := askPOP3(t, p, "STAT"); !strings.HasPrefix(got, "+OK 2 ") {
				t.Error(got)
			}
		}
		askPOP3(t, one, "DELE 1")
		if got := askPOP3(t, one, "QUIT"); !strings.HasPrefix(got, "+OK") {
			t.Error(got)
		}
		if got := askPOP3(t, two, "NOOP"); !strings.HasPrefix(got, "+OK") {
			t.Error(got)
		}
		if n := left(); n != 1 {
			t.Errorf("%d are left", n)
		}
	})
	// Who has no mailbox gets none, neither here nor elsewhere.
	t.Run("no mailbox", func(t *testing.T) {
		p, err := textproto.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		p.ReadLine()
		askPOP3(t, p, "USER erin")
		if got := askPOP3(t, p, "PASS "+password); !strings.HasPrefix(got, "-ERR [SYS/PERM] No maildrop") {
			t.Error(got)
		}
		for _, n := range []*cyrus.Node{w.be1, w.be2} {
			if r, err := signOn(t, n, w.rig.Admin()).OK("LIST \"\" user.erin"); err != nil || len(r.Lines) != 0 {
				t.Errorf("%s: %q %v", n.Name, r.Lines, err)
			}
		}
	})

	t.Run("another backend is down", func(t *testing.T) {
		fill("pipelined")
		if err := w.be2.Stop(); err != nil {
			t.Fatal(err)
		}
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		nc.SetDeadline(time.Now().Add(30 * time.Second))
		fmt.Fprintf(nc, "USER carol\r\nPASS %s\r\nUSER alice\r\nPASS %s\r\nSTAT\r\nQUIT\r\n", password, password)
		var all strings.Builder
		buf := make([]byte, 4096)
		for {
			n, err := nc.Read(buf)
			all.Write(buf[:n])
			if err != nil {
				break
			}
		}
		lines := strings.Split(all.String(), "\r\n")
		if len(lines) != 8 || !strings.HasPrefix(lines[2], "-ERR [SYS/TEMP]") || !strings.HasPrefix(lines[4], "+OK Mailbox locked") || !strings.HasPrefix(lines[5], "+OK 1 ") {
			t.Errorf("%q", lines)
		}
	})
}

func loginPOP3(t *testing.T, addr, user string) *textproto.Conn {
	t.Helper()
	p, err := textproto.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	p.ReadLine()
	askPOP3(t, p, "USER "+user)
	if got := askPOP3(t, p, "PASS "+password); !strings.HasPrefix(got, "+OK") {
		t.Fatal(got)
	}
	return p
}

func askPOP3(t *testing.T, p *textproto.Conn, line string) string {
	t.Helper()
	p.PrintfLine("%s", line)
	got, err := p.ReadLine()
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return got
}

// Programs that people edit their scripts with.
func TestSieveClients(t *testing.T) {
	cyrus.Require(t, "sieveshell", "sieve-connect")
	w := newWorld(t, options{})
	host, port := hostPort(t, w.cluster.Addr("f1", "sieve"))
	script := w.write(t, "one.sieve", "require [\"fileinto\"];\nif header :contains \"subject\" \"work\" { fileinto \"INBOX.Work\"; }\n", 0o644)
	wrong := w.write(t, "wrong.sieve", "nonsense;\n", 0o644)

	t.Run("sieveshell", func(t *testing.T) {
		out := converse(t, "sieveshell -u alice -a alice "+host+":"+port, "assword: ", password, "> ", "put "+script+" one",
			"> ", "activate one", "> ", "list", "> ", "put "+wrong+" two", "> ", "quit")
		if !strings.Contains(out, "one  <- active script") || !strings.Contains(out, "not found") && !strings.Contains(out, "fail") && !strings.Contains(out, "error") {
			t.Errorf("%s", out)
		}
		// What the frontend was told is what the backend does.
		m := dialMTA(t, "tcp", w.cluster.Addr("f2", "lmtp"))
		m.transaction("<a@example.org>", letter("work", "x\r\n"), []string{"<alice>"}, "250 2.1.5")
		if n := count(messages(t, w.be1, "alice", "INBOX.Work"), "Subject: work"); n != 1 {
			t.Errorf("the script put %d messages into Work", n)
		}
	})
	pass := w.write(t, "pass", password+"\n", 0o600)
	t.Run("sieve-connect", func(t *testing.T) {
		connect := func(args ...string) (string, error) {
			return run(t, "", "sh", append([]string{"-c", `exec 3<` + pass + `; exec sieve-connect --server ` + host + ` --port ` + port + ` --user alice --passwordfd 3 --notlsverify "$@"`, "sh"}, args...)...)
		}
		if out, err := connect("--list"); err != nil || !strings.Contains(out, "one") {
			t.Errorf("%v\n%s", err, out)
		}
		if out, err := connect("--upload", "--localsieve", script, "--remotesieve", "three"); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		if out, err := connect("--upload", "--localsieve", wrong, "--remotesieve", "four"); err == nil {
			t.Errorf("a wrong script was taken:\n%s", out)
		}
	})
	list := func(addr string) string {
		t.Helper()
		host, port := hostPort(t, addr)
		return must(t, "sh", "-c", "exec 3<"+pass+"; exec sieve-connect --server "+host+" --port "+port+" --user alice --passwordfd 3 --notlsverify --list")
	}
	t.Run("at the backend itself", func(t *testing.T) {
		if direct, through := list(w.be1.Addr(cyrus.SievePort)), list(w.cluster.Addr("f2", "sieve")); direct != through || !strings.Contains(direct, "three") {
			t.Errorf("the backend has %q, the frontend shows %q", direct, through)
		}
	})
	t.Run("after a move", func(t *testing.T) {
		w.admin(t, w.be1, "XFER user.alice "+w.be2.Server)
		if out := list(w.cluster.Addr("f1", "sieve")); !strings.Contains(out, "three") || !strings.Contains(out, "one") || out != list(w.be2.Addr(cyrus.SievePort)) {
			t.Errorf("%s", out)
		}
		m := dialMTA(t, "tcp", w.cluster.Addr("f2", "lmtp"))
		m.transaction("<a@example.org>", letter("work again", "x\r\n"), []string{"<alice>"}, "250 2.1.5")
		if n := count(messages(t, w.be2, "alice", "INBOX.Work"), "Subject: work again"); n != 1 {
			t.Errorf("the script put %d messages into Work", n)
		}
	})
}

// converse runs a program on a terminal: it waits for each of the prompts and then says what follows it.
func converse(t *testing.T, command string, dialogue ...string) string {
	t.Helper()
	cyrus.Require(t, "script")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "script", "-qefc", command, "/dev/null")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	seen := 0
	buf := make([]byte, 4096)
	for {
		n, err := out.Read(buf)
		all.Write(buf[:n])
		if err != nil {
			break
		}
		if text := all.String(); len(dialogue) > 1 {
			if i := strings.Index(text[seen:], dialogue[0]); i >= 0 {
				seen = len(text)
				fmt.Fprintf(in, "%s\r", dialogue[1])
				dialogue = dialogue[2:]
			}
		}
	}
	cmd.Wait()
	return all.String()
}
