//go:build cyrus

package delivery

import (
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"murder/test/cyrus"
	"murder/test/harness"
)

// postfix is an instance of Postfix with files of its own, made of deploy/postfix.
type postfix struct {
	t         testing.TB
	dir, smtp string
	master    *exec.Cmd
}

// startPostfix starts one. replace are pairs of strings for the example files.
func (w *world) startPostfix(t *testing.T, replace ...string) *postfix {
	t.Helper()
	cyrus.Require(t, "postfix", "postmap", "postqueue")
	p := &postfix{t: t, dir: filepath.Join(w.dir, "postfix"), smtp: w.net.Host(60) + ":2525"}
	for _, dir := range []string{p.dir, p.dir + "/queue", p.dir + "/data"} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	must(t, "chown", "postfix:", p.dir+"/data")
	example := func(name string) string {
		text, err := os.ReadFile("../../deploy/postfix/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return strings.NewReplacer(replace...).Replace(string(text))
	}
	w.write(t, "postfix/main.cf", fmt.Sprintf(`compatibility_level = 3.6
queue_directory = %[1]s/queue
data_directory = %[1]s/data
maillog_file = %[1]s/log
maillog_file_prefixes = /
inet_interfaces = loopback-only
inet_protocols = ipv4
myhostname = mta.example.net
mydestination =
mynetworks = 127.0.0.0/8
alias_maps =
multi_instance_enable = no
queue_run_delay = 2s
minimal_backoff_time = 1s
maximal_backoff_time = 2s
`, p.dir)+example("main.cf"), 0o644)
	var services strings.Builder
	for _, s := range []string{p.smtp + " inet n - n - - smtpd", "pickup unix n - n 60 1 pickup", "cleanup unix n - n - 0 cleanup",
		"qmgr unix n - n 1 1 qmgr", "rewrite unix - - n - - trivial-rewrite", "bounce unix - - n - 0 bounce", "defer unix - - n - 0 bounce",
		"trace unix - - n - 0 bounce", "verify unix - - n - 1 verify", "flush unix n - n 1000? 0 flush", "proxymap unix - - n - - proxymap",
		"smtp unix - - n - - smtp", "lmtp unix - - n - - lmtp", "error unix - - n - - error", "retry unix - - n - - error", "discard unix - - n - - discard",
		"scache unix - - n - 1 scache", "anvil unix - - n - 1 anvil", "showq unix n - n - - showq", "postlog unix-dgram n - n - 1 postlogd"} {
		services.WriteString(s + "\n")
	}
	w.write(t, "postfix/master.cf", services.String()+example("master.cf"), 0o644)
	must(t, "postfix", "-c", p.dir, "check") // makes the queue's directories
	p.start()
	return p
}

// start starts what "postfix start" does, so that it ends with the test, however that ends: a shell hears of that
// and tells the master, which forgets whose child it is when it changes its user.
func (p *postfix) start() {
	p.t.Helper()
	program := filepath.Join(strings.TrimSpace(must(p.t, "postconf", "-d", "-h", "daemon_directory")), "master")
	p.master = exec.Command("sh", "-c", `trap 'kill $m' TERM; "$0" -c "$1" & m=$!; wait $m; wait $m`, program, p.dir)
	p.master.SysProcAttr = harness.ChildAttr()
	if err := p.master.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(p.stop)
	eventually(p.t, func() error {
		nc, err := net.Dial("tcp", p.smtp)
		if err == nil {
			nc.Close()
		}
		return err
	})
}

func (p *postfix) stop() {
	if p.t.Failed() {
		log, _ := os.ReadFile(p.dir + "/log")
		p.t.Logf("Postfix:\n%s", log)
	}
	p.master.Process.Signal(syscall.SIGTERM)
	late := time.AfterFunc(stopLimit, func() { p.master.Process.Kill() })
	p.master.Wait() // killed, or told to end: it says so by its status
	if !late.Stop() {
		p.t.Error("Postfix did not end and was killed")
	}
}

const stopLimit = 30 * time.Second

// send hands a message in by SMTP and returns the reply for each recipient.
func (p *postfix) send(message string, rcpts ...string) (replies []string) {
	p.t.Helper()
	nc, err := net.Dial("tcp", p.smtp)
	if err != nil {
		p.t.Fatal(err)
	}
	c := textproto.NewConn(nc)
	defer c.Close()
	ask := func(format string, args ...any) string {
		if format != "" {
			c.PrintfLine(format, args...)
		}
		code, text, err := c.ReadResponse(0)
		if err != nil {
			p.t.Fatalf("%s: %v", format, err)
		}
		return fmt.Sprint(code, " ", text)
	}
	ask("")
	ask("EHLO client.example.net")
	ask("MAIL FROM:<sender@example.net>")
	taken := false
	for _, rcpt := range rcpts {
		reply := ask("RCPT TO:<%s>", rcpt)
		taken = taken || reply[0] == '2'
		replies = append(replies, reply)
	}
	if taken {
		ask("DATA")
		if reply := ask("%s.", message); reply[0] != '2' {
			p.t.Fatalf("the message: %s", reply)
		}
	}
	return replies
}

// queue is what waits.
func (p *postfix) queue() string { return must(p.t, "postqueue", "-c", p.dir, "-p") }

func (p *postfix) awaitEmpty() {
	p.t.Helper()
	eventually(p.t, func() error {
		if q := p.queue(); !strings.Contains(q, "queue is empty") {
			return errors.New(q)
		}
		return nil
	})
}

// The programs that bring the mail, with the configurations that deploy shows.
func TestMTAs(t *testing.T) {
	var trusted []string
	for _, be := range []string{"be1", "be2"} {
		trusted = append(trusted, "--set", fmt.Sprintf(`f2/backends.servers."%s.rig.test".lmtp=%d`, be, cyrus.TrustedLMTPPort))
	}
	w := newWorld(t, options{tables: true, flags: trusted})
	if err := signOn(t, w.be2, "bob").Append("INBOX", letter("fill", strings.Repeat("full\r\n", 300))); err != nil {
		t.Fatal(err)
	}
	w.admin(t, w.be2, "SETQUOTA user.bob (STORAGE 1)")
	t.Run("Exim", func(t *testing.T) { exim(t, w) })
	t.Run("Postfix", func(t *testing.T) { postfixStory(t, w) })
}

func postfixStory(t *testing.T, w *world) {
	table := "socketmap:inet:" + w.cluster.Addr("f1", "socketmap")
	host, port := hostPort(t, w.cluster.Addr("f1", "lmtp"))
	p := w.startPostfix(t, "[127.0.0.1]:24", "["+host+"]:"+port, "inet:127.0.0.1:7404", "unix:"+w.socket("map"))

	t.Run("look-ups", func(t *testing.T) {
		host, _ := hostPort(t, w.be2.Addr(cyrus.LMTPPort))
		tcp := "tcp:" + w.net.Host(21) + ":7405"
		for _, c := range []struct{ table, key, want string }{
			{table + ":mailbox", "alice@example.org", "alice@example.org\n"},
			{table + ":mailbox", "Alice+Foo@Example.Org", "Alice+Foo@Example.Org\n"},
			{table + ":mailbox", "nobody@example.org", ""},
			{table + ":mailbox-strict", "alice+Work@example.org", "alice+Work@example.org\n"},
			{table + ":mailbox-strict", "alice+None@example.org", ""},
			{table + ":transport", "carol@example.org", fmt.Sprintf("lmtp:inet:[%s]:%d\n", host, cyrus.LMTPPort)},
			{table + ":backend", "carol", "be2.rig.test\n"},
			{"socketmap:unix:" + w.socket("map") + ":mailbox", "bob@example.org", "bob@example.org\n"},
			{tcp, "alice@example.org", "alice@example.org\n"},
			{tcp, "nobody@example.org", ""},
		} {
			out, err := run(t, "", "postmap", "-c", p.dir, "-q", c.key, c.table)
			if out != c.want || (err == nil) != (c.want != "") {
				t.Errorf("%s in %s: %q %v, want %q", c.key, c.table, out, err, c.want)
			}
		}
	})

	t.Run("TCP", func(t *testing.T) {
		rcpts := []string{"bob@example.org", "nobody@example.org"}
		for i := range 24 {
			rcpts = append(rcpts, fmt.Sprintf("alice+%d@example.org", i), fmt.Sprintf("Carol+%d@example.org", i))
		}
		for i, reply := range p.send(letter("many", "x\r\n"), rcpts...) {
			if want := map[bool]string{true: "550", false: "250"}[rcpts[i] == "nobody@example.org"]; !strings.HasPrefix(reply, want) {
				t.Errorf("%s: %s, want %s", rcpts[i], reply, want)
			}
		}
		eventually(t, func() error { // all are delivered but bob, who waits for room
			q := p.queue()
			if !strings.Contains(q, "bob@example.org") || !strings.Contains(q, "452") || strings.Contains(q, "alice") || strings.Contains(q, "arol") {
				return errors.New(q)
			}
			return nil
		})
		w.admin(t, w.be2, "SETQUOTA user.bob (STORAGE 1000)")
		must(t, "postqueue", "-c", p.dir, "-f")
		p.awaitEmpty()
		for user, n := range map[string]*cyrus.Node{"alice": w.be1, "carol": w.be2, "bob": w.be2} {
			if n := count(messages(t, n, user, "INBOX"), "Subject: many"); n != 1 { // equal ones are stored once
				t.Errorf("%s has %d", user, n)
			}
		}
	})

	t.Run("unix socket", func(t *testing.T) {
		must(t, "postconf", "-c", p.dir, "-e", "virtual_transport=murder:unix:"+w.socket("lmtp"))
		must(t, "postfix", "-c", p.dir, "reload")
		p.send(letter("unix", "..socket\r\n"), "alice@example.org", "carol@example.org")
		p.awaitEmpty()
		for user, n := range map[string]*cyrus.Node{"alice": w.be1, "carol": w.be2} {
			if n := count(messages(t, n, user, "INBOX"), "\r\n.socket\r\n"); n != 1 {
				t.Errorf("%s has %d", user, n)
			}
		}
	})

	// Without a frontend in between: Postfix asks for the place and goes there itself, also after a move.
	t.Run("direct", func(t *testing.T) {
		direct := "socketmap:inet:" + w.cluster.Addr("f2", "socketmap") + ":transport" // it knows of the port where backends trust MTAs
		must(t, "postconf", "-c", p.dir, "-e", "transport_maps="+direct)
		must(t, "postfix", "-c", p.dir, "reload")
		to := func(id string, places map[string]*cyrus.Node) {
			t.Helper()
			p.send(letter(id, "x\r\n"), "alice@example.org", "dave@example.org")
			p.awaitEmpty()
			log, err := os.ReadFile(p.dir + "/log")
			if err != nil {
				t.Fatal(err)
			}
			for user, n := range places {
				if n := count(messages(t, n, w.rig.Admin(), "user."+user), "Subject: "+id+"\r\n"); n != 1 {
					t.Errorf("%s: %s has %d", id, user, n)
				}
				if relay := fmt.Sprintf("to=<%s@example.org>, relay=%s[%s]:%d", user, n.Host, n.Host, cyrus.TrustedLMTPPort); !strings.Contains(string(log), relay) {
					t.Errorf("%s: Postfix has not logged %q", id, relay)
				}
			}
		}
		for _, user := range []string{"alice", "dave"} {
			w.admin(t, w.be1, "SETACL user."+user+" "+w.rig.Admin()+" lrswipkxtecda")
		}
		to("direct", map[string]*cyrus.Node{"alice": w.be1, "dave": w.be1})
		w.admin(t, w.be1, "XFER user.dave "+w.be2.Server)
		to("direct-moved", map[string]*cyrus.Node{"alice": w.be1, "dave": w.be2})
		must(t, "postconf", "-c", p.dir, "-e", "transport_maps=")
		must(t, "postfix", "-c", p.dir, "reload")
	})

	// The frontend and a backend are killed while messages wait; the queue empties by itself.
	t.Run("faults", func(t *testing.T) {
		for i := range 20 {
			p.send(letter(fmt.Sprintf("fault-%d", i), "x\r\n"), "alice@example.org", "carol@example.org")
			switch i {
			case 5:
				w.be2.Kill()
			case 10:
				if err := w.cluster.Kill("f1"); err != nil {
					t.Fatal(err)
				}
				if reply := p.send(letter("no map", "x\r\n"), "alice@example.org")[0]; reply[0] != '4' {
					t.Errorf("RCPT without a map: %s", reply)
				}
				if err := w.cluster.Start("f1"); err != nil {
					t.Fatal(err)
				}
			case 15:
				if err := w.be2.Start(); err != nil {
					t.Fatal(err)
				}
			}
		}
		eventually(t, func() error {
			must(t, "postqueue", "-c", p.dir, "-f")
			if q := p.queue(); !strings.Contains(q, "queue is empty") {
				return errors.New(q)
			}
			return nil
		})
		for user, n := range map[string]*cyrus.Node{"alice": w.be1, "carol": w.be2} {
			all, twice := messages(t, n, user, "INBOX"), 0
			for i := range 20 {
				switch n := count(all, fmt.Sprintf("Subject: fault-%d\r\n", i)); n {
				case 0:
					t.Errorf("%s misses message %d", user, i)
				default:
					twice += n - 1
				}
			}
			if twice > 2 { // at each fault one may have been stored without being confirmed
				t.Errorf("%s has %d messages twice", user, twice)
			}
		}
	})

	t.Run("no majority", func(t *testing.T) {
		for _, id := range []string{"c1", "c2"} {
			if err := w.cluster.Kill(id); err != nil {
				t.Fatal(err)
			}
		}
		replies := p.send(letter("no majority", "x\r\n"), "alice@example.org", "unheard@example.org")
		if replies[0][:3] != "250" || replies[1][:3] != "451" {
			t.Errorf("RCPT: %q", replies)
		}
		p.awaitEmpty()
		if err := w.cluster.StartAll([]string{"c1", "c2"}); err != nil {
			t.Fatal(err)
		}
	})
}
