package cyrus

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"murder/test/loopback"
)

// Ports of every node, on its own address.
const (
	IMAPPort        = 143
	POP3Port        = 110
	LMTPPort        = 2003 // asks for a sign-on
	TrustedLMTPPort = 2004 // lmtpd -a
	SievePort       = 4190
	MupdatePort     = 3905
)

// Options say what a rig holds. The zero value is two backends that belong to no Murder.
type Options struct {
	Net       *loopback.Net // nil: the rig claims its own
	Backends  int           // be1 .., 2 if zero
	Frontends int           // fe1 ..
	Master    bool          // Cyrus's own MUPDATE server, node "mupdate"

	// Mupdate is the host:port that backends are told, and FrontendMupdate, if not empty, the one
	// for frontends. With Master they default to it.
	Mupdate, FrontendMupdate string
	// MupdateOf is another one for single nodes, by their names.
	MupdateOf map[string]string
	// LoginOf is another identity than Proxy towards it, with the same password, by names of nodes.
	LoginOf map[string]string

	Admin    string   // default cyrus
	Proxy    string   // the nodes' identity towards each other and MUPDATE; default murder
	Password string   // of every account; default labpass
	Users    []string // default u1 .. u9

	// Unix names mailboxes as users of unixhierarchysep and altnamespace know them: user/u1/folder.
	Unix bool

	// Unified makes every backend a frontend as well (mupdate_config: unified), with a slave of its own.
	Unified bool

	NoPush bool                // no ctl_mboxlist -m at the start of a backend
	Conf   map[string][]string // further imapd.conf lines, by node; "" for every node

	// Domain ends the names of nodes, be1.<Domain>; default "rig.test".
	Domain string
	// Hosts are further names for the nodes' view, with their addresses.
	Hosts map[string][]string
}

// Rig is a set of running Cyrus servers.
type Rig struct {
	Dir     string
	options Options
	net     *loopback.Net
	view    view
	log     *collector
	nodes   []*Node
}

// Start starts a rig and ends it with the test. When the test has failed, the end of every node's
// log is shown.
func Start(t testing.TB, o Options) *Rig {
	t.Helper()
	Require(t)
	r, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, n := range r.nodes {
				t.Logf("log of %s, last lines:\n%s", n.Name, n.tail(40))
			}
		}
		r.Close()
	})
	if err := r.StartAll(); err != nil {
		t.Fatal(err)
	}
	return r
}

// New prepares a rig; no server runs yet. Close removes all that it made.
func New(o Options) (_ *Rig, err error) {
	defaults(&o)
	r := &Rig{options: o, net: o.Net}
	if r.net == nil {
		if r.net, err = loopback.Claim(); err != nil {
			return nil, err
		}
	}
	defer func() {
		if err != nil {
			r.Close()
		}
	}()
	// Not testing.T.TempDir: the user cyrus must get in, and sockets allow short paths only.
	if r.Dir, err = os.MkdirTemp("", "cyrus"); err != nil {
		return nil, err
	}
	if err = os.Chmod(r.Dir, 0o755); err != nil {
		return nil, err
	}
	add := func(k kind, name string, last int) {
		n := &Node{Name: name, Server: name + "." + o.Domain, Host: r.net.Host(last), kind: k, rig: r,
			dir: filepath.Join(r.Dir, name)}
		r.nodes = append(r.nodes, n)
	}
	if o.Master {
		add(master, "mupdate", 10)
	}
	for i := 1; i <= o.Backends; i++ {
		add(backend, "be"+strconv.Itoa(i), 10+i)
	}
	for i := 1; i <= o.Frontends; i++ {
		add(frontend, "fe"+strconv.Itoa(i), 30+i)
	}
	var hosts strings.Builder
	for _, n := range r.nodes {
		fmt.Fprintf(&hosts, "%s %s %s\n", n.Host, n.Server, n.Name)
	}
	for name, addrs := range o.Hosts {
		for _, a := range addrs {
			fmt.Fprintf(&hosts, "%s %s\n", a, name)
		}
	}
	services := fmt.Sprintf("imap %d/tcp\npop3 %d/tcp\nlmtp %d/tcp\nsieve %d/tcp\nmupdate %d/tcp\n",
		IMAPPort, POP3Port, LMTPPort, SievePort, MupdatePort)
	if r.view, err = newView(r.Dir, services, hosts.String()); err != nil {
		return nil, err
	}
	if r.log, err = newCollector(r.view.logSocket(), filepath.Join(r.Dir, "syslog")); err != nil {
		return nil, err
	}
	for _, n := range r.nodes {
		if err = n.configure(); err != nil {
			return nil, fmt.Errorf("configuring %s: %w", n.Name, err)
		}
	}
	return r, nil
}

func defaults(o *Options) {
	if o.Backends == 0 {
		o.Backends = 2
	}
	text := func(p *string, value string) {
		if *p == "" {
			*p = value
		}
	}
	text(&o.Admin, "cyrus")
	text(&o.Proxy, "murder")
	text(&o.Password, "labpass")
	text(&o.Domain, "rig.test")
	if o.Users == nil {
		for i := 1; i <= 9; i++ {
			o.Users = append(o.Users, "u"+strconv.Itoa(i))
		}
	}
}

// StartAll starts the master, then the backends, then the frontends, and returns when all answer.
func (r *Rig) StartAll() error {
	for _, k := range []kind{master, backend, frontend} {
		var started []*Node
		for _, n := range r.nodes {
			if n.kind == k && !n.Running() {
				if err := n.launch(); err != nil {
					return err
				}
				started = append(started, n)
			}
		}
		for _, n := range started {
			if err := n.await(); err != nil {
				return err
			}
		}
	}
	return nil
}

// Node returns a node by its name: be1, fe1, mupdate. It panics if the rig has no such node.
func (r *Rig) Node(name string) *Node {
	for _, n := range r.nodes {
		if n.Name == name {
			return n
		}
	}
	panic("the rig has no node " + name)
}

// Backends returns be1, be2 ..
func (r *Rig) Backends() []*Node {
	var all []*Node
	for _, n := range r.nodes {
		if n.kind == backend {
			all = append(all, n)
		}
	}
	return all
}

// Close kills every node and removes the rig's directory.
func (r *Rig) Close() {
	for _, n := range r.nodes {
		n.Kill()
	}
	if r.log != nil {
		r.log.close()
	}
	if r.Dir != "" && os.Getenv("MURDER_KEEP") == "" {
		os.RemoveAll(r.Dir)
	}
	if r.options.Net == nil && r.net != nil {
		r.net.Release()
	}
}

// Password is that of every account.
func (r *Rig) Password() string { return r.options.Password }

// Admin is the administrator's account.
func (r *Rig) Admin() string { return r.options.Admin }

// Addr joins a node's host and a port.
func (n *Node) Addr(port int) string { return net.JoinHostPort(n.Host, strconv.Itoa(port)) }
