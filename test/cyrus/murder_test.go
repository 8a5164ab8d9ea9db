//go:build cyrus

package cyrus

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	operator "murder/cluster/admin"
	"murder/test/dialogue"
	"murder/test/harness"
	"murder/test/imapline"
	"murder/test/lmtpline"
	"murder/test/loopback"
	"murder/test/mupdateline"
)

func TestMain(m *testing.M) { harness.Main(m) }

// murder is a whole system: our cluster, real Cyrus backends, and, if asked for, real Cyrus
// frontends that follow one of our nodes.
//
// With MURDER_STORIES=cyrus the stories are told of Cyrus's own master and frontend instead. What
// fails there as well is the story's fault, or Cyrus's, not ours.
type murder struct {
	*Rig
	cluster *harness.Cluster // nil with Cyrus's own master
	nodes   []string         // MUPDATE addresses; the frontends' are last
	imap    string           // the frontend that users sign on to
	lmtp    string
	relays  map[string]*dialogue.Relay // of newRelayed: the way of every backend to the cluster
	relayed bool
	down    bool // a story that leaves servers out of step does not end with the comparison
}

// newMurder starts it. When the story is over, every backend is compared with the map.
func newMurder(t *testing.T, o Options, flags ...string) *murder {
	t.Helper()
	return tell(t, &murder{}, o, flags)
}

// newRelayed starts it with a relay before each backend, which leads to the first coordinator.
func newRelayed(t *testing.T, o Options, flags ...string) *murder {
	t.Helper()
	if os.Getenv("MURDER_STORIES") == "cyrus" {
		t.Skip("needs our cluster")
	}
	return tell(t, &murder{relayed: true}, o, flags)
}

func tell(t *testing.T, m *murder, o Options, flags []string) *murder {
	t.Helper()
	Require(t)
	defaults(&o)
	if o.Net == nil {
		n, err := loopback.Claim()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { n.Release() })
		o.Net = n
	}
	if os.Getenv("MURDER_STORIES") == "cyrus" {
		o.Master, o.Frontends = true, 1
		m.Rig = Start(t, o)
		m.nodes = []string{m.Node("mupdate").Addr(MupdatePort)}
		m.imap, m.lmtp = m.Node("fe1").Addr(IMAPPort), m.Node("fe1").Addr(TrustedLMTPPort)
	} else {
		m.startCluster(t, &o, flags)
		m.Rig = Start(t, o)
	}
	t.Cleanup(func() {
		if !m.down && !t.Failed() {
			m.compare(t)
		}
	})
	return m
}

func (m *murder) startCluster(t *testing.T, o *Options, flags []string) {
	args := []string{"--demo-backends", "0", "--admin", o.Admin + ":" + o.Password, "--proxy", o.Proxy + ":" + o.Password,
		"--set", fmt.Sprintf("namespace.altnamespace=%t", o.Unix), "--set", fmt.Sprintf("namespace.unixhierarchysep=%t", o.Unix)}
	for i := 1; i <= o.Backends; i++ {
		args = append(args, "--backend", fmt.Sprintf("be%d.%s=%s,imap=%d,lmtp=%d,pop3=%d,sieve=%d",
			i, o.Domain, o.Net.Host(10+i), IMAPPort, LMTPPort, POP3Port, SievePort))
	}
	for _, u := range o.Users {
		args = append(args, "--user", u+":"+o.Password)
	}
	sorted, err := OrderArgs(o.Proxy)
	if err != nil {
		t.Fatal(err)
	}
	args = append(args, sorted...)
	m.cluster = harness.Start(t, harness.Options{Net: o.Net, Coordinators: 3, Frontends: 1, Args: append(args, flags...)})
	// One name with the addresses of all coordinators: a Cyrus client tries them in turn.
	name := "mupdate." + o.Domain
	o.Hosts = map[string][]string{}
	for _, id := range []string{"c1", "c2", "c3"} {
		addr := m.cluster.Addr(id, "mupdate")
		host, port, _ := strings.Cut(addr, ":")
		o.Hosts[name] = append(o.Hosts[name], host)
		o.Mupdate = name + ":" + port
		m.nodes = append(m.nodes, addr)
	}
	o.FrontendMupdate = m.cluster.Addr("f1", "mupdate")
	m.nodes = append(m.nodes, o.FrontendMupdate)
	m.imap, m.lmtp = m.cluster.Addr("f1", "imap"), m.cluster.Addr("f1", "lmtp")
	if !m.relayed {
		return
	}
	m.relays, o.MupdateOf = map[string]*dialogue.Relay{}, map[string]string{}
	for i := 1; i <= o.Backends; i++ {
		relay, err := dialogue.Listen(o.Net.Host(60+i)+":0", m.nodes[0])
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(relay.Close)
		name := fmt.Sprintf("be%d", i)
		m.relays[name], o.MupdateOf[name] = relay, relay.Addr()
	}
}

// ours skips what Cyrus cannot do.
func (m *murder) ours(t testing.TB) *harness.Cluster {
	t.Helper()
	if m.cluster == nil {
		t.Skip("needs our cluster")
	}
	return m.cluster
}

// compare asks every backend that runs whether its list and the map agree, and every node of ours
// for the same rows.
func (m *murder) compare(t testing.TB) {
	t.Helper()
	for _, n := range m.Backends() {
		if n.Running() {
			inStep(t, n)
		}
	}
	if m.cluster != nil {
		m.cluster.AwaitEqual(t)
	}
}

// session opens a MUPDATE session as administrator with one node.
func (m *murder) session(t testing.TB, addr string) *mupdateline.Conn {
	t.Helper()
	c, err := mupdateline.Login(addr, m.Admin(), m.Password())
	if err != nil {
		t.Fatalf("MUPDATE session with %s: %v", addr, err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// record is what every node says of a name; that they differ is an error.
func (m *murder) record(t testing.TB, name string) mupdateline.Row {
	t.Helper()
	var first mupdateline.Row
	for i, addr := range m.nodes {
		c := m.session(t, addr)
		row, err := c.Find(name)
		c.Close()
		if err != nil {
			t.Fatal(err)
		}
		row.Tag = ""
		if i == 0 {
			first = row
		} else if row != first {
			t.Errorf("%s: %s says %+v, %s says %+v", name, m.nodes[0], first, addr, row)
		}
	}
	return first
}

// lives checks that a name is active on a backend.
func (m *murder) lives(t testing.TB, name string, n *Node) mupdateline.Row {
	t.Helper()
	row := m.record(t, name)
	server, _, _ := strings.Cut(row.Location, "!")
	if row.Kind != "MAILBOX" || server != n.Server {
		t.Errorf("%s should live on %s, the map says %+v", name, n.Server, row)
	}
	return row
}

// gone checks that a name has no record.
func (m *murder) gone(t testing.TB, name string) {
	t.Helper()
	if row := m.record(t, name); row.Kind != "" {
		t.Errorf("%s should be gone, the map says %+v", name, row)
	}
}

// rows is the whole list of one node, by name.
func (m *murder) rows(t testing.TB, addr, prefix string) map[string]mupdateline.Row {
	t.Helper()
	c := m.session(t, addr)
	list, err := c.Do("LIST", prefix)
	c.Close()
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]mupdateline.Row{}
	for _, row := range list {
		if _, twice := rows[row.Name]; twice {
			t.Errorf("LIST of %s has %s twice", addr, row.Name)
		}
		row.Tag = ""
		rows[row.Name] = row
	}
	return rows
}

// login signs a user on to the frontend.
func (m *murder) login(t testing.TB, user string) *imapline.Conn {
	t.Helper()
	c, err := imapline.Login(m.imap, user, m.Password())
	if err != nil {
		t.Fatalf("%s on the frontend %s: %v", user, m.imap, err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// remove deletes a mailbox; administrators must take the right to do so first.
func (m *murder) remove(t testing.TB, admin *imapline.Conn, name string) {
	t.Helper()
	ok(t, admin, "SETACL %q %s lrswipkxtecda", name, m.Admin())
	ok(t, admin, "DELETE %q", name)
}

// signOn opens an IMAP session with a node for the length of the test.
func signOn(t testing.TB, n *Node, user string) *imapline.Conn {
	t.Helper()
	c, err := n.IMAP(user)
	if err != nil {
		t.Fatalf("%s on %s: %v", user, n.Name, err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func ok(t testing.TB, c *imapline.Conn, format string, args ...any) imapline.Reply {
	t.Helper()
	r, err := c.OK(format, args...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// refused sends a command that must be answered NO.
func refused(t testing.TB, c *imapline.Conn, format string, args ...any) imapline.Reply {
	t.Helper()
	r, err := c.Do(format, args...)
	if err != nil {
		t.Fatal(err)
	}
	if r.Status != "NO" {
		t.Fatalf("%s: %s %s, want NO", fmt.Sprintf(format, args...), r.Status, r.Text)
	}
	return r
}

// refusedCreate has a backend's administrator ask for a mailbox that the backend must not make.
func refusedCreate(t testing.TB, n *Node, name string) {
	t.Helper()
	r, c := ask(t, n, signOn(t, n, n.rig.Admin()), "CREATE %s", name)
	c.Close()
	if r.Status != "NO" {
		t.Fatalf("CREATE %s on %s: %s %s, want NO", name, n.Name, r.Status, r.Text)
	}
}

// ask sends a command that a backend may refuse its administrator, and returns the session to go on with: another one
// where this has ended in the one way that is known.
//
// Cyrus 3.8 and later leave the mailbox open that they take back when their MUPDATE server refuses a CREATE, whoever
// that is, and after their answer end the session over it (imapd.c, cmdloop: an assertion). The mailbox is gone all the
// same.
func ask(t testing.TB, n *Node, c *imapline.Conn, format string, args ...any) (imapline.Reply, *imapline.Conn) {
	t.Helper()
	before := n.logged(leftOpen)
	r, err := c.Do(format, args...)
	if err != nil {
		t.Fatal(err)
	}
	if r.Status == "OK" {
		return r, c
	}
	command := fmt.Sprintf(format, args...)
	if _, err = c.OK("NOOP"); err == nil {
		return r, c
	}
	if !strings.HasPrefix(command, "CREATE ") || !atLeast(t, 3, 8) {
		t.Fatalf("%s: %s %s, and %s has ended the session: %v", command, r.Status, r.Text, n.Name, err)
	}
	eventually(t, func() error {
		if n.logged(leftOpen) == before {
			return fmt.Errorf("%s has ended the session, and not over a mailbox that %s left open: %w", n.Name, command, err)
		}
		return nil
	})
	c.Close()
	if c, err = n.IMAP(n.rig.Admin()); err != nil {
		t.Fatal(err)
	}
	return r, c // the rig ends it
}

// insist is ask until the backend does as told.
func insist(t testing.TB, n *Node, c *imapline.Conn, format string, args ...any) *imapline.Conn {
	t.Helper()
	eventually(t, func() error {
		var r imapline.Reply
		if r, c = ask(t, n, c, format, args...); r.Status != "OK" {
			return fmt.Errorf("%s answers %s %s", n.Name, r.Status, r.Text)
		}
		return nil
	})
	return c
}

// leftOpen is what imapd logs before it ends.
const leftOpen = ": !open_mailboxes_exist()"

// patience is how long eventually goes on trying.
const patience = 20 * time.Second

// eventually tries until it succeeds, for what a server announces to nobody.
func eventually(t testing.TB, try func() error) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("still, after %s: %v", patience, err)
		}
	}
}

// inStep runs ctl_mboxlist -mw, which compares a backend's list with the MUPDATE server's and says
// what it would change: nothing.
func inStep(t testing.TB, n *Node) {
	t.Helper()
	out, err := n.Exec("ctl_mboxlist", "-m", "-w")
	if err != nil || strings.TrimSpace(out) != "" {
		t.Errorf("ctl_mboxlist -mw on %s: %v\n%s", n.Name, err, out)
	}
}

// push runs ctl_mboxlist -m, which tells the MUPDATE server all that differs.
func (m *murder) push(t testing.TB, n *Node) {
	t.Helper()
	if out, err := n.Exec("ctl_mboxlist", "-m"); err != nil {
		t.Errorf("ctl_mboxlist -m on %s: %v\n%s", n.Name, err, out)
	}
}

// deliver gives the frontend one message for a user and returns its answer. The message has an id:
// Cyrus would make one of the time and its process's number, which is the same after a restart in a
// process namespace of its own, and take the next message for a duplicate.
func (m *murder) deliver(t testing.TB, user, subject string) lmtpline.Reply {
	t.Helper()
	c, err := lmtpline.Dial(m.lmtp)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	replies, err := c.Deliver(fmt.Sprintf("Message-ID: <%d@client.test>\r\nSubject: %s\r\n\r\nhello\r\n", time.Now().UnixNano(), subject), user)
	if err != nil {
		t.Fatal(err)
	}
	return replies[0]
}

// arrives checks that mail for a user is delivered.
func (m *murder) arrives(t testing.TB, user, subject string) {
	t.Helper()
	if r := m.deliver(t, user, subject); r.Code != 250 {
		t.Errorf("mail for %s: %s, want it delivered", user, r)
	}
}

// waits checks that mail for a user is deferred: neither taken nor returned to its sender.
func (m *murder) waits(t testing.TB, user string) {
	t.Helper()
	if r := m.deliver(t, user, "deferred"); r.Code/100 != 4 {
		t.Errorf("mail for %s: %s, want it deferred", user, r)
	}
}

// holds checks that a backend itself has a user's inbox with so many messages. It asks the backend,
// whatever the map says.
func holds(t testing.TB, n *Node, user string, messages int) {
	t.Helper()
	c := signOn(t, n, user)
	defer c.Close()
	if r := ok(t, c, "STATUS INBOX (MESSAGES)"); !contains(r.Lines, fmt.Sprintf("MESSAGES %d)", messages)) {
		t.Errorf("%s holds of %s: %q, want %d messages", n.Name, user, r.Lines, messages)
	}
}

// history checks that what happened to a name is known to the operator.
func (m *murder) history(t testing.TB, name, kind string) {
	t.Helper()
	eventually(t, func() error {
		var events []operator.Event
		if err := m.ctl(&events, "mailbox", "history", name); err != nil {
			return err
		}
		for _, e := range events {
			if e.Kind == kind {
				return nil
			}
		}
		return fmt.Errorf("the history of %s has no %q: %+v", name, kind, events)
	})
}

// ctl asks murderctl at a coordinator that runs.
func (m *murder) ctl(answer any, args ...string) error {
	at, err := m.cluster.Leader(context.Background())
	if err != nil {
		return err
	}
	return m.cluster.MurderctlJSON(context.Background(), at, answer, args...)
}

// doctor checks that `murderctl doctor` names what is wrong with a mailbox, and a command that helps.
func (m *murder) doctor(t testing.TB, name, kind string) {
	t.Helper()
	at, err := m.cluster.Leader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out, err := m.cluster.Murderctl(t.Context(), at, "doctor", "-o", "json")
	if err == nil {
		t.Errorf("murderctl doctor is content although %s needs somebody", name)
	}
	var found []operator.Finding
	if err := json.Unmarshal(out, &found); err != nil {
		t.Fatalf("murderctl doctor: %v in %q", err, out)
	}
	i := slices.IndexFunc(found, func(f operator.Finding) bool { return f.Subject == name && f.Kind == kind })
	if i < 0 || !strings.Contains(found[i].Next, "murderctl mailbox") {
		t.Errorf("murderctl doctor does not help with the %s of %s: %+v", kind, name, found)
	}
}

// repair lets murderctl change the map.
func (m *murder) repair(t testing.TB, args ...string) {
	t.Helper()
	var plan operator.RepairPlan
	if err := m.ctl(&plan, append(append([]string{"mailbox"}, args...), "--yes")...); err != nil {
		t.Errorf("murderctl mailbox %q: %v", args, err)
	}
}

// rigMupdate is the MUPDATE server that backends are told.
func (m *murder) rigMupdate() string { return m.Node("be1").mupdate() }
