package config

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// checker collects problems.
type checker struct{ problems Problems }

func (k *checker) add(key, hint, format string, args ...any) {
	k.problems = append(k.problems, Problem{Key: key, Hint: hint, Message: fmt.Sprintf(format, args...)})
}

func (k *checker) oneOf(key, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		last := len(allowed) - 1
		k.add(key, "", "%q is not possible: want %s or %s", value, strings.Join(allowed[:last], ", "), allowed[last])
	}
}

func (k *checker) atLeast(key string, value, least int) {
	if value < least {
		k.add(key, "", "%d is too small: want %d or more", value, least)
	}
}

// address checks host:port; a path is allowed where unix sockets are.
func (k *checker) address(key, value string, unix bool) {
	if unix && strings.HasPrefix(value, "/") {
		return
	}
	_, port, err := net.SplitHostPort(value)
	if n, convErr := strconv.Atoi(port); err != nil || convErr != nil || n < 0 || n > 65535 {
		want := `"host:port" or ":port"`
		if unix {
			want += ` or the path of a unix socket`
		}
		k.add(key, "", "%q is no address: want %s", value, want)
	}
}

func (k *checker) addresses(key string, values []string, unix bool) {
	for _, v := range values {
		k.address(key, v, unix)
	}
}

func (k *checker) prefixes(key string, values []string) {
	for _, v := range values {
		if _, err := ParsePrefix(v); err != nil {
			k.add(key, "", "%q is no address: want one like 10.0.0.5 or a prefix like 10.0.0.0/24", v)
		}
	}
}

// readable checks that a file named by a key can be read.
func (k *checker) readable(key, file string) {
	if file == "" {
		return
	}
	f, err := os.Open(file)
	if err != nil {
		k.add(key, "create it, or correct the path", "cannot read %s: %v", file, underlying(err))
		return
	}
	f.Close()
}

// directory checks that a key names a directory.
func (k *checker) directory(key, dir string) {
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		k.add(key, "create it, or correct the path", "cannot use %s: %v", dir, underlying(err))
	case !info.IsDir():
		k.add(key, "", "%s is no directory", dir)
	}
}

func underlying(err error) error {
	if pe, ok := err.(*os.PathError); ok {
		return pe.Err
	}
	return err
}

// secret checks a pair of KEY_file and KEY.
func (k *checker) secret(prefix, file, plain string, development bool) {
	switch {
	case file != "" && plain != "":
		k.add(prefix+".password", "remove one", "stands beside password_file")
	case plain != "" && !development:
		k.add(prefix+".password", "write it into a file that only murderd can read and name that in password_file", "secrets do not belong into this file")
	}
	k.readable(prefix+".password_file", file)
}

var nodeID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// validate checks everything that can be known without starting. Files that are named must be there.
func (c *Config) validate() Problems {
	k := &checker{}
	k.oneOf("node.role", c.Node.Role, Coordinator, Frontend, Both, Agent)
	if !nodeID.MatchString(c.Node.ID) {
		k.add("node.id", "", "%q is not possible: want 1 to 63 letters, digits, \".\", \"-\" and \"_\", a letter or digit first", c.Node.ID)
	}
	if c.Node.DataDir == "" {
		k.add("node.data_dir", "name a directory that belongs to murderd alone, such as /var/lib/murder", "is empty")
	}
	c.validateCluster(k)
	if c.Backup.Dir != "" {
		k.directory("backup.dir", c.Backup.Dir)
		k.atLeast("backup.keep", c.Backup.Keep, 1)
		if c.Backup.Every.Duration < time.Minute {
			k.add("backup.every", "", "%v is too short: want 1m or more", c.Backup.Every)
		}
	}
	k.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	k.oneOf("log.format", c.Log.Format, "text", "json")
	c.validateTLS(k)
	c.validateUsers(k)
	c.validateBackends(k)
	c.validateMUPDATE(k)
	c.validateFrontends(k)
	return k.problems
}

func (c *Config) validateCluster(k *checker) {
	k.address("cluster.listen", c.Cluster.Listen, false)
	if c.Cluster.Advertise != "" {
		k.address("cluster.advertise", c.Cluster.Advertise, false)
		host, _, _ := net.SplitHostPort(c.Cluster.Advertise)
		if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
			k.add("cluster.advertise", "name this machine as other nodes reach it", "%q cannot be dialled by other nodes", c.Cluster.Advertise)
		}
	}
	if c.Gossip.Listen != "" {
		k.address("gossip.listen", c.Gossip.Listen, false)
	}
	k.oneOf("cluster.timing", c.Cluster.Timing, "lan", "lan-fast", "wan")
	if !slices.Contains([]int{1, 3, 5}, c.Cluster.Voters) {
		k.add("cluster.voters", "an even number tolerates no more failures than the odd one below it", "%d is not possible: want 1, 3 or 5", c.Cluster.Voters)
	}
	c.validateBootstrap(k)
	if a := c.Cluster.AutoFinalize; a != "now" && a != "never" {
		if d, err := time.ParseDuration(a); err != nil || d < 0 {
			k.add("cluster.auto_finalize", "", "%q is not possible: want a duration such as 24h, now or never", a)
		}
	}
	if c.Admin.Socket == "" && c.Admin.Listen == "" {
		k.add("admin.socket", "murderctl could not reach this node", "is empty, and admin.listen too")
	}
	if c.Admin.Socket != "" && (!strings.HasPrefix(c.Admin.Socket, "/") || len(c.Admin.Socket) > 100) {
		k.add("admin.socket", "", "%q is no path of a socket: want an absolute path of at most 100 octets", c.Admin.Socket)
	}
	if c.Admin.Listen != "" {
		k.address("admin.listen", c.Admin.Listen, false)
	}
}

func (c *Config) validateBootstrap(k *checker) {
	n, peers := c.Cluster.BootstrapExpect, c.Cluster.BootstrapPeers
	switch {
	case n == 0 && len(peers) == 0:
		return
	case !slices.Contains([]int{1, 3, 5}, n):
		k.add("cluster.bootstrap_expect", "an even number tolerates no more failures than the odd one below it", "%d is not possible: want 1, 3 or 5", n)
	case n != len(peers):
		k.add("cluster.bootstrap_peers", "name all coordinators, this one too", "names %d coordinators, and cluster.bootstrap_expect is %d", len(peers), n)
	}
	for _, p := range peers {
		k.address("cluster.bootstrap_peers", p, false)
	}
	if c.Cluster.BootstrapSecret == "" {
		k.add("cluster.bootstrap_secret_file", "\"openssl rand -hex 32\" makes a secret; the same on every node", "is not set")
	}
	k.readable("cluster.bootstrap_secret_file", c.Cluster.BootstrapSecret)
}

func (c *Config) validateTLS(k *checker) {
	k.oneOf("tls.min_version", c.TLS.MinVersion, "1.2", "1.3")
	if (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		k.add("tls.cert_file", "set both or none", "needs tls.key_file, and the other way round")
	}
	k.readable("tls.cert_file", c.TLS.CertFile)
	k.readable("tls.key_file", c.TLS.KeyFile)
	k.readable("tls.client_ca_file", c.TLS.ClientCAFile)
}

func (c *Config) validateUsers(k *checker) {
	if c.Serves() && c.Users.File == "" && c.Users.Saslauthd == "" && !c.Users.PassThrough {
		k.add("users.file", `"murderctl user add --file F NAME" makes one`, "nobody could log in: neither users.file nor users.saslauthd nor users.passthrough is set")
	}
	if c.Users.Saslauthd != "" && c.Users.PassThrough {
		k.add("users.passthrough", "unset one of them", "would never be asked: users.saslauthd has the last word")
	}
	k.readable("users.file", c.Users.File)
	k.readable("users.groups_file", c.Users.GroupsFile)
	k.atLeast("users.failures", c.Users.Failures, 1)
}

func (c *Config) validateBackends(k *checker) {
	c.validateBackend(k, "backends.default", c.Backends.Default, true)
	for _, name := range slices.Sorted(maps.Keys(c.Backends.Servers)) {
		c.validateBackend(k, keyPath([]string{"backends", "servers", name}), c.Backends.Servers[name], false)
	}
	if c.Serves() && c.Backends.Default.Authname == "" && len(c.Backends.Servers) == 0 {
		k.add("backends.default.authname", "name an identity that stands in proxyservers in the backends' imapd.conf", "is not set, so no backend would let us in")
	}
}

func (c *Config) validateBackend(k *checker, prefix string, b Backend, whole bool) {
	if whole || b.TLS != "" {
		k.oneOf(prefix+".tls", b.TLS, "starttls", "implicit", "none")
	}
	if whole || b.Verify != "" {
		k.oneOf(prefix+".verify", b.Verify, "ca", "name", "pin", "none")
	}
	for _, port := range []struct {
		key string
		n   int
	}{{"imap", b.IMAP}, {"lmtp", b.LMTP}, {"pop3", b.POP3}, {"sieve", b.Sieve}} {
		if port.n < 0 || port.n > 65535 {
			k.add(prefix+"."+port.key, "", "%d is no port: want 1 to 65535", port.n)
		}
	}
	if b.Bind != "" {
		if _, err := netip.ParseAddr(b.Bind); err != nil {
			k.add(prefix+".bind", "", "%q is no address: want one of this machine", b.Bind)
		}
	}
	if b.Verify == "pin" && len(b.Pins) == 0 {
		k.add(prefix+".pins", "", "is empty, but verify = \"pin\" needs one")
	}
	k.readable(prefix+".ca_file", b.CAFile)
	k.readable(prefix+".cert_file", b.CertFile)
	k.readable(prefix+".key_file", b.KeyFile)
	k.secret(prefix, b.PasswordFile, b.Password, c.Node.Development)
}

func (c *Config) validateMUPDATE(k *checker) {
	m := &c.MUPDATE
	k.addresses("mupdate.listen", m.Listen, false)
	k.addresses("mupdate.listen_tls", m.ListenTLS, false)
	if len(m.ListenTLS) > 0 && c.TLS.CertFile == "" {
		k.add("mupdate.listen_tls", "set tls.cert_file and tls.key_file", "needs a certificate")
	}
	k.prefixes("mupdate.proxies", m.Proxies)
	for _, mech := range m.Mechs {
		k.oneOf("mupdate.mechs", strings.ToUpper(mech), "SCRAM-SHA-256-PLUS", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-256", "SCRAM-SHA-1", "EXTERNAL", "PLAIN", "LOGIN")
	}
	k.oneOf("mupdate.replay", m.Replay, "suspect", "all", "off")
	k.atLeast("mupdate.max_connections", m.MaxConnections, 1)
	for _, name := range slices.Sorted(maps.Keys(m.Identities)) {
		id, prefix := m.Identities[name], keyPath([]string{"mupdate", "identities", name})
		if id.Role != "" {
			k.oneOf(prefix+".role", id.Role, "reader", "backend", "admin")
		}
		if id.Order != "" {
			k.oneOf(prefix+".order", id.Order, "dbname", "octet", "mboxsort")
		}
		if len(id.Servers) > 0 && id.Role != "backend" {
			k.add(prefix+".servers", "set role = \"backend\"", "binds only backends")
		}
		if id.Unified && (id.Role != "backend" || len(id.Servers) == 0 && !m.bindsPeers()) {
			k.add(prefix+".unified", "set role = \"backend\" and servers, here or in mupdate.peers", "needs to know which servers these are")
		}
		k.secret(prefix, id.PasswordFile, id.Password, c.Node.Development)
		if id.PasswordFile == "" && id.Password == "" && c.TLS.ClientCAFile == "" {
			k.add(prefix+".password_file", "name a file that holds the password, or set tls.client_ca_file for certificates", "is not set, so nobody could log in as %s", name)
		}
	}
	for _, prefix := range slices.Sorted(maps.Keys(m.Peers)) {
		key := keyPath([]string{"mupdate", "peers", prefix})
		if _, err := ParsePrefix(prefix); err != nil {
			k.add(key, "", "%q is no address: want one like 10.0.0.5 or a prefix like 10.0.0.0/24", prefix)
		}
		if o := m.Peers[prefix].Order; o != "" {
			k.oneOf(key+".order", o, "dbname", "octet", "mboxsort")
		}
	}
}

// bindsPeers reports whether any address is bound to servers.
func (m *MUPDATE) bindsPeers() bool {
	for _, p := range m.Peers {
		if len(p.Servers) > 0 {
			return true
		}
	}
	return false
}

func (c *Config) validateFrontends(k *checker) {
	type listener struct {
		key   string
		addrs []string
		tls   bool
	}
	k.prefixes("imap.proxies", c.IMAP.Proxies)
	k.oneOf("imap.placement", c.IMAP.Placement, "least-mailboxes", "round-robin", "random", "weighted",
		"explicit",
		"freespace-most", "freespace-percent-most", "freespace-percent-weighted", "freespace-percent-weighted-delta")
	for _, name := range slices.Sorted(maps.Keys(c.IMAP.Place)) {
		rule, key := c.IMAP.Place[name], keyPath([]string{"imap", "place", name})
		if len(rule.On) == 0 {
			k.add(key+".on", "name the backends", "is empty")
		}
		if _, err := regexp.Compile(rule.Match); err != nil {
			k.add(key+".match", "", "%v", err)
		}
	}
	c.validateLMTP(k)
	k.prefixes("pop3.proxies", c.POP3.Proxies)
	k.prefixes("sieve.proxies", c.Sieve.Proxies)
	k.addresses("socketmap.listen", c.Socketmap.Listen, true)
	k.socket("socketmap.socket", &c.Socketmap.Socket)
	for _, name := range slices.Sorted(maps.Keys(c.Socketmap.Tables)) {
		key := keyPath([]string{"socketmap", "tables", name})
		k.oneOf(key, name, "mailbox", "mailbox-strict", "transport", "transport-proxy", "backend")
		k.addresses(key+".listen", c.Socketmap.Tables[name].Listen, true)
	}
	for _, l := range []listener{
		{"imap.listen", c.IMAP.Listen, false}, {"imap.listen_tls", c.IMAP.ListenTLS, true},
		{"pop3.listen", c.POP3.Listen, false}, {"pop3.listen_tls", c.POP3.ListenTLS, true},
		{"sieve.listen", c.Sieve.Listen, false}, {"lmtp.listen_tls", c.LMTP.ListenTLS, true},
	} {
		k.addresses(l.key, l.addrs, false)
		if c.TLS.CertFile != "" || len(l.addrs) == 0 {
			continue
		}
		reachable := slices.ContainsFunc(l.addrs, func(a string) bool { return !Loopback(a) })
		switch {
		case l.tls:
			k.add(l.key, "set tls.cert_file and tls.key_file, or "+l.key+" = []", "needs a certificate")
		case reachable && !c.Users.AllowPlaintext:
			k.add(l.key, "set tls.cert_file and tls.key_file, or "+l.key+" = []", "nobody could log in without a certificate")
		}
	}
	if !c.Serves() {
		for _, l := range []listener{
			{key: "imap.listen", addrs: c.IMAP.Listen}, {key: "imap.listen_tls", addrs: c.IMAP.ListenTLS},
			{key: "pop3.listen", addrs: c.POP3.Listen}, {key: "pop3.listen_tls", addrs: c.POP3.ListenTLS},
			{key: "sieve.listen", addrs: c.Sieve.Listen},
			{key: "lmtp.listen", addrs: c.LMTP.Listen}, {key: "lmtp.listen_trusted", addrs: c.LMTP.ListenTrusted}, {key: "lmtp.listen_tls", addrs: c.LMTP.ListenTLS}, {key: "socketmap.listen", addrs: c.Socketmap.Listen},
		} {
			if len(l.addrs) > 0 {
				k.add(l.key, "set node.role to \"frontend\" or \"both\"", "a node of role %s has no mail frontends", c.Node.Role)
			}
		}
	}
}

func (c *Config) validateLMTP(k *checker) {
	l := &c.LMTP
	k.addresses("lmtp.listen", l.Listen, true)
	k.addresses("lmtp.listen_trusted", l.ListenTrusted, true)
	for _, addr := range slices.Concat(l.Listen, l.ListenTrusted, l.ListenTLS) {
		if _, port, _ := net.SplitHostPort(addr); port == "25" {
			k.add("lmtp.listen", "use 24 or 2003", "LMTP must not be served on SMTP's port (RFC 2033 section 5)")
		}
	}
	for _, addr := range l.ListenTrusted {
		if host, _, err := net.SplitHostPort(addr); err == nil && (host == "" || net.ParseIP(host).IsUnspecified()) {
			k.add("lmtp.listen_trusted", "name one address, or use lmtp.listen and lmtp.trusted_networks",
				"%q would let everybody deliver who reaches this machine", addr)
		}
	}
	k.socket("lmtp.socket", &l.Socket)
	k.atLeast("lmtp.max_per_address", l.MaxPerAddress, 1)
	k.atLeast("lmtp.max_backend_connections", l.MaxBackend, 1)
	k.atLeast("lmtp.max_spool", int(l.MaxSpool), 1<<20)
	k.oneOf("lmtp.rcpt_check", l.RcptCheck, "map", "backend")
	k.prefixes("lmtp.trusted_networks", l.TrustedNetworks)
	k.prefixes("lmtp.proxies", l.Proxies)
	k.longEnough("lmtp.idle_timeout", l.IdleTimeout)
	k.longEnough("lmtp.data_timeout", l.DataTimeout)
	k.longEnough("lmtp.handling_timeout", l.HandlingTimeout)
	k.longEnough("lmtp.envelope_timeout", l.EnvelopeTimeout)
	k.longEnough("lmtp.outcome_timeout", l.OutcomeTimeout)
}

func (k *checker) longEnough(key string, d Duration) {
	if d.Duration < time.Second {
		k.add(key, "", "%s is too short: want 1s or more", d)
	}
}

// socket checks what is said about a unix socket; who its users are is found out when it is made.
func (k *checker) socket(key string, s *Socket) {
	if _, err := s.FileMode(); err != nil {
		k.add(key+".mode", "", "%q are no permissions: want octal digits such as 0660", s.Mode)
	}
}

// FileMode returns the mode.
func (s *Socket) FileMode() (os.FileMode, error) {
	n, err := strconv.ParseUint(s.Mode, 8, 9)
	return os.FileMode(n), err
}

// Loopback reports whether only this machine reaches an address.
func Loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// ParsePrefix reads an address or a prefix.
func ParsePrefix(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	return netip.ParsePrefix(s)
}
