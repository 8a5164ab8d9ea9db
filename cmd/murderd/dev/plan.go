package dev

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"murder/internal/auth"
	"murder/internal/config"
	"murder/internal/tlsconf"
)

// Ports of every node; clusterPort is for nodes only.
var ports = map[string]int{
	"cluster": 7401, "gossip": 7402, "mupdate": 3905, "imap": 1143, "imaps": 1993, "lmtp": 2003, "pop3": 1110, "sieve": 4190,
	"socketmap": 7404, "http": 7403,
}

// Where each kind of node begins among the addresses of the net.
const (
	firstCoordinator = 1
	firstFrontend    = 21
	firstBackend     = 41
)

// A node is one process that is to run.
type node struct {
	id       string
	role     string   // of the configuration; "" for a demo backend
	services []string // by name, in the order in which they are shown
	addr     map[string]string
	args     []string // of murderd
	config   string   // file
	socket   string   // admin
	log      string
}

// listens takes over what --set has changed: other addresses, or none for a service.
func (n *node) listens(c *config.Config) {
	for service, addrs := range map[string][]string{
		"cluster": {c.Cluster.Listen}, "gossip": {c.Gossip.Listen}, "http": {c.Admin.Listen}, "mupdate": c.MUPDATE.Listen, "imap": c.IMAP.Listen,
		"imaps": c.IMAP.ListenTLS, "lmtp": c.LMTP.Listen, "pop3": c.POP3.Listen, "sieve": c.Sieve.Listen,
		"socketmap": c.Socketmap.Listen,
	} {
		if len(addrs) > 0 && addrs[0] != "" {
			n.addr[service] = addrs[0]
			continue
		}
		delete(n.addr, service)
		n.services = slices.DeleteFunc(n.services, func(s string) bool { return s == service })
	}
}

func (n *node) host() string {
	for _, a := range n.addr {
		host, _, _ := net.SplitHostPort(a)
		return host
	}
	return ""
}

// plan is what is to run, and where.
type plan struct {
	o       *Options
	net     *addresses
	nodes   []*node // coordinators, frontends, demo backends
	servers []Backend
	sockets string // directory of admin sockets
	remove  bool   // sockets is a temporary directory
}

// addresses gives every node a place of its own.
type addresses struct {
	prefix string
	single bool // there is one loopback address only, so the ports count up
	count  int
}

// newAddresses finds out whether the system has the whole of 127.0.0.0/8.
func newAddresses(prefix string) (*addresses, error) {
	if ip := net.ParseIP(prefix + ".1"); ip == nil || ip.To4() == nil {
		return nil, fmt.Errorf("--net %s: want the first three parts of an address, such as 127.91.1", prefix)
	}
	ln, err := net.Listen("tcp", prefix+".1:0")
	if err == nil {
		ln.Close()
		return &addresses{prefix: prefix}, nil
	}
	if errors.Is(err, syscall.EADDRNOTAVAIL) && strings.HasPrefix(prefix, "127.") {
		return &addresses{single: true}, nil
	}
	return nil, fmt.Errorf("--net %s: %w; choose addresses that this machine has", prefix, err)
}

// next returns where the services of one more node listen. last is the address's last part.
func (a *addresses) next(last int, services []string) map[string]string {
	const stride = 4 // the smallest that keeps the ports of all nodes apart
	host, shift := a.prefix+"."+strconv.Itoa(last), 0
	if a.single {
		host, shift = "127.0.0.1", stride*a.count
	}
	a.count++
	addr := map[string]string{}
	for _, s := range services {
		addr[s] = net.JoinHostPort(host, strconv.Itoa(ports[s]+shift))
	}
	return addr
}

// maxSocket is the longest path of a unix socket that every system takes.
const maxSocket = 100

func newPlan(o *Options) (*plan, error) {
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, err
	}
	o.Dir = dir
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	p := &plan{o: o, sockets: dir}
	if p.net, err = newAddresses(o.Net); err != nil {
		return nil, err
	}
	if len(filepath.Join(dir, "c99.sock")) > maxSocket {
		if p.sockets, err = os.MkdirTemp("", "murder"); err != nil {
			return nil, err
		}
		p.remove = true
	}
	for i := range o.Coordinators {
		p.add(fmt.Sprintf("c%d", i+1), config.Coordinator, firstCoordinator+i, "mupdate", "http")
	}
	for i := range o.Frontends {
		p.add(fmt.Sprintf("f%d", i+1), config.Frontend, firstFrontend+i, "mupdate", "http", "imap", "imaps", "lmtp", "pop3", "sieve", "socketmap")
	}
	p.servers = slices.Clone(o.Backends)
	for i := range o.DemoBackends {
		n := p.add(fmt.Sprintf("b%d", i+1), "", firstBackend+i, "imap", "lmtp")
		b := Backend{Name: n.id, Host: n.host()}
		b.IMAP, b.LMTP = portOf(n.addr["imap"]), portOf(n.addr["lmtp"])
		p.servers = append(p.servers, b)
	}
	return p, nil
}

func portOf(addr string) int {
	_, port, _ := net.SplitHostPort(addr)
	n, _ := strconv.Atoi(port)
	return n
}

func (p *plan) add(id, role string, last int, services ...string) *node {
	n := &node{
		id: id, role: role, services: services, addr: p.net.next(last, append(slices.Clone(services), "cluster", "gossip")),
		log: filepath.Join(p.o.Dir, id+".log"),
	}
	if role == "" {
		n.config = filepath.Join(p.o.Dir, id, "backend.json")
		n.args = []string{"demo-backend", "--config", n.config}
		delete(n.addr, "cluster")
		delete(n.addr, "gossip")
	} else {
		n.config = filepath.Join(p.o.Dir, id, "murderd.toml")
		n.args = []string{"--config", n.config}
		n.socket = filepath.Join(p.sockets, id+".sock")
	}
	p.nodes = append(p.nodes, n)
	return n
}

// ofRole returns the nodes of a role.
func (p *plan) ofRole(role string) []*node {
	var list []*node
	for _, n := range p.nodes {
		if n.role == role {
			list = append(list, n)
		}
	}
	return list
}

// write makes the files that the nodes read. Data of an earlier run stays.
func (p *plan) write() error {
	if err := os.Remove(p.env()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := p.writeUsers(); err != nil {
		return err
	}
	var hosts []string
	for _, n := range p.ofRole(config.Frontend) {
		hosts = append(hosts, n.host())
	}
	if len(hosts) > 0 {
		if err := tlsconf.WriteSelfSigned(p.file("cert.pem"), p.file("key.pem"), hosts...); err != nil {
			return err
		}
	}
	for _, n := range p.nodes {
		if err := os.MkdirAll(filepath.Dir(n.config), 0o700); err != nil {
			return err
		}
		data, err := p.content(n)
		if err != nil {
			return fmt.Errorf("configuring %s: %w", n.id, err)
		}
		if err := os.WriteFile(n.config, data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (p *plan) file(name string) string { return filepath.Join(p.o.Dir, name) }
func (p *plan) env() string             { return p.file("env") }

func (p *plan) writeUsers() error {
	var b strings.Builder
	line := func(a Account, admin bool) {
		u := auth.User{Account: auth.Account{Name: a.Name, Admin: admin}, Password: "{PLAIN}" + a.Password}
		b.WriteString(u.String() + "\n")
	}
	for _, a := range p.o.Admins {
		line(a, true)
	}
	for _, a := range p.o.Users {
		line(a, false)
	}
	return os.WriteFile(p.file("users"), []byte(b.String()), 0o600)
}

// content is the configuration of a node.
func (p *plan) content(n *node) ([]byte, error) {
	if n.role == "" {
		return json.MarshalIndent(p.demoBackend(n), "", "  ")
	}
	c, err := p.configure(n)
	if err != nil {
		return nil, err
	}
	n.listens(c)
	var b bytes.Buffer
	b.WriteString("# Written by murderd dev.\n")
	if err := c.Dump(&b, true, true); err != nil {
		return nil, err
	}
	_, err = config.Parse(b.Bytes(), n.config)
	return b.Bytes(), err
}

func (p *plan) configure(n *node) (*config.Config, error) {
	o := p.o
	second := func(n time.Duration) config.Duration { return config.Duration{Duration: n * time.Second} }
	c := config.Default(n.role)
	c.Node = config.Node{ID: n.id, Role: n.role, DataDir: p.file(n.id + "/data"), DrainTimeout: second(2), Development: true}
	c.Cluster.Listen, c.Cluster.Voters, c.Cluster.PromoteAfter = n.addr["cluster"], voters(o.Coordinators), second(1)
	c.Gossip.Listen = n.addr["gossip"]
	c.Admin = config.Admin{Socket: n.socket, Listen: n.addr["http"]}
	c.Users.Pause = config.Duration{}
	// What the laboratory's Cyrus servers are set to, and Debian's.
	c.Namespace.Alt, c.Namespace.UnixHierarchy = false, false
	c.MUPDATE.Listen = []string{n.addr["mupdate"]}
	c.MUPDATE.Identities = p.identities()
	c.Backends.Default.TLS, c.Backends.Default.Verify = "none", "none"
	c.Backends.Default.Authname, c.Backends.Default.Password = o.Proxy.Name, o.Proxy.Password
	c.Backends.Servers = map[string]config.Backend{}
	for _, b := range p.servers {
		c.Backends.Servers[b.Name] = config.Backend{Host: b.Host, IMAP: b.IMAP, LMTP: b.LMTP, POP3: b.POP3, Sieve: b.Sieve}
	}
	if n.role == config.Frontend {
		c.TLS.CertFile, c.TLS.KeyFile = p.file("cert.pem"), p.file("key.pem")
		c.Users.File = p.file("users")
		c.IMAP.Listen, c.IMAP.ListenTLS = []string{n.addr["imap"]}, []string{n.addr["imaps"]}
		c.POP3.Listen, c.POP3.ListenTLS = []string{n.addr["pop3"]}, nil
		c.Sieve.Listen = []string{n.addr["sieve"]}
		c.LMTP.Listen = []string{n.addr["lmtp"]}
		c.Socketmap.Listen = []string{n.addr["socketmap"]}
		c.Socketmap.ProxyTransport = "lmtp:inet:" + n.addr["lmtp"]
	}
	return c, o.apply(n.id, c)
}

// voters is the largest target that so many coordinators reach.
func voters(coordinators int) int {
	switch {
	case coordinators >= 5:
		return 5
	case coordinators >= 3:
		return 3
	}
	return 1
}

func (p *plan) identities() map[string]config.Identity {
	list := map[string]config.Identity{}
	for _, a := range p.o.MUPDATEReaders {
		list[a.Name] = config.Identity{Password: a.Password, Role: "reader"}
	}
	for _, b := range p.o.MUPDATEBackends {
		list[b.Name] = config.Identity{Password: b.Password, Role: "backend", Servers: b.Servers}
	}
	list[p.o.Proxy.Name] = config.Identity{Password: p.o.Proxy.Password, Role: "backend"}
	for _, a := range p.o.Admins {
		list[a.Name] = config.Identity{Password: a.Password, Role: "admin"}
	}
	return list
}

// DemoBackend is the configuration file of `murderd demo-backend`.
type DemoBackend struct {
	Name     string            `json:"name"`
	IMAP     string            `json:"imap"`
	LMTP     string            `json:"lmtp"`
	MUPDATE  []string          `json:"mupdate"` // addresses, tried in order
	Login    Account           `json:"login"`   // there
	Admins   map[string]string `json:"admins"`
	Users    map[string]string `json:"users"`
	Alt      bool              `json:"altnamespace"`
	Dot      bool              `json:"dot"`
	LogLevel string            `json:"log_level"`
}

func (p *plan) demoBackend(n *node) DemoBackend {
	d := DemoBackend{Name: n.id, IMAP: n.addr["imap"], LMTP: n.addr["lmtp"], Login: p.o.Proxy, Dot: true, LogLevel: "info",
		Admins: map[string]string{p.o.Proxy.Name: p.o.Proxy.Password}, Users: map[string]string{}}
	for _, c := range p.ofRole(config.Coordinator) {
		d.MUPDATE = append(d.MUPDATE, c.addr["mupdate"])
	}
	for _, a := range p.o.Admins {
		d.Admins[a.Name] = a.Password
	}
	for _, a := range p.o.Users {
		d.Users[a.Name] = a.Password
	}
	// Names must look the same on all servers.
	for _, f := range p.ofRole(config.Frontend) {
		if c, err := p.configure(f); err == nil {
			d.Alt, d.Dot = c.Namespace.Alt, !c.Namespace.UnixHierarchy
		}
	}
	return d
}

// shell writes the assignments of DIR/env.
func (p *plan) shell(pids map[string]int) []byte {
	var b bytes.Buffer
	set := func(n *node, key, value string) {
		fmt.Fprintf(&b, "%s_%s='%s'\n", strings.ToUpper(n.id), key, strings.ReplaceAll(value, "'", `'\''`))
	}
	for _, n := range p.nodes {
		set(n, "PID", strconv.Itoa(pids[n.id]))
		for _, service := range slices.Sorted(maps.Keys(n.addr)) {
			set(n, strings.ToUpper(service), n.addr[service])
		}
		set(n, "CONFIG", n.config)
		set(n, "LOG", n.log)
		if n.socket != "" {
			set(n, "ADMIN", n.socket)
		}
	}
	return b.Bytes()
}
