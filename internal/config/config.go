// Package config is the one file that configures murderd: a typed structure, its defaults, strict
// reading with positions in every message, and printing.
//
// The structure is the documentation: the doc tags become the example file and docs/config.md, so
// neither can say something else than the code. Keys that are missing keep their defaults, unknown
// keys are errors, secrets are read from files of their own.
package config

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// Roles of a node.
const (
	Coordinator = "coordinator"
	Frontend    = "frontend"
	Both        = "both"
	Agent       = "agent"
)

// DefaultFile is where murderd looks without --config, DefaultSocket where murderctl does.
const (
	DefaultFile   = "/etc/murder/murderd.toml"
	DefaultSocket = "/run/murder/admin.sock"
)

// Config is the whole file.
type Config struct {
	Node      Node      `toml:"node" doc:"Who this node is. The id must never be used for another machine."`
	Cluster   Cluster   `toml:"cluster" doc:"The port between nodes, and how the map is replicated."`
	Gossip    Gossip    `toml:"gossip" doc:"Suspicion of dead nodes. Membership never depends on it."`
	Admin     Admin     `toml:"admin" doc:"Where murderctl, health checks and metrics reach this node."`
	Backup    Backup    `toml:"backup" doc:"Copies of the map outside the cluster, made by this node. One or two coordinators are enough."`
	Log       Log       `toml:"log" doc:"What is written to standard error."`
	TLS       TLS       `toml:"tls" doc:"The certificate shown to clients. Nodes among themselves use the cluster's own."`
	Users     Users     `toml:"users" doc:"Who may log in through the frontends, and how passwords are checked."`
	Namespace Namespace `toml:"namespace" doc:"How names look to clients. It must agree with imapd.conf on the backends."`
	Backends  Backends  `toml:"backends" doc:"How backends are reached."`
	MUPDATE   MUPDATE   `toml:"mupdate" doc:"The server that Cyrus's mupdate_server points at."`
	IMAP      IMAP      `toml:"imap" doc:"The IMAP frontend."`
	POP3      POP3      `toml:"pop3" doc:"The POP3 frontend."`
	Sieve     Sieve     `toml:"sieve" doc:"The ManageSieve frontend."`
	LMTP      LMTP      `toml:"lmtp" doc:"Delivery from the MTA."`
	Socketmap Socketmap `toml:"socketmap" doc:"Look-ups by Postfix: is there such a mailbox, and where?"`
}

// Node is the identity of this process.
type Node struct {
	ID           string   `toml:"id" doc:"Name of this node in the cluster. Default: the host name up to its first dot."`
	Role         string   `toml:"role" doc:"coordinator (keeps the map), frontend (serves mail clients), both, or agent (beside a backend)."`
	DataDir      string   `toml:"data_dir" doc:"Directory of the map's copy, the log, and the keys of this node."`
	DrainTimeout Duration `toml:"drain_timeout" doc:"How long sessions may go on when the process is told to stop, or the node is drained."`
	Development  bool     `toml:"development" doc:"Marks a trial: secrets may stand in this file."`
}

// Cluster is replication.
type Cluster struct {
	Listen            string   `toml:"listen" doc:"Address of the port between nodes."`
	Advertise         string   `toml:"advertise" doc:"host:port under which other nodes reach it. Default: the host name, if listen names no address."`
	Timing            string   `toml:"timing" doc:"How soon a silent leader is replaced: lan, lan-fast or wan."`
	Voters            int      `toml:"voters" doc:"How many coordinators shall vote: 1, 3 or 5."`
	PromoteAfter      Duration `toml:"promote_after" doc:"How long a new coordinator must keep up before it votes."`
	SnapshotInterval  Duration `toml:"snapshot_interval" doc:"Time between two looks whether a snapshot of the map is due."`
	SnapshotThreshold uint64   `toml:"snapshot_threshold" doc:"A snapshot is due after this many log entries."`
	TrailingLogs      uint64   `toml:"trailing_logs" doc:"Log entries kept for nodes that were away; who is further behind gets a snapshot."`
	AutoFinalize      string   `toml:"auto_finalize" doc:"When the cluster version is raised after the last node has been upgraded: a duration, now or never (murderctl cluster finalize). Until then nodes can go back."`
	CleanupDead       bool     `toml:"cleanup_dead_servers" doc:"Remove nodes by themselves: a coordinator after a day of silence, if enough others are alive and vote; anything else after an hour. The leader's setting counts."`
	BootstrapExpect   int      `toml:"bootstrap_expect" doc:"For automation that carries no join tokens around: so many coordinators, started with the same settings, make the cluster by themselves, and every node joins it. 0: murderctl cluster init and join. A node that is a member ignores it."`
	BootstrapPeers    []string `toml:"bootstrap_peers" doc:"The advertised addresses of these coordinators, host:port. The same on every node."`
	BootstrapSecret   string   `toml:"bootstrap_secret_file" doc:"File with a secret of at least 16 octets, the same on every node. Who knows it can join."`
	ReadyTimeout      Duration `toml:"ready_timeout" doc:"How long to wait at start for a complete map before serving anyway."`
}

// Admin is the operator's side.
type Admin struct {
	Socket string `toml:"socket" doc:"Unix socket of the admin API; who can open it may do everything."`
	Listen string `toml:"listen" doc:"Address of health checks and metrics; on loopback also of the part of the admin API that changes nothing. \"\" for none."`
}

// Backup is the schedule of backups.
type Backup struct {
	Dir   string   `toml:"dir" doc:"Directory for scheduled backups; it must exist. \"\" for none. A change takes effect on SIGHUP."`
	Every Duration `toml:"every" doc:"Time between two."`
	Keep  int      `toml:"keep" doc:"How many are kept; older ones are removed."`
}

// Log is logging.
type Log struct {
	Level  string `toml:"level" doc:"debug, info, warn or error. A change takes effect on SIGHUP."`
	Format string `toml:"format" doc:"text or json."`
}

// TLS is the certificate for clients.
type TLS struct {
	CertFile     string `toml:"cert_file" doc:"Certificate and what signed it, PEM. Read again when it changes."`
	KeyFile      string `toml:"key_file" doc:"Its private key, PEM."`
	ClientCAFile string `toml:"client_ca_file" doc:"Authorities whose client certificates log in by EXTERNAL."`
	MinVersion   string `toml:"min_version" doc:"1.2 or 1.3."`
}

// Users is authentication on the frontends.
type Users struct {
	File           string   `toml:"file" doc:"Users file; murderctl user add writes it. Read again when it changes."`
	Saslauthd      string   `toml:"saslauthd" doc:"Socket of saslauthd, asked after the file. Example: /run/saslauthd/mux."`
	PassThrough    bool     `toml:"passthrough" doc:"Check passwords that the file does not know by logging in at the backend of the user's INBOX; an IMAP session goes on there, without a login of our own. Not with saslauthd, which has the last word as well."`
	GroupsFile     string   `toml:"groups_file" doc:"Groups beside those of the users file, by which ACLs may name users (group:NAME), in the form of /etc/group. Read again when it changes. Cyrus: auth_mech: unix."`
	Admins         []string `toml:"admins" doc:"Users who see all mailboxes and may act as anybody."`
	Proxies        []string `toml:"proxies" doc:"Users who may act as anybody but an administrator, such as a web mail program."`
	Mechs          []string `toml:"mechs" doc:"SASL mechanisms that may be offered. Empty: all that the sources support."`
	AllowPlaintext bool     `toml:"allow_plaintext" doc:"Let passwords cross the network in clear."`
	Pause          Duration `toml:"pause" doc:"Time from a wrong password to its refusal."`
	Failures       int      `toml:"failures" doc:"Wrong passwords at once from one address before it must wait; with MUPDATE, for one identity at one address, and 16 times as many in one IPv6 /64."`
	FailureEvery   Duration `toml:"failure_every" doc:"Time in which one more wrong password is forgiven."`
}

// Namespace is how names look.
type Namespace struct {
	Alt           bool   `toml:"altnamespace" doc:"A user's folders stand beside INBOX instead of below it. Cyrus: altnamespace, on since 3.0, but off in Debian's imapd.conf."`
	UnixHierarchy bool   `toml:"unixhierarchysep" doc:"\"/\" separates levels instead of \".\". Cyrus: unixhierarchysep, on since 3.0, but off in Debian's imapd.conf."`
	UserPrefix    string `toml:"userprefix" doc:"Where other users' folders appear with altnamespace. Cyrus: userprefix."`
	SharedPrefix  string `toml:"sharedprefix" doc:"Where shared folders appear with altnamespace. Cyrus: sharedprefix."`
	AltPrefix     string `toml:"altprefix" doc:"Where own folders appear whose names are taken otherwise. Cyrus: altprefix."`
	VirtDomains   bool   `toml:"virtdomains" doc:"User names carry a domain. Cyrus: virtdomains: userid."`
	DefaultDomain string `toml:"defaultdomain" doc:"The domain whose users are written without it. Cyrus: defaultdomain."`
	CrossDomains  bool   `toml:"crossdomains" doc:"Show mailboxes of other domains. Cyrus: crossdomains."`
	DeletedPrefix string `toml:"deletedprefix" doc:"Top of the tree of deleted mailboxes. Cyrus: deletedprefix."`
}

// Backends is how backends are reached.
type Backends struct {
	Default Backend            `toml:"default" doc:"What holds for every backend."`
	Self    string             `toml:"self" doc:"Servername that means this host itself, if the map could name it by mistake: clients are refused instead of being sent in a circle. Default: none."`
	Servers map[string]Backend `toml:"servers" doc:"One backend, by the servername that it writes into the map. Keys that are missing are those of the default. Backends need no entry if the default fits."`
}

// Backend is one backend. Zero values take over what the default says.
type Backend struct {
	Host           string   `toml:"host" doc:"Name or address to connect to. Default: the servername."`
	IMAP           int      `toml:"imap" doc:"IMAP port. Default: 143, or 993 with tls = implicit."`
	LMTP           int      `toml:"lmtp" doc:"LMTP port. Default: 2003."`
	POP3           int      `toml:"pop3" doc:"POP3 port. Default: 110, or 995 with tls = implicit."`
	Sieve          int      `toml:"sieve" doc:"ManageSieve port. Default: 4190."`
	Bind           string   `toml:"bind" doc:"Local address to connect from."`
	TLS            string   `toml:"tls" doc:"starttls, implicit or none. Cyrus 3.8.6, 3.10.2, 3.12.1 and later offer STARTTLS only with allowstarttls: yes in imapd.conf."`
	Verify         string   `toml:"verify" doc:"Which certificates are accepted: ca, name, pin or none."`
	CAFile         string   `toml:"ca_file" doc:"Authorities for verify = ca or name. Default: the system's."`
	TLSName        string   `toml:"tls_name" doc:"Name expected in the certificate. Default: the host."`
	Pins           []string `toml:"pins" doc:"SHA-256 of public keys (SPKI) in hexadecimal, for verify = pin."`
	CertFile       string   `toml:"cert_file" doc:"Our certificate towards the backend, PEM."`
	KeyFile        string   `toml:"key_file" doc:"Its key, PEM."`
	Authname       string   `toml:"authname" doc:"Our identity there; it must stand in the backend's proxyservers. Cyrus: proxy_authname."`
	PasswordFile   string   `toml:"password_file" doc:"File that holds its password."`
	Password       string   `toml:"password" doc:"Its password, for trials only (node.development)."`
	Mechs          []string `toml:"mechs" doc:"SASL mechanisms in order of preference. Default: what suits the connection."`
	AllowPlaintext bool     `toml:"allow_plaintext" doc:"Let the password cross the network in clear."`
	MaxConns       int      `toml:"max_conns" doc:"Connections at a time; 0 for no limit."`
	Drain          bool     `toml:"drain" doc:"Place no new users here."`
	Weight         int      `toml:"weight" doc:"Share of new users with placement = weighted. Default: 1."`
	Public         string   `toml:"public" doc:"Name under which clients reach the backend directly, for referrals."`
}

// MUPDATE is the MUPDATE server.
type MUPDATE struct {
	Listen            []string                `toml:"listen" doc:"Addresses, with STARTTLS if there is a certificate."`
	ListenTLS         []string                `toml:"listen_tls" doc:"Addresses with TLS from the first octet (Cyrus: mupdate_server: host:port/tls)."`
	Proxies           []string                `toml:"proxies" doc:"Load balancers, by address or prefix. Connections from there must begin with a PROXY header (haproxy: send-proxy-v2), and count as coming from the client that it names."`
	ServerName        string                  `toml:"server_name" doc:"Name in the greeting. Default: the host name."`
	Upstream          string                  `toml:"upstream" doc:"Name of the cluster in the greeting of frontends and agents."`
	Mechs             []string                `toml:"mechs" doc:"SASL mechanisms that may be offered. Empty: all but the -PLUS forms, which Cyrus cannot use."`
	AllowPlaintext    bool                    `toml:"allow_plaintext" doc:"Let passwords cross the network in clear."`
	AllowProxy        bool                    `toml:"allow_proxy" doc:"Accept an authorization identity that differs from the login."`
	ReadOnly          bool                    `toml:"read_only" doc:"Refuse writes here, as a Cyrus slave does."`
	StrictRFC         bool                    `toml:"strict_rfc" doc:"The replies of RFC 3656 where Cyrus's differ."`
	DenyUnknownDelete bool                    `toml:"deny_unknown_delete" doc:"Refuse DELETE of a name that does not exist."`
	DenyUnboundDelete bool                    `toml:"deny_unbound_delete" doc:"Refuse DELETE from a session whose server is not known."`
	CompleteTransfer  bool                    `toml:"complete_transfer" doc:"Let a backend in sync (ctl_mboxlist -m) take what another one has begun to move to it. Off, an operator decides."`
	NoopStrict        bool                    `toml:"noop_strict" doc:"Close a stream whose NOOP finds no leader, instead of going on with this copy."`
	Replay            string                  `toml:"replay" doc:"Records that a stream repeats after its dump, because a Cyrus frontend may have dropped them: suspect, all or off. It takes all for a frontend that may have been away for more than a week."`
	ConflictBrake     int                     `toml:"conflict_brake" doc:"Names of one other server that a backend in sync asks for before an alarm and, in permissive mode, a refusal: it may have been renamed. -1 for never."`
	MaxConnections    int                     `toml:"max_connections" doc:"Connections at a time. Beyond it a new one takes the place of who has not logged in for five seconds, or is refused."`
	LoginTimeout      Duration                `toml:"login_timeout" doc:"Time from connect to login."`
	IdleTimeout       Duration                `toml:"idle_timeout" doc:"Time without a command; at least 15m."`
	CommandTimeout    Duration                `toml:"command_timeout" doc:"By when a command is answered."`
	Identities        map[string]Identity     `toml:"identities" doc:"One login of backends, frontends or operators, by name."`
	Peers             map[string]PeerSettings `toml:"peers" doc:"What is known about clients by their address, for logins shared by many: an address or prefix. The longest that fits counts."`
}

// Identity is one MUPDATE login.
type Identity struct {
	PasswordFile string   `toml:"password_file" doc:"File that holds the password."`
	Password     string   `toml:"password" doc:"The password, for trials only (node.development). Without any password the identity logs in by its certificate alone (EXTERNAL, tls.client_ca_file)."`
	Role         string   `toml:"role" doc:"reader (look-ups and streams), backend (also writes, for its servers), or admin. Default: reader."`
	Servers      []string `toml:"servers" doc:"Servernames that a backend may write for. Empty: any."`
	Takeover     bool     `toml:"takeover" doc:"May take over records of other servers (planned failover of a backend)."`
	Permissive   bool     `toml:"permissive" doc:"Every write wins, as with Cyrus's own master."`
	Unified      bool     `toml:"unified" doc:"Its servers are backends and frontends at once (Cyrus: mupdate_config: unified), and do not hear of their own mailboxes when they follow the map. By ctl_mboxlist they do not get names that others have deleted within a week. Their names must be in servers, here or for their address."`
	Order        string   `toml:"order" doc:"Sort order of its mailbox list: dbname (Cyrus 3.6 and later), octet or mboxsort. Default: dbname."`
}

// PeerSettings describe clients by address.
type PeerSettings struct {
	Servers []string `toml:"servers" doc:"Servernames that these clients may write for."`
	Unified bool     `toml:"unified" doc:"They are backends and frontends at once, as in mupdate.identities."`
	Order   string   `toml:"order" doc:"Sort order of their mailbox lists: dbname, octet or mboxsort. Default: dbname."`
}

// IMAP is the IMAP frontend.
type IMAP struct {
	Listen         []string             `toml:"listen" doc:"Addresses with STARTTLS."`
	ListenTLS      []string             `toml:"listen_tls" doc:"Addresses with TLS from the first octet."`
	Proxies        []string             `toml:"proxies" doc:"Load balancers, by address or prefix. Connections from there must begin with a PROXY header (haproxy: send-proxy-v2), and count as coming from the client that it names."`
	Hostname       string               `toml:"hostname" doc:"Name in the greeting. Default: the host name."`
	MaxConnections int                  `toml:"max_connections" doc:"Sessions at a time."`
	MaxPerAddress  int                  `toml:"max_per_address" doc:"Sessions from one address; 0 for no limit. Cyrus: maxlogins_per_host."`
	MaxPerUser     int                  `toml:"max_per_user" doc:"Sessions of one user; 0 for no limit. Cyrus: maxlogins_per_user."`
	LoginTimeout   Duration             `toml:"login_timeout" doc:"Time from connect to login."`
	IdleTimeout    Duration             `toml:"idle_timeout" doc:"Time without a command; at least 30m (RFC 9051)."`
	MaxMessage     int64                `toml:"max_message" doc:"Octets of one appended message; 0 leaves it to the backends."`
	Suppress       []string             `toml:"suppress_capabilities" doc:"Capabilities never shown. Cyrus: suppress_capabilities."`
	HideOrigin     bool                 `toml:"hide_origin" doc:"Keep the client's address from the backends' logs. Saves them a command at each login."`
	SpecialUse     bool                 `toml:"specialusealways" doc:"Show special-use flags in plain LIST answers too. Cyrus: specialusealways."`
	ProbeInterval  Duration             `toml:"probe_interval" doc:"Time between two looks at each backend's capabilities."`
	Placement      string               `toml:"placement" doc:"Backend of a new user: least-mailboxes, round-robin, random, weighted, explicit (only where the administrator says), or by the room on the backends freespace-most, freespace-percent-most, freespace-percent-weighted, freespace-percent-weighted-delta. Cyrus: serverlist_select_mode."`
	FullAt         int                  `toml:"placement_full_at" doc:"Percentage of use from which on a backend gets no new users, unless all have reached it; 0 for never. Cyrus: serverlist_select_soft_usage_limit."`
	Autocreate     bool                 `toml:"autocreate" doc:"Give users without an INBOX one at their first login. Our identity must be an admin of the backends. Cyrus: autocreate_quota."`
	PlaceOn        []string             `toml:"place_on" doc:"Servernames that take new users. Empty: all. Cyrus: serverlist."`
	Place          map[string]PlaceRule `toml:"place" doc:"Where some new users or top-level folders go, instead of place_on. Of several tables that fit, the first by name counts."`
}

// PlaceRule chooses the backends of some new mailboxes.
type PlaceRule struct {
	Domain string   `toml:"domain" doc:"Domain of the mailbox, with virtdomains. Empty: any."`
	Match  string   `toml:"match" doc:"Regular expression for the mailbox's internal name without its domain. Example: ^user\\\\.s[0-9]+"`
	On     []string `toml:"on" doc:"Servernames."`
}

// POP3 is the POP3 frontend.
type POP3 struct {
	Listen         []string `toml:"listen" doc:"Addresses with STLS."`
	ListenTLS      []string `toml:"listen_tls" doc:"Addresses with TLS from the first octet."`
	Proxies        []string `toml:"proxies" doc:"Load balancers, by address or prefix. Connections from there must begin with a PROXY header (haproxy: send-proxy-v2), and count as coming from the client that it names."`
	MaxConnections int      `toml:"max_connections" doc:"Sessions at a time."`
	MaxPerAddress  int      `toml:"max_per_address" doc:"Sessions from one address; 0 for no limit."`
	MaxPerUser     int      `toml:"max_per_user" doc:"Sessions of one user; 0 for no limit."`
	IdleTimeout    Duration `toml:"idle_timeout" doc:"Time in which neither side says anything. Backends close earlier, if they are set so."`
	Subfolders     bool     `toml:"popsubfolders" doc:"Let USER name+FOLDER open a folder. Cyrus: popsubfolders."`
}

// Sieve is the ManageSieve frontend.
type Sieve struct {
	Listen         []string `toml:"listen" doc:"Addresses with STARTTLS."`
	Proxies        []string `toml:"proxies" doc:"Load balancers, by address or prefix. Connections from there must begin with a PROXY header (haproxy: send-proxy-v2), and count as coming from the client that it names."`
	MaxConnections int      `toml:"max_connections" doc:"Sessions at a time."`
	MaxPerAddress  int      `toml:"max_per_address" doc:"Sessions from one address; 0 for no limit."`
	MaxPerUser     int      `toml:"max_per_user" doc:"Sessions of one user; 0 for no limit."`
	IdleTimeout    Duration `toml:"idle_timeout" doc:"Time in which neither side says anything. Backends close earlier, if they are set so."`
	Referrals      bool     `toml:"referrals" doc:"Send users to backends that have a public name. Cyrus: sieve_allowreferrals."`
}

// LMTP is delivery.
type LMTP struct {
	Listen          []string `toml:"listen" doc:"Addresses with STARTTLS, and paths of unix sockets. Whoever reaches a socket may deliver."`
	ListenTrusted   []string `toml:"listen_trusted" doc:"The same for MTAs that need not log in, wherever they are. Not all addresses of a machine: that is what trusted_networks is for."`
	ListenTLS       []string `toml:"listen_tls" doc:"Addresses with TLS from the first octet."`
	Socket          Socket   `toml:"socket" doc:"The unix sockets for delivery."`
	Proxies         []string `toml:"proxies" doc:"Load balancers, by address or prefix. Connections from there must begin with a PROXY header (haproxy: send-proxy-v2), and count as coming from the client that it names."`
	Hostname        string   `toml:"hostname" doc:"Name in the greeting and in Received. Default: the host name."`
	TrustedNetworks []string `toml:"trusted_networks" doc:"Addresses or prefixes of MTAs that need not log in."`
	Admins          []string `toml:"admins" doc:"Users who may deliver after logging in, beside users.admins. Cyrus: lmtp_admins."`
	SoftNoAuth      bool     `toml:"soft_noauth" doc:"Answer MTAs that have not logged in with a temporary failure. Cyrus: soft_noauth."`
	MaxConnections  int      `toml:"max_connections" doc:"Connections at a time."`
	MaxPerAddress   int      `toml:"max_per_address" doc:"Connections from one address; loopback is not counted."`
	MaxBackend      int      `toml:"max_backend_connections" doc:"Connections to one backend: what its lmtpd serves at a time (maxchild), shared among frontends."`
	MaxRecipients   int      `toml:"max_recipients" doc:"Recipients of one message."`
	MaxMessage      int64    `toml:"max_message" doc:"Octets of one message; 0 shows the smallest limit of the backends."`
	Fold            bool     `toml:"fold" doc:"Break lines that are too long instead of refusing the message."`
	RcptCheck       string   `toml:"rcpt_check" doc:"Who answers RCPT: map, or backend, so that the MTA hears of a full mailbox before it sends the message, at the price of a process on the backend for as long as that takes."`
	DeferUnknown    bool     `toml:"defer_unknown" doc:"Answer unknown recipients with a temporary failure, in LMTP and to the look-ups of MTAs, for the time of a migration."`
	UnknownBackend  string   `toml:"unknown_user_backend" doc:"Servername of the backend that makes mailboxes when mail arrives. Cyrus: autocreate_post there."`
	Catchall        string   `toml:"catchall" doc:"User who gets mail for unknown recipients. Cyrus: lmtp_catchall_mailbox."`
	PostUser        string   `toml:"postuser" doc:"Local part that addresses shared mailboxes: postuser+mailbox. Cyrus: postuser."`
	Downcase        bool     `toml:"downcase_rcpt" doc:"Fold the case of recipients. Cyrus: lmtp_downcase_rcpt."`
	Fuzzy           bool     `toml:"fuzzy_mailbox_match" doc:"Forgive case, spaces, \"-\" and \"_\" in names of shared mailboxes. Cyrus: lmtp_fuzzy_mailbox_match."`
	MaxSpool        int64    `toml:"max_spool" doc:"Octets of all messages in spool_dir; beyond it MTAs are told to try again."`
	SpoolDir        string   `toml:"spool_dir" doc:"Directory for messages too large for memory. Default: the system's for temporary files."`
	Trace           bool     `toml:"trace" doc:"Add a Received field."`
	SyntheticID     bool     `toml:"synthetic_message_id" doc:"Add a Message-ID made of the content to messages that have none, so that backends recognise what an MTA sends again. The same on every frontend."`
	IdleTimeout     Duration `toml:"idle_timeout" doc:"Time between two commands of an MTA."`
	DataTimeout     Duration `toml:"data_timeout" doc:"Silence of an MTA within a message."`
	HandlingTimeout Duration `toml:"handling_timeout" doc:"From the end of a message to its last reply. Below what MTAs wait for it, which is 10m with Postfix (lmtp_data_done_timeout) and Exim (final_timeout), or they send it again."`
	EnvelopeTimeout Duration `toml:"envelope_timeout" doc:"A backend's answers before it has the message."`
	OutcomeTimeout  Duration `toml:"outcome_timeout" doc:"A backend's answers once it has the message."`
}

// Socket is the file of a unix socket.
type Socket struct {
	Mode  string   `toml:"mode" doc:"Its permissions, in octal."`
	Owner string   `toml:"owner" doc:"Its owner, by name or number. Default: who murderd runs as."`
	Group string   `toml:"group" doc:"Its group. Default: that of the process, or of a directory with the set-group-ID bit."`
	Users []string `toml:"users" doc:"Who may connect, by name or number, whatever the mode allows. Default: whoever it allows. Linux only."`
}

// Socketmap answers the MTA.
type Socketmap struct {
	Listen         []string         `toml:"listen" doc:"Addresses and paths of unix sockets. There are no passwords: loopback or sockets only."`
	Socket         Socket           `toml:"socket" doc:"The unix sockets for look-ups, also those of the tables."`
	ProxyTransport string           `toml:"proxy_transport" doc:"Answer of the map transport-proxy: how the MTA reaches our LMTP. Example: lmtp:unix:/run/murder/lmtp.sock."`
	MaxConnections int              `toml:"max_connections" doc:"Connections at a time."`
	Tables         map[string]Table `toml:"tables" doc:"One map in Postfix's tcp_table protocol: mailbox, mailbox-strict, transport, transport-proxy or backend."`
}

// Table is a listener for one map.
type Table struct {
	Listen []string `toml:"listen" doc:"Addresses and paths of unix sockets."`
}

// Gossip is how nodes tell one another that they live.
type Gossip struct {
	Listen string `toml:"listen" doc:"Address for UDP and TCP; others reach it at the host of the cluster address. \"\" for no gossip."`
}

// Default returns the defaults for a role.
func Default(role string) *Config {
	c := &Config{
		Node: Node{ID: shortHost(), Role: role, DataDir: "/var/lib/murder", DrainTimeout: seconds(30)},
		Cluster: Cluster{Listen: ":7401", Timing: "lan", Voters: 3, PromoteAfter: seconds(10), SnapshotInterval: seconds(60),
			SnapshotThreshold: 8192, TrailingLogs: 32768, AutoFinalize: "24h", ReadyTimeout: seconds(10)},
		Gossip:    Gossip{Listen: ":7402"},
		Admin:     Admin{Socket: DefaultSocket, Listen: "127.0.0.1:7403"},
		Backup:    Backup{Every: seconds(3600), Keep: 48},
		Log:       Log{Level: "info", Format: "text"},
		TLS:       TLS{MinVersion: "1.2"},
		Users:     Users{Pause: seconds(3), Failures: 20, FailureEvery: seconds(30)},
		Namespace: Namespace{UnixHierarchy: true, Alt: true, UserPrefix: "Other Users", SharedPrefix: "Shared Folders", AltPrefix: "Alt Folders", DeletedPrefix: "DELETED"},
		Backends:  Backends{Default: Backend{TLS: "starttls", Verify: "ca"}},
		MUPDATE: MUPDATE{Upstream: "murder", Replay: "suspect", ConflictBrake: 20, MaxConnections: 4096,
			LoginTimeout: seconds(60), IdleTimeout: seconds(3 * 3600), CommandTimeout: seconds(10)},
		IMAP: IMAP{MaxConnections: 20000, LoginTimeout: seconds(60), IdleTimeout: seconds(1800), ProbeInterval: seconds(60),
			Placement: "least-mailboxes"},
		POP3:  POP3{MaxConnections: 10000, IdleTimeout: seconds(2100)},
		Sieve: Sieve{MaxConnections: 10000, IdleTimeout: seconds(2100)},
		LMTP: LMTP{TrustedNetworks: []string{"127.0.0.0/8", "::1"}, MaxConnections: 500, MaxPerAddress: 50, MaxBackend: 10, MaxRecipients: 1000, MaxSpool: 2 << 30, RcptCheck: "map", Downcase: true,
			Socket: Socket{Mode: "0660"}, Trace: true, IdleTimeout: seconds(300), DataTimeout: seconds(180), HandlingTimeout: seconds(540),
			EnvelopeTimeout: seconds(60), OutcomeTimeout: seconds(300)},
		Socketmap: Socketmap{MaxConnections: 1000, Socket: Socket{Mode: "0660"}},
	}
	switch role {
	case Agent:
		c.MUPDATE.Listen = []string{"127.0.0.1:3905"}
	default:
		c.MUPDATE.Listen = []string{":3905"}
	}
	if c.Serves() {
		c.IMAP.Listen, c.IMAP.ListenTLS = []string{":143"}, []string{":993"}
		c.POP3.Listen, c.POP3.ListenTLS = []string{":110"}, []string{":995"}
		c.Sieve.Listen = []string{":4190"}
		c.LMTP.Listen = []string{"127.0.0.1:24", "/run/murder/lmtp.sock"}
		c.Socketmap.Listen = []string{"127.0.0.1:7404"}
	}
	return c
}

// Serves reports whether the role has mail frontends.
func (c *Config) Serves() bool { return c.Node.Role == Frontend || c.Node.Role == Both }

// Votes reports whether the role takes part in decisions.
func (c *Config) Votes() bool { return c.Node.Role == Coordinator || c.Node.Role == Both }

func shortHost() string {
	host, err := os.Hostname()
	if err != nil {
		return "node"
	}
	host, _, _ = strings.Cut(host, ".")
	return host
}

// Duration is a time.Duration written as "1h30m" or "500ms". It is a structure so that a number
// without a unit is not taken for nanoseconds.
type Duration struct{ time.Duration }

func seconds(n int) Duration { return Duration{time.Duration(n) * time.Second} }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is no duration: write it like \"500ms\", \"10s\" or \"1h30m\"", text)
	}
	if v < 0 {
		return fmt.Errorf("%q is negative", text)
	}
	d.Duration = v
	return nil
}

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// String writes the duration without empty parts: 1h, not 1h0m0s.
func (d Duration) String() string {
	s := d.Duration.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
