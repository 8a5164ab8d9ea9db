package cyrus

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// kind is what a node is to the Murder.
type kind uint8

const (
	backend kind = iota
	frontend
	master
)

// imapdConf writes a node's imapd.conf.
func (n *Node) imapdConf() string {
	var b strings.Builder
	set := func(key, format string, args ...any) {
		fmt.Fprintf(&b, "%s: %s\n", key, fmt.Sprintf(format, args...))
	}
	o := n.rig.options
	set("servername", "%s", n.Server)
	set("syslog_prefix", "%s", n.Name)
	set("cyrus_user", "cyrus")
	set("configdirectory", "%s/conf", n.dir)
	set("proc_path", "%s/run/proc", n.dir)
	set("mboxname_lockpath", "%s/run/lock", n.dir)
	set("sievedir", "%s/sieve", n.dir)
	set("defaultpartition", "default")
	set("partition-default", "%s/spool", n.dir)
	set("partition-second", "%s/spool2", n.dir)
	set("hashimapspool", "yes")
	set("unixhierarchysep", "%t", o.Unix)
	set("altnamespace", "%t", o.Unix)
	set("allowusermoves", "yes")
	set("maxlogins_per_host", "0")

	set("sasl_pwcheck_method", "auxprop")
	set("sasl_auxprop_plugin", "sasldb")
	set("sasl_sasldb_path", "%s/conf/sasldb2", n.dir)
	set("sasl_mech_list", "%s", "EXTERNAL PLAIN LOGIN SCRAM-SHA-1 SCRAM-SHA-256") // the first only where a certificate is shown
	set("allowplaintext", "yes")
	set("allowstarttls", "yes") // Cyrus 3.8.6, 3.10.2 and 3.12.1 no longer offer it of themselves
	set("failedloginpause", "0")
	set("popminpoll", "0")
	set("client_timeout", "10s")

	switch n.kind {
	case frontend:
		set("admins", "%s", o.Admin)
		set("allowsubscribes", "yes")
		set("proxyd_disable_mailbox_referrals", "yes")
	case backend:
		set("admins", "%s %s", o.Admin, o.Proxy)
		set("proxyservers", "%s", o.Proxy)
		if o.Unified {
			set("proxyd_disable_mailbox_referrals", "yes")
		}
	case master:
		set("admins", "%s %s", o.Admin, o.Proxy)
		set("mupdate_connections_max", "1024")
		set("mupdate_workers_max", "300")
		set("mupdate_workers_maxspare", "100")
	}
	if n.kind != master {
		if at := n.mupdate(); at != "" {
			set("mupdate_server", "%s", at)
			set("mupdate_config", "%s", map[bool]string{false: "standard", true: "unified"}[o.Unified])
			set("mupdate_authname", "%s", cmp.Or(o.LoginOf[n.Name], o.Proxy))
			set("mupdate_password", "%s", o.Password)
			set("mupdate_retry_delay", "2")
		}
		set("proxy_authname", "%s", o.Proxy)
		set("proxy_password", "%s", o.Password)
	}
	for _, line := range append(o.Conf[""], o.Conf[n.Name]...) {
		b.WriteString(line + "\n")
	}
	return b.String()
}

// cyrusConf writes a node's cyrus.conf. The program paths stay bare: master looks in its own place.
func (n *Node) cyrusConf() string {
	var b strings.Builder
	c := n.dir + "/imapd.conf"
	fmt.Fprintf(&b, "START {\n  recover cmd=\"ctl_cyrusdb -C %s -r\"\n", c)
	if n.kind == backend && n.mupdate() != "" && !n.rig.options.NoPush {
		fmt.Fprintf(&b, "  push cmd=\"ctl_mboxlist -C %s -m\"\n", c)
	}
	b.WriteString("}\nSERVICES {\n")
	service := func(name, program string, port, prefork int) {
		if _, err := os.Stat(filepath.Join(binDir, strings.Fields(program)[0])); err != nil {
			return // Cyrus has been built without it
		}
		fmt.Fprintf(&b, "  %s cmd=\"%s\" listen=\"%s:%d\" prefork=%d maxchild=400\n",
			name, strings.Replace(program, " ", " -C "+c+" ", 1), n.Host, port, prefork)
	}
	switch n.kind {
	case master:
		service("mupdate", "mupdate -m", MupdatePort, 1)
	case frontend:
		service("mupdate", "mupdate ", MupdatePort, 1)
	case backend:
		if o := n.rig.options; o.Unified {
			service("mupdate", "mupdate ", MupdatePort, 1)
		}
	}
	if n.kind != master {
		service("imap", "imapd ", IMAPPort, 2)
		service("pop3", "pop3d ", POP3Port, 0)
		service("lmtp", "lmtpd ", LMTPPort, 0)
		service("lmtptrusted", "lmtpd -a", TrustedLMTPPort, 0)
		service("sieve", "timsieved ", SievePort, 0)
	}
	fmt.Fprintf(&b, "}\nEVENTS {\n  checkpoint cmd=\"ctl_cyrusdb -C %s -c\" period=60\n}\n", c)
	return b.String()
}
