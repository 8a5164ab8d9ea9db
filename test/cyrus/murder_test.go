//go:build cyrus

package cyrus

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"murder/test/harness"
	"murder/test/imapline"
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
	down    bool // a story that leaves servers out of step does not end with the comparison
}

// newMurder starts it. When the story is over, every backend is compared with the map.
func newMurder(t *testing.T, o Options, flags ...string) *murder {
	t.Helper()
	Require(t)
	n, err := loopback.Claim()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Release() })
	defaults(&o)
	o.Net = n
	m := &murder{}
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

// rigMupdate is the MUPDATE server that backends are told.
func (m *murder) rigMupdate() string { return m.Node("be1").mupdate() }
