//go:build cyrus

package delivery

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"murder/mupdate"
	"murder/test/cyrus"
	"murder/test/dialogue"
	"murder/test/harness"
	"murder/test/imapline"
	"murder/test/loopback"
)

func TestMain(m *testing.M) { harness.Main(m) }

const password = "labpass"

// world is three coordinators, two frontends and two Cyrus backends: alice, with the folder Work, and
// dave live on the first, bob and carol on the second.
type world struct {
	rig      *cyrus.Rig
	cluster  *harness.Cluster
	net      *loopback.Net
	dir      string
	be1, be2 *cyrus.Node
	relay    *dialogue.Relay
}

// options say what is different in a world.
type options struct {
	conf     map[string][]string // further lines of backends' imapd.conf, by node
	flags    []string            // of murderd dev
	unix     bool                // "/" separates levels
	tables   bool                // the first frontend also answers tcp_table look-ups, on port 7405
	implicit bool                // the first frontend also takes TLS from the first octet: LMTP on port 2443, POP3 on 2995
	// relayed leads the first frontend's LMTP connections to the first backend through a relay.
	relayed bool
}

// newWorld starts it.
func newWorld(t *testing.T, o options) *world {
	t.Helper()
	cyrus.Require(t)
	n, err := loopback.Claim()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Release() })
	w := &world{net: n}
	// Not t.TempDir: other users must get in, and paths of sockets are short.
	if w.dir, err = os.MkdirTemp("", "dlv"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(w.dir) })
	if err := os.Chmod(w.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	// Sockets get the group of their directory, which Postfix needs.
	if err := os.Mkdir(filepath.Join(w.dir, "mta"), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("sh", "-c", "! grep -q ^postfix: /etc/group || chgrp postfix "+w.dir+"/mta && chmod g+s "+w.dir+"/mta").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	users := []string{"alice", "bob", "carol", "dave"}
	args := []string{"--demo-backends", "0",
		"--set", fmt.Sprintf("f1/lmtp.listen=[%q, %q]", n.Host(21)+":2003", w.socket("lmtp")),
		"--set", fmt.Sprintf("f1/socketmap.listen=[%q, %q]", n.Host(21)+":7404", w.socket("map")),
	}
	for i := 1; i <= 2; i++ {
		args = append(args, "--backend", fmt.Sprintf("be%d.rig.test=%s,imap=%d,lmtp=%d,pop3=%d,sieve=%d", i, n.Host(10+i),
			cyrus.IMAPPort, cyrus.LMTPPort, cyrus.POP3Port, cyrus.SievePort))
	}
	for _, u := range users {
		args = append(args, "--user", u+":"+password)
	}
	if o.relayed {
		if w.relay, err = dialogue.Listen(n.Host(11)+":2099", n.Host(11)+":"+strconv.Itoa(cyrus.LMTPPort)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(w.relay.Close)
		args = append(args, "--set", `f1/backends.servers."be1.rig.test".lmtp=2099`)
	}
	if o.tables {
		args = append(args, "--set", fmt.Sprintf("f1/socketmap.tables.mailbox.listen=[%q]", n.Host(21)+":7405"))
	}
	if o.implicit {
		args = append(args, "--set", fmt.Sprintf("f1/lmtp.listen_tls=[%q]", n.Host(21)+":2443"), "--set", fmt.Sprintf("f1/pop3.listen_tls=[%q]", n.Host(21)+":2995"))
	}
	if o.unix {
		args = append(args, "--set", "namespace.unixhierarchysep=true", "--set", "namespace.altnamespace=true")
	}
	order, err := cyrus.OrderArgs("murder")
	if err != nil {
		t.Fatal(err)
	}
	w.cluster = harness.Start(t, harness.Options{Net: n, Frontends: 2, Args: slices.Concat(args, order, o.flags)})
	hosts := map[string][]string{}
	for _, id := range w.cluster.Coordinators() {
		host, _, _ := strings.Cut(w.cluster.Addr(id, "mupdate"), ":")
		hosts["mupdate.rig.test"] = append(hosts["mupdate.rig.test"], host)
	}
	_, port, _ := strings.Cut(w.cluster.Addr("c1", "mupdate"), ":")
	w.rig = cyrus.Start(t, cyrus.Options{Net: n, Backends: 2, Mupdate: "mupdate.rig.test:" + port, Hosts: hosts, Users: users, Conf: o.conf, Unix: o.unix})
	w.be1, w.be2 = w.rig.Node("be1"), w.rig.Node("be2")
	sep := map[bool]string{false: ".", true: "/"}[o.unix]
	create := func(n *cyrus.Node, names ...string) {
		for _, name := range names {
			w.admin(t, n, "CREATE "+strings.ReplaceAll(name, ".", sep))
		}
	}
	create(w.be1, "user.alice", "user.alice.Work", "user.dave")
	create(w.be2, "user.bob", "user.carol")
	return w
}

// socket is where the first frontend takes mail ("lmtp") or answers look-ups ("map"), beside TCP.
func (w *world) socket(name string) string { return filepath.Join(w.dir, "mta", name+".sock") }

// admin executes commands on a backend.
func (w *world) admin(t testing.TB, n *cyrus.Node, commands ...string) {
	t.Helper()
	c := signOn(t, n, w.rig.Admin())
	for _, command := range commands {
		if _, err := c.OK("%s", command); err != nil {
			t.Fatalf("%s: %s: %v", n.Name, command, err)
		}
	}
}

func signOn(t testing.TB, n *cyrus.Node, user string) *imapline.Conn {
	t.Helper()
	c, err := n.IMAP(user)
	if err != nil {
		t.Fatalf("signing on to %s as %s: %v", n.Name, user, err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// writer is a MUPDATE client that may write everything into the map.
func writer(t testing.TB, c *harness.Cluster, node string) *mupdate.Client {
	t.Helper()
	w, err := mupdate.Dial(t.Context(), mupdate.ClientConfig{Addresses: []string{c.Addr(node, "mupdate")}, SASL: mupdate.Password("cyrus", password)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

// messages returns all messages in a mailbox, as the backend stored them.
func messages(t testing.TB, n *cyrus.Node, user, mailbox string) []string {
	t.Helper()
	return fetch(t, n, user, mailbox, "BODY.PEEK[]")
}

// fetch returns an item of every message in a mailbox: the literal of each answer.
func fetch(t testing.TB, n *cyrus.Node, user, mailbox, item string) []string {
	t.Helper()
	c, err := n.IMAP(user)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	reply, err := c.OK("EXAMINE %s", imapline.Quote(mailbox))
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range reply.Lines {
		if l == "* 0 EXISTS" {
			return nil
		}
	}
	if reply, err = c.OK("FETCH 1:* (%s)", item); err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, l := range reply.Lines {
		if _, rest, ok := strings.Cut(l, "}\r\n"); ok && strings.Contains(l, "FETCH") {
			all = append(all, strings.TrimSuffix(rest, ")"))
		}
	}
	return all
}

// eventually repeats what nobody announces until it succeeds.
func eventually(t testing.TB, try func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = try(); err == nil {
			return
		}
	}
	t.Fatal(err)
}

// run executes a program for at most a minute and returns what it writes.
func run(t testing.TB, input, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(input)
	cmd.Dir, cmd.WaitDelay = os.TempDir(), time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// must is run that succeeds.
func must(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := run(t, "", name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

// write makes a file that everybody may read.
func (w *world) write(t testing.TB, name, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func hostPort(t testing.TB, addr string) (host, port string) {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return host, port
}
