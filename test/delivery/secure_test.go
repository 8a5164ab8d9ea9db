//go:build cyrus

package delivery

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/textproto"
	"os"
	"strings"
	"testing"
	"time"

	"murder/test/cyrus"
)

// Everything over TLS and with certificates instead of passwords: the MTA and the users towards a frontend, after
// STARTTLS and from the first octet, and the frontends towards real Cyrus, which are taken for its administrator by
// their certificate alone.
func TestCertificates(t *testing.T) {
	cyrus.Require(t)
	p := cyrus.Issue(t, "frontend.example.org", "murder", "mta", "alice")
	var papers []string
	for _, id := range []string{"f1", "f2"} {
		papers = append(papers, "--set", id+"/tls.cert_file="+p.File("server.pem"), "--set", id+"/tls.key_file="+p.File("server.key"),
			"--set", id+"/tls.client_ca_file="+p.File("ca.pem"))
	}
	w := newWorld(t, options{
		conf: map[string][]string{"": {"tls_server_cert: " + p.File("server.pem"), "tls_server_key: " + p.File("server.key"),
			"tls_client_ca_file: " + p.File("ca.pem"), "tls_client_certs: optional"}},
		flags: append(papers, "--user", "mta:"+password,
			"--set", "backends.default.tls=starttls", "--set", "backends.default.verify=ca", "--set", "backends.default.ca_file="+p.File("ca.pem"),
			"--set", "backends.default.cert_file="+p.File("client.pem"), "--set", "backends.default.key_file="+p.File("client.key"),
			"--set", `backends.default.mechs=["EXTERNAL"]`,
			"--set", "lmtp.trusted_networks=[]", "--set", `lmtp.admins=["mta"]`,
		),
		implicit: true,
	})
	config := func(name string) *tls.Config {
		t.Helper()
		ca, err := os.ReadFile(p.File("ca.pem"))
		if err != nil {
			t.Fatal(err)
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(ca)
		c := &tls.Config{RootCAs: roots, ServerName: "frontend.example.org"}
		if name != "" {
			cert, err := tls.LoadX509KeyPair(p.File(name+".pem"), p.File(name+".key"))
			if err != nil {
				t.Fatal(err)
			}
			c.Certificates = []tls.Certificate{cert}
		}
		return c
	}
	dial := func(t *testing.T, addr string, c *tls.Config) net.Conn {
		t.Helper()
		var nc net.Conn
		var err error
		if c == nil {
			nc, err = net.Dial("tcp", addr)
		} else {
			nc, err = tls.Dial("tcp", addr, c)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { nc.Close() })
		nc.SetDeadline(time.Now().Add(time.Minute))
		return nc
	}

	t.Run("LMTP", func(t *testing.T) {
		clear, secure := w.cluster.Addr("f1", "lmtp"), w.net.Host(21)+":2443"
		in := func(nc net.Conn) *mta { return &mta{t, nc, bufio.NewReader(nc)} }
		hello := func(m *mta, offers ...string) {
			t.Helper()
			m.send("LHLO mta.example.org\r\n")
			got := m.reply()
			for _, o := range offers {
				if not, _ := strings.CutPrefix(o, "not "); strings.Contains(got, not) != (not == o) {
					t.Errorf("offered: %q, want %s", got, o)
				}
			}
		}
		m := in(dial(t, clear, nil))
		m.want("220 ")
		hello(m, "250-STARTTLS", "not EXTERNAL")
		m.say("MAIL FROM:<>", "530 5.7.0")
		m.say("STARTTLS", "220 ")
		c := tls.Client(m.nc, config("mta"))
		if err := c.Handshake(); err != nil {
			t.Fatal(err)
		}
		for i, m := range []*mta{in(c), in(dial(t, secure, config("mta")))} {
			if i == 1 {
				m.want("220 ")
			}
			hello(m, "not STARTTLS", "EXTERNAL", "PLAIN")
			m.say("MAIL FROM:<>", "530 5.7.0")
			m.say("AUTH EXTERNAL =", "235 2.7.0")
			id := fmt.Sprintf("secure-%d", i)
			m.transaction("<a@example.org>", letter(id, "x\r\n"), []string{"<alice>", "<carol>"}, "250 2.1.5", "250 2.1.5")
			all := messages(t, w.be1, "alice", "INBOX")
			if count(all, "Subject: "+id) != 1 || count(all, "with LMTPSA id ") != i+1 {
				t.Errorf("alice has %q", all)
			}
		}
		// A certificate makes nobody an MTA, and no certificate nobody at all.
		for name, offer := range map[string]string{"alice": "EXTERNAL", "": "not EXTERNAL"} {
			m := in(dial(t, secure, config(name)))
			m.want("220 ")
			hello(m, offer)
			m.send("AUTH EXTERNAL =\r\n")
			if got := m.reply(); got[0] != '5' {
				t.Errorf("%q: %s", name, got)
			}
			m.say("MAIL FROM:<>", "530 5.7.0")
		}
	})

	t.Run("POP3", func(t *testing.T) {
		for i, secure := range []bool{false, true} {
			addr, c := w.cluster.Addr("f1", "pop3"), (*tls.Config)(nil)
			if secure {
				addr, c = w.net.Host(21)+":2995", config("alice")
			}
			nc := dial(t, addr, c)
			p := textproto.NewConn(nc)
			p.ReadLine()
			if !secure {
				if got := askPOP3(t, p, "STLS"); !strings.HasPrefix(got, "+OK") {
					t.Fatal(got)
				}
				p = textproto.NewConn(tls.Client(nc, config("alice")))
			}
			if got := askPOP3(t, p, "AUTH EXTERNAL ="); !strings.HasPrefix(got, "+OK") {
				t.Fatalf("%d: %s", i, got)
			}
			if got := askPOP3(t, p, "STAT"); !strings.HasPrefix(got, "+OK 2 ") {
				t.Errorf("%d: %s", i, got)
			}
			askPOP3(t, p, "QUIT")
		}
	})

	t.Run("ManageSieve", func(t *testing.T) {
		s := dialSieve(t, w.cluster.Addr("f1", "sieve"))
		s.say("STARTTLS\r\n", "OK")
		s = newSieve(t, tls.Client(s.nc, config("alice")))
		s.say("AUTHENTICATE \"EXTERNAL\" \"\"\r\n", "OK")
		s.say("PUTSCRIPT \"keep\" {5+}\r\nkeep;\r\n", "OK")
		if got := s.say("LISTSCRIPTS\r\n", "OK"); !strings.Contains(got, `"keep"`) {
			t.Errorf("scripts are %q", got)
		}
	})

	// Cyrus has taken the certificate for what it is.
	for _, program := range []string{"lmtp", "pop3", "sieve"} {
		if v := w.metric(t, "f1", fmt.Sprintf(`murder_backend_dials_total{backend="be1.rig.test",result="ok",service=%q}`, program)); v == 0 {
			t.Errorf("no connection for %s", program)
		}
	}
	log := strings.Join(w.be1.Log(), "\n")
	if strings.Contains(log, "PLAIN+TLS") || strings.Contains(log, "SCRAM") || !strings.Contains(log, "EXTERNAL+TLS") {
		t.Errorf("be1 has logged:\n%s", log)
	}
}
