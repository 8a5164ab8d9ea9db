package config

import (
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// option takes over one option of an imapd.conf, or says why not.
func (t *translation) option(o Option) {
	c, v := t.in.Config, o.Value
	ns := &c.Namespace
	truth := map[string]*bool{
		"altnamespace": &ns.Alt, "unixhierarchysep": &ns.UnixHierarchy, "crossdomains": &ns.CrossDomains,
		"allowplaintext": &c.Users.AllowPlaintext, "specialusealways": &c.IMAP.SpecialUse, "popsubfolders": &c.POP3.Subfolders,
		"sieve_allowreferrals": &c.Sieve.Referrals, "soft_noauth": &c.LMTP.SoftNoAuth, "lmtp_downcase_rcpt": &c.LMTP.Downcase,
		"lmtp_fuzzy_mailbox_match": &c.LMTP.Fuzzy,
	}
	text := map[string]*string{
		"userprefix": &ns.UserPrefix, "sharedprefix": &ns.SharedPrefix, "altprefix": &ns.AltPrefix, "defaultdomain": &ns.DefaultDomain,
		"deletedprefix": &ns.DeletedPrefix, "postuser": &c.LMTP.PostUser, "lmtp_catchall_mailbox": &c.LMTP.Catchall,
		"proxy_authname":  &c.Backends.Default.Authname,
		"tls_server_cert": &c.TLS.CertFile, "tls_cert_file": &c.TLS.CertFile, "tls_server_key": &c.TLS.KeyFile, "tls_key_file": &c.TLS.KeyFile,
		"tls_client_ca_file": &c.TLS.ClientCAFile, "tls_ca_file": &c.TLS.ClientCAFile, "servername": &c.IMAP.Hostname,
		"serverlist_select_mode": &c.IMAP.Placement,
	}
	list := map[string]*[]string{
		"admins": &c.Users.Admins, "lmtp_admins": &c.LMTP.Admins, "serverlist": &c.IMAP.PlaceOn, "suppress_capabilities": &c.IMAP.Suppress,
		"proxyservers": &c.Users.Proxies,
	}
	number := map[string]*int{"maxlogins_per_user": &c.IMAP.MaxPerUser, "maxlogins_per_host": &c.IMAP.MaxPerAddress,
		"serverlist_select_soft_usage_limit": &c.IMAP.FullAt}
	span := map[string]struct {
		to   *Duration
		unit time.Duration // of a number without one
	}{
		"timeout": {&c.IMAP.IdleTimeout, time.Minute}, "poptimeout": {&c.POP3.IdleTimeout, time.Minute}, "failedloginpause": {&c.Users.Pause, time.Second},
	}
	switch {
	case truth[o.Key] != nil:
		b, ok := cyrusBool(v)
		if !ok {
			t.left(o, "neither yes nor no")
			return
		}
		*truth[o.Key] = b
	case text[o.Key] != nil:
		*text[o.Key] = v
	case list[o.Key] != nil:
		*list[o.Key] = strings.Fields(v)
	case number[o.Key] != nil:
		n, err := strconv.Atoi(v)
		if err != nil {
			t.left(o, "not a number")
			return
		}
		*number[o.Key] = n
	case span[o.Key].to != nil:
		d, ok := cyrusSpan(v, span[o.Key].unit)
		if !ok {
			t.left(o, "no duration that is understood")
			return
		}
		*span[o.Key].to = Duration{d}
	case o.Key == "virtdomains":
		ns.VirtDomains = v != "off" && v != "no" && v != "0"
		if v == "on" || v == "yes" || v == "1" {
			t.left(o, "domains by the address of the connection are not supported, taken as userid")
		}
	case o.Key == "proxy_password":
		t.in.Config.Backends.Default.PasswordFile = t.secret("backends", v)
	case o.Key == "maxmessagesize":
		n, ok := cyrusSize(v)
		if !ok {
			t.left(o, "no size that is understood")
			return
		}
		c.IMAP.MaxMessage, c.LMTP.MaxMessage = n, n
	case o.Key == "sasl_mech_list":
		c.Users.Mechs = strings.Fields(v)
	case o.Key == "sasl_pwcheck_method":
		if v == "saslauthd" {
			c.Users.Saslauthd = "/run/saslauthd/mux"
			return
		}
		t.left(o, "passwords come from users.file or saslauthd: make the file with murderctl user add")
	case o.Key == "sasl_saslauthd_path":
		c.Users.Saslauthd = v
	case o.Key == "auth_mech" && v == "unix":
		c.Users.GroupsFile = "/etc/group"
	case o.Key == "tls_server_ca_file":
	case o.Key == "mupdate_config" && v != "standard":
		t.left(o, "only standard is supported: the machines of a "+v+" murder must become backends and frontends first")
	case slices.Contains(cyrusNotNeeded, o.Key), strings.HasPrefix(o.Key, "partition-"), strings.HasPrefix(o.Key, "metapartition-"):
	case cyrusLost[o.Key] != "" && cyrusOff(v):
	case t.perBackend(o):
	default:
		why := cyrusLost[o.Key]
		if why == "" {
			why = "no counterpart here"
		}
		t.left(o, why)
	}
}

// cyrusNotNeeded are options that say how Cyrus itself works, or what follows from the cluster.
var cyrusNotNeeded = []string{
	"configdirectory", "defaultpartition", "mupdate_config", "mupdate_server", "mupdate_port", "mupdate_authname", "mupdate_username",
	"mupdate_password", "mupdate_realm", "mupdate_retry_delay", "mupdate_connections_max", "mupdate_workers_maxspare", "mupdate_workers_minspare",
	"mupdate_workers_start", "mupdate_workers_max", "mboxlist_db", "mboxlist_db_path", "proc_path", "mboxname_lockpath", "tls_sessions_db",
	"tls_session_timeout", "ptscache_db", "duplicate_db", "statuscache_db", "syslog_prefix", "syslog_facility", "umask", "lmtpsocket", "idlesocket",
	"notifysocket", "sasl_auto_transition", "improved_mboxlist_sort", "hashimapspool", "fulldirhash", "sieveusehomedir", "sievedir", "allowapop",
	"popminpoll", "proxyd_disable_mailbox_referrals", "proxy_compress", "client_timeout",
}

// cyrusLost says what to do about options that cannot be taken over.
var cyrusLost = map[string]string{
	"proxyd_allow_status_referral": "referrals are not given",
	"allowanonymouslogin":          "anonymous logins are not possible",
	"username_tolower":             "names of users are folded as the sources of accounts do it",
	"loginrealms":                  "realms are not supported: virtdomains is",
	"autocreate_quota":             "see imap.autocreate",
	"autocreate_post":              "see lmtp.unknown_user_backend",
	"proxy_realm":                  "write it into backends.default.authname as name@realm",
	"force_sasl_client_mech":       "see backends.default.mechs",
	"allowusermoves":               "moves are made on the backends",
	"sasl_minimum_layer":           "TLS is always asked for unless allow_plaintext is set",
}

func (t *translation) left(o Option, why string) {
	value := o.Value
	if strings.Contains(o.Key, "password") {
		value = "..."
	}
	t.note("%s:%d: %s: %s: %s", o.File, o.Line, o.Key, value, why)
}

// perBackend takes over SHORTHOST_password and its like. The short name is all that Cyrus gives, and
// the name in the map is longer.
func (t *translation) perBackend(o Option) bool {
	host, kind, ok := strings.Cut(o.Key, "_")
	if !ok || !slices.Contains([]string{"password", "mechs"}, kind) {
		return false
	}
	c := t.in.Config
	if c.Backends.Servers == nil {
		c.Backends.Servers = map[string]Backend{}
	}
	b, seen := c.Backends.Servers[host]
	if kind == "password" {
		b.PasswordFile = t.secret(host, o.Value)
	} else {
		b.Mechs = strings.Fields(o.Value)
	}
	c.Backends.Servers[host] = b
	if !seen {
		t.note("%s:%d: backends.servers.%s: replace %s by the whole servername of that backend", o.File, o.Line, host, host)
	}
	return true
}

// secret gives a password a file.
func (t *translation) secret(name, value string) string {
	path := filepath.Join(t.dir, name+".password")
	t.in.Secrets[path] = value
	return path
}

// check notes what the files of Cyrus cannot say.
func (t *translation) check() {
	c := t.in.Config
	if len(c.MUPDATE.Identities) == 0 {
		t.note("mupdate.identities: Cyrus let every admin and mupdate login in; name each backend here, with its password")
	}
	if c.Serves() && c.Users.File == "" && c.Users.Saslauthd == "" {
		t.note("users.file: make one with murderctl user add, or set users.saslauthd or users.passthrough")
	}
	if c.Serves() && c.Backends.Default.Authname == "" {
		t.note("backends.default.authname: name an identity that stands in proxyservers of the backends")
	}
	for _, key := range []struct {
		name string
		here bool
	}{{"altnamespace", c.Namespace.Alt}, {"unixhierarchysep", c.Namespace.UnixHierarchy}} {
		if key.here {
			t.note("namespace.%s is on: make sure that it is on the backends too", key.name)
		}
	}
}

func cyrusBool(v string) (value, ok bool) {
	switch strings.ToLower(v) {
	case "1", "yes", "true", "on", "t", "y":
		return true, true
	case "0", "no", "false", "off", "f", "n":
		return false, true
	}
	return false, false
}

// cyrusOff recognises what nobody will miss.
func cyrusOff(v string) bool {
	b, ok := cyrusBool(v)
	return ok && !b
}

func cyrusSpan(v string, unit time.Duration) (time.Duration, bool) {
	if n, err := strconv.Atoi(v); err == nil {
		return time.Duration(n) * unit, n >= 0
	}
	if days, ok := strings.CutSuffix(v, "d"); ok {
		n, err := strconv.Atoi(days)
		return time.Duration(n) * 24 * time.Hour, err == nil
	}
	d, err := time.ParseDuration(v)
	return d, err == nil && d >= 0
}

func cyrusSize(v string) (int64, bool) {
	unit := int64(1)
	lower := strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(v), "b"), "i")
	for suffix, n := range map[string]int64{"k": 1 << 10, "m": 1 << 20, "g": 1 << 30} {
		if rest, ok := strings.CutSuffix(lower, suffix); ok {
			lower, unit = rest, n
		}
	}
	n, err := strconv.ParseInt(strings.TrimSpace(lower), 10, 64)
	return n * unit, err == nil && n >= 0
}
