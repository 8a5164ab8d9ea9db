package config

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Every message names the place, the key, and what is expected.
func TestMessages(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, text, want string }{
		{"unknown key", "[cluster]\nvoter = 3\n", `f:2:1: cluster.voter: unknown key; did you mean "voters"?`},
		{"unknown table", "[clutser]\nvoters = 3\n", `f:1:2: clutser: unknown key; did you mean "cluster"?`},
		{"unknown key far from all", "[log]\nqqqqqqqqqqqq = 3\n", `f:2:1: log.qqqqqqqqqqqq: unknown key; known here: level, format`},
		{"syntax", "[cluster\n", `f:1:9: `},
		{"text for a number", "[cluster]\nvoters = \"three\"\n", `want a number`},
		{"number for a duration", "[users]\npause = 3\n", `"3" is no duration: write it like "500ms"`},
		{"bad duration", "[users]\npause = \"3 parsecs\"\n", `is no duration: write it like`},
		{"negative duration", "[users]\npause = \"-3s\"\n", `is negative`},
		{"text for a list", "[mupdate]\nlisten = \":3905\"\n", `want a list such as ["a", "b"]`},
		{"role", "[node]\nrole = \"master\"\n", `f:2:1: node.role: "master" is not possible: want coordinator, frontend, both or agent`},
		{"id", "[node]\nid = \"a b\"\n", `f:2:1: node.id: "a b" is not possible: want 1 to 63 letters`},
		{"data_dir", "[node]\ndata_dir = \"\"\n", `f:2:1: node.data_dir: is empty; name a directory`},
		{"voters", "[cluster]\nvoters = 4\n", `f:2:1: cluster.voters: 4 is not possible: want 1, 3 or 5; an even number`},
		{"auto_finalize", "[cluster]\nauto_finalize = \"soon\"\n", `f:2:1: cluster.auto_finalize: "soon" is not possible: want a duration such as 24h, now or never`},
		{"bootstrap of two", "[cluster]\nbootstrap_expect = 2\n", `f:2:1: cluster.bootstrap_expect: 2 is not possible: want 1, 3 or 5`},
		{"bootstrap without peers", "[cluster]\nbootstrap_expect = 3\nbootstrap_peers = [\"c1:7401\"]\n", `f:3:1: cluster.bootstrap_peers: names 1 coordinators, and cluster.bootstrap_expect is 3; name all`},
		{"bootstrap without secret", "[cluster]\nbootstrap_expect = 1\nbootstrap_peers = [\"c1:7401\"]\n", `cluster.bootstrap_secret_file: is not set; "openssl rand`},
		{"listen", "[cluster]\nlisten = \"host\"\n", `f:2:1: cluster.listen: "host" is no address: want "host:port" or ":port"`},
		{"advertise", "[cluster]\nadvertise = \"0.0.0.0:7401\"\n", `cannot be dialled by other nodes; name this machine`},
		{"timing", "[cluster]\ntiming = \"fast\"\n", `want lan, lan-fast or wan`},
		{"no admin", "[admin]\nsocket = \"\"\nlisten = \"\"\n", `f:2:1: admin.socket: is empty, and admin.listen too; murderctl could not`},
		{"admin socket", "[admin]\nsocket = \"x\"\n", `"x" is no path of a socket`},
		{"log", "[log]\nlevel = \"trace\"\nformat = \"xml\"\n", `f:3:1: log.format: "xml" is not possible: want text or json`},
		{"half a certificate", "[tls]\ncert_file = \"" + secret + "\"\n", `f:2:1: tls.cert_file: needs tls.key_file`},
		{"no such file", "[tls]\nclient_ca_file = \"/nonexistent/ca\"\n", `cannot read /nonexistent/ca: no such file or directory; create it`},
		{"no users", "[node]\nrole = \"frontend\"\n", `f: users.file: nobody could log in`},
		{"no certificate", "[node]\nrole = \"frontend\"\n", `imap.listen: nobody could log in without a certificate; set tls.cert_file`},
		{"no certificate for TLS", "[node]\nrole = \"frontend\"\n", `imap.listen_tls: needs a certificate; set tls.cert_file and tls.key_file, or imap.listen_tls = []`},
		{"no identity", "[node]\nrole = \"frontend\"\n", `f: backends.default.authname: is not set`},
		{"frontend key", "[imap]\nlisten = [\":143\"]\n", `f:2:1: imap.listen: a node of role coordinator has no mail frontends; set node.role`},
		{"failures", "[users]\nfailures = 0\n", `0 is too small: want 1 or more`},
		{"backend tls", "[backends.servers.\"be1.example.org\"]\ntls = \"yes\"\n", `f:2:1: backends.servers."be1.example.org".tls: "yes" is not possible`},
		{"backend port", "[backends.default]\nimap = 70000\n", `70000 is no port: want 1 to 65535`},
		{"backend bind", "[backends.default]\nbind = \"x\"\n", `"x" is no address`},
		{"pins", "[backends.default]\nverify = \"pin\"\n", `is empty, but verify = "pin" needs one`},
		{"secret in the file", "[backends.default]\npassword = \"x\"\n", `secrets do not belong into this file; write it into a file`},
		{"two secrets", "[node]\ndevelopment = true\n[backends.default]\npassword = \"x\"\npassword_file = \"" + secret + "\"\n", `stands beside password_file; remove one`},
		{"unified without servers", "[mupdate.identities.be1]\nrole = \"backend\"\nunified = true\npassword_file = \"/x\"\n", `f:3:1: mupdate.identities.be1.unified: needs to know which servers these are`},
		{"mupdate mechanism", "[mupdate]\nmechs = [\"plain\", \"digest-md5\"]\n", `f:2:1: mupdate.mechs: "DIGEST-MD5" is not possible`},
		{"identity without password", "[mupdate.identities.be1]\nrole = \"backend\"\n", `f:1:2: mupdate.identities.be1.password_file: is not set, so nobody could log in as be1`},
		{"identity role", "[mupdate.identities.be1]\nrole = \"root\"\n", `want reader, backend or admin`},
		{"identity order", "[mupdate.identities.be1]\norder = \"x\"\n", `want dbname, octet or mboxsort`},
		{"reader with servers", "[mupdate.identities.be1]\nservers = [\"be1\"]\n", `binds only backends; set role = "backend"`},
		{"peer", "[mupdate.peers.here]\norder = \"x\"\n", `f:1:2: mupdate.peers.here: "here" is no address`},
		{"mupdate over TLS", "[mupdate]\nlisten_tls = [\":3906\"]\n", `f:2:1: mupdate.listen_tls: needs a certificate`},
		{"replay", "[mupdate]\nreplay = \"some\"\n", `want suspect, all or off`},
		{"placement", "[imap]\nplacement = \"best\"\n", `want least-mailboxes, round-robin`},
		{"lmtp on 25", "[lmtp]\nlisten = [\":25\"]\n", `LMTP must not be served on SMTP's port`},
		{"trusted networks", "[lmtp]\ntrusted_networks = [\"all\"]\n", `"all" is no address`},
		{"table", "[socketmap.tables.users]\nlisten = []\n", `f:1:2: socketmap.tables.users: "users" is not possible: want mailbox, mailbox-strict,`},
		{"gossip", "[gossip]\nlisten = \"x\"\n", `f:2:1: gossip.listen: "x" is no address`},
		{"lmtp trusted everywhere", "[lmtp]\nlisten_trusted = [\":24\"]\n", `":24" would let everybody deliver`},
		{"lmtp trusted everywhere by number", "[lmtp]\nlisten_trusted = [\"0.0.0.0:24\"]\n", `would let everybody deliver`},
		{"lmtp trusted on 25", "[lmtp]\nlisten_trusted = [\"127.0.0.1:25\"]\n", `LMTP must not be served on SMTP's port`},
		{"socket mode", "[lmtp.socket]\nmode = \"rw\"\n", `"rw" are no permissions`},
		{"socket mode too large", "[socketmap.socket]\nmode = \"4755\"\n", `"4755" are no permissions`},
		{"lmtp timeout", "[lmtp]\nhandling_timeout = \"5ms\"\n", `5ms is too short`},
		{"lmtp address", "[lmtp]\nlisten = [\"24\"]\n", `or the path of a unix socket`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse([]byte(tt.text), "f")
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

func TestDefaultsAreValid(t *testing.T) {
	for _, role := range []string{Coordinator, Agent} {
		if _, err := Parse([]byte("[node]\nid = \"n1\"\nrole = \""+role+"\"\n"), "f"); err != nil {
			t.Errorf("%s: %v", role, err)
		}
	}
}

// What dump writes is read back as the same.
func TestDumpRoundTrip(t *testing.T) {
	c := Default(Coordinator)
	c.Node.ID, c.Node.Development = "n1", true
	c.Cluster.Voters = 5
	c.MUPDATE.Listen = nil
	c.Users.Admins = []string{"cyrus", `odd "name" \ é`}
	c.Backends.Servers = map[string]Backend{"be1.example.org": {IMAP: 1143}}
	c.MUPDATE.Identities = map[string]Identity{"murder": {Password: "p", Role: "backend"}}
	for _, changed := range []bool{false, true} {
		var b bytes.Buffer
		if err := c.Dump(&b, changed, true); err != nil {
			t.Fatal(err)
		}
		got, err := Parse(b.Bytes(), "dump")
		if err != nil {
			t.Fatalf("%v in\n%s", err, b.String())
		}
		var again bytes.Buffer
		got.Dump(&again, changed, true)
		if diff := cmp.Diff(b.String(), again.String()); diff != "" {
			t.Errorf("changed=%v: %s", changed, diff)
		}
	}
}

func TestDumpHidesSecrets(t *testing.T) {
	c := Default(Coordinator)
	c.Backends.Default.Password = "hunter2"
	var b bytes.Buffer
	c.Dump(&b, false, false)
	if strings.Contains(b.String(), "hunter2") || !strings.Contains(b.String(), `password = "(hidden)"`) {
		t.Error(b.String())
	}
}

// The example with every "#" removed must be the defaults again.
func TestExample(t *testing.T) {
	for _, role := range []string{Coordinator, Frontend, Agent} {
		var b bytes.Buffer
		if err := Example(&b, role); err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		for line := range strings.Lines(b.String()) {
			if rest, ok := strings.CutPrefix(line, "#"); ok && !strings.HasPrefix(rest, " ") {
				line = rest
			}
			text.WriteString(line)
		}
		got, err := decode([]byte(text.String()), "example")
		if err != nil {
			t.Fatalf("%v in\n%s", err, text.String())
		}
		want := withSamples(Default(role))
		want.Node.ID = "c1"
		var g, w bytes.Buffer
		got.Dump(&g, false, true)
		want.Dump(&w, false, true)
		if diff := cmp.Diff(w.String(), g.String()); diff != "" {
			t.Error(diff)
		}
	}
}

// docs/config.md is made from the source; "make docs" writes it.
func TestReferenceIsCurrent(t *testing.T) {
	var b bytes.Buffer
	if err := Reference(&b); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../docs/config.md")
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != b.String() {
		t.Error("docs/config.md is not what the source says: run make docs")
	}
}

func TestEveryKeyIsExplained(t *testing.T) {
	walk(reflect.ValueOf(*withSamples(Default(Frontend))), reflect.ValueOf(*withSamples(Default(Frontend))), nil, "", func(e entry) {
		if len(e.key) > 0 && e.doc == "" {
			t.Errorf("%s has no explanation", keyPath(e.key))
		}
	})
}

func TestSet(t *testing.T) {
	c := Default(Coordinator)
	c.MUPDATE.Identities = map[string]Identity{"be1": {Password: "p", Role: "backend", Servers: []string{"s"}}}
	for _, kv := range [][2]string{
		{"cluster.timing", "lan-fast"},
		{"cluster.voters", "5"},
		{"node.id", "7"},
		{"users.pause", "0s"},
		{"mupdate.listen", "127.0.0.1:0,127.0.0.2:0"},
		{"users.admins", `["a", "b"]`},
		{"mupdate.strict_rfc", "true"},
		{"mupdate.identities.be1.takeover", "true"},
		{`backends.servers."be1.example.org".host`, "127.0.0.1"},
	} {
		if err := c.Set(kv[0], kv[1]); err != nil {
			t.Errorf("%s=%s: %v", kv[0], kv[1], err)
		}
	}
	want := Default(Coordinator)
	want.Cluster.Timing, want.Cluster.Voters, want.Node.ID, want.Users.Pause = "lan-fast", 5, "7", Duration{}
	want.MUPDATE.Listen, want.MUPDATE.StrictRFC = []string{"127.0.0.1:0", "127.0.0.2:0"}, true
	want.Users.Admins = []string{"a", "b"}
	want.MUPDATE.Identities = map[string]Identity{"be1": {Password: "p", Role: "backend", Servers: []string{"s"}, Takeover: true}}
	want.Backends.Servers = map[string]Backend{"be1.example.org": {Host: "127.0.0.1"}}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Error(diff)
	}
	for key, why := range map[string]string{
		"cluster.voter": `did you mean "voters"?`, "cluster": "is a table", "=": "is no key",
	} {
		if err := c.Set(key, "x"); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v", key, err)
		}
	}
	if err := c.Set("cluster.voters", "many"); err == nil || !strings.Contains(err.Error(), "want a number") {
		t.Error(err)
	}
}
