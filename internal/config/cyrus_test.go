package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const frontendConf = `
# a frontend
configdirectory: /var/lib/cyrus
altnamespace: no
unixhierarchysep: yes
virtdomains: userid
defaultdomain: example.org
admins: cyrus root
proxy_authname: murder
proxy_password: secret
be1_password: other
timeout: 45
failedloginpause: 5s
maxmessagesize: 64M
sasl_pwcheck_method: saslauthd
imapmagicplus: yes
@include: more.conf
`

const frontendServices = `
START {
  recover cmd="ctl_cyrusdb -r"
}
SERVICES {
  imap   cmd="proxyd -U 30" listen="imap" prefork=0
  imaps  cmd="/usr/lib/cyrus/bin/proxyd -s" listen="192.0.2.1:imaps"
  lmtp   cmd="lmtpproxyd" listen="/run/cyrus/lmtp"
  smmap  cmd="smmapd" listen="/run/cyrus/smmap"
  mupdate cmd="mupdate" listen=3905 prefork=1
	http		cmd="httpd" listen="80" prefork=0 maxchild=100
}
`

func TestImportFrontend(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "imapd.conf")
	os.WriteFile(file, []byte(frontendConf), 0o600)
	os.WriteFile(filepath.Join(dir, "more.conf"), []byte("proxy_realm: X\n"), 0o600)
	options, err := ReadIMAPDConf(file)
	if err != nil {
		t.Fatal(err)
	}
	services, err := ReadCyrusConf(strings.NewReader(frontendServices))
	if err != nil {
		t.Fatal(err)
	}
	in := FromCyrus(options, services, "/etc/murder/secrets")
	c := in.Config
	var b strings.Builder
	if err := c.Dump(&b, true, false); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`role = "frontend"`, `altnamespace = false`, `virtdomains = true`, `defaultdomain = "example.org"`, `admins = ["cyrus", "root"]`,
		`authname = "murder"`, `password_file = "/etc/murder/secrets/backends.password"`, `idle_timeout = "45m"`, `pause = "5s"`,
		`max_message = 67108864`, `saslauthd = "/run/saslauthd/mux"`, `listen_tls = ["192.0.2.1:993"]`, `listen = ["/run/cyrus/lmtp"]`, `listen = ["/run/cyrus/smmap"]`,
		`[backends.servers.be1]`,
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%s is missing", want)
		}
	}
	if c.IMAP.IdleTimeout.Duration != 45*time.Minute || len(c.POP3.Listen) != 0 || c.IMAP.Listen[0] != ":143" || c.MUPDATE.Listen[0] != ":3905" {
		t.Error(b.String())
	}
	if in.Secrets["/etc/murder/secrets/backends.password"] != "secret" || in.Secrets["/etc/murder/secrets/be1.password"] != "other" {
		t.Error(in.Secrets)
	}
	notes := strings.Join(in.Notes, "\n")
	for _, want := range []string{"imapd.conf:16: imapmagicplus: yes: no counterpart", "more.conf:1: proxy_realm", "service http (httpd)", "replace be1 by the whole servername"} {
		if !strings.Contains(notes, want) {
			t.Errorf("%s is missing in\n%s", want, notes)
		}
	}
	if strings.Contains(notes+b.String(), "secret\"") || strings.Contains(notes, "configdirectory") {
		t.Error(notes)
	}
}

func TestImportMaster(t *testing.T) {
	services, err := ReadCyrusConf(strings.NewReader("SERVICES {\n mupdate cmd=\"mupdate -m\" listen=3905\n}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if in := FromCyrus(nil, services, "/s"); in.Config.Node.Role != Coordinator || in.Config.MUPDATE.Listen[0] != ":3905" {
		t.Errorf("%+v", in.Config.Node)
	}
	for _, bad := range []string{"SERVICES {\n imap listen=143\n}", "SERVICES {", "nonsense", "SERVICES {\n imap cmd=\"imapd\n}"} {
		if _, err := ReadCyrusConf(strings.NewReader(bad)); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}
