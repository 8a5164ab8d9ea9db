//go:build cyrus

package cyrus

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"murder/test/dialogue"
	"murder/test/loopback"
	"murder/test/mupdateline"
)

// serverFlags give every node the server's certificate.
func serverFlags(p Papers, more ...string) []string {
	flags := []string{"--set", "tls.cert_file=" + p.File("server.pem"), "--set", "tls.key_file=" + p.File("server.key"),
		"--set", "tls.client_ca_file=" + p.File("ca.pem")}
	for _, m := range more {
		flags = append(flags, "--set", m)
	}
	return flags
}

// mupdatetest speaks to a node with one of Cyrus's own client programs.
func mupdatetest(m *murder, addr, input string, args ...string) string {
	host, port, _ := strings.Cut(addr, ":")
	out, _ := m.Node("be1").ExecInput(input, "mupdatetest", append(args, "-p", port, host)...) // its status depends on how the connection ends
	return out
}

// mupdatetest with TLS after the greeting and TLS from the first octet, with every mechanism, a
// client certificate among them.
func TestMupdatetestOverTLS(t *testing.T) {
	t.Parallel()
	p := Issue(t, "mupdate.rig.test", "murder")
	m := newMurder(t, Options{Backends: 1}, serverFlags(p)...)
	m.ours(t)
	ok(t, signOn(t, m.Node("be1"), m.Admin()), "CREATE user.u1")
	addr := m.nodes[0]
	for _, mech := range []string{"PLAIN", "LOGIN", "SCRAM-SHA-1", "SCRAM-SHA-256", "EXTERNAL"} {
		args := []string{"-m", mech, "-t", "", "-a", "murder", "-u", "murder", "-w", m.Password()}
		if mech == "EXTERNAL" {
			args = []string{"-m", mech, "-t", p.File("both.pem"), "-u", "murder"}
			var both []byte
			for _, f := range []string{"client.pem", "client.key"} {
				data, err := os.ReadFile(p.File(f))
				if err != nil {
					t.Fatal(err)
				}
				both = append(both, data...)
			}
			if err := os.WriteFile(p.File("both.pem"), both, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		out := mupdatetest(m, addr, "X1 FIND \"user.u1\"\r\nX4 LOGOUT\r\n", args...)
		for _, want := range []string{"TLS connection established", "Authenticated.", "X1 MAILBOX", "X1 OK"} {
			if !strings.Contains(out, want) {
				t.Errorf("%s: no %q\n%s", mech, want, out)
				break
			}
		}
	}
}

// Which mechanism a real backend chooses from what it is offered, in clear and in TLS: the best that it
// knows, whatever the connection. It turns to TLS when nothing that it may use is offered without, or when
// its configuration begins with it.
func TestHowABackendSignsOn(t *testing.T) {
	t.Parallel()
	p := Issue(t, "mupdate.rig.test", "murder")
	n, err := loopback.Claim()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Release() })
	const secure = "3906"
	m := newRelayed(t, Options{Backends: 1, Net: n}, serverFlags(p,
		`c2/mupdate.mechs=["plain", "login"]`,
		`c3/mupdate.mechs=["scram-sha-256-plus", "scram-sha-1-plus", "scram-sha-256", "scram-sha-1", "plain"]`,
		`c1/mupdate.listen_tls=["`+n.Host(1)+":"+secure+`"]`, `c2/mupdate.listen_tls=["`+n.Host(2)+":"+secure+`"]`, `c3/mupdate.listen_tls=["`+n.Host(3)+":"+secure+`"]`)...)
	be1, relay := m.Node("be1"), m.relays["be1"]
	ok(t, signOn(t, be1, m.Admin()), "CREATE user.u1")
	certificate := []string{"tls_client_cert: " + p.File("client.pem"), "tls_client_key: " + p.File("client.key")}
	for _, c := range []struct {
		what, at string
		conf     []string
		want     string
		tls      string // "starttls" or "implicit"
	}{
		{"the best", "c1", nil, "SCRAM-SHA-256", ""},
		{"only passwords", "c2", nil, "PLAIN", ""},
		{"made to use PLAIN", "c1", []string{"force_sasl_client_mech: PLAIN"}, "PLAIN", ""},
		{"made to use SCRAM-SHA-1", "c1", []string{"force_sasl_client_mech: SCRAM-SHA-1"}, "SCRAM-SHA-1", ""},
		{"made to use what TLS alone offers", "c1", append([]string{"force_sasl_client_mech: EXTERNAL"}, certificate...), "EXTERNAL", "starttls"},
		{"the best in TLS", "c1", nil, "SCRAM-SHA-256", "implicit"},
		{"only passwords in TLS", "c2", nil, "PLAIN", "implicit"},
		// Cyrus: its SCRAM prefers a password to the certificate that it has shown.
		{"a certificate at hand", "c1", certificate, "SCRAM-SHA-256", "implicit"},
		// Cyrus 3.6 does not tell its SCRAM of the channel, so the -PLUS forms are passed over.
		{"the -PLUS forms", "c3", nil, "SCRAM-SHA-256", "implicit"},
	} {
		t.Run(c.what, func(t *testing.T) {
			at, to := m.cluster.Addr(c.at, "mupdate"), relay.Addr()
			if c.tls == "implicit" {
				host, _, _ := net.SplitHostPort(at)
				at, to = net.JoinHostPort(host, secure), to+"/tls"
			}
			relay.Lead(at)
			m.options.Conf = map[string][]string{"be1": c.conf}
			if err := be1.SetMupdate(to); err != nil {
				t.Fatal(err)
			}
			relay.Take()
			before := m.signOns(t, c.at)
			inStep(t, be1)
			after := m.signOns(t, c.at)
			for mech, n := range after {
				if (n > before[mech]) != (mech == c.want) {
					t.Errorf("sign-ons before %v, after %v, want one with %s", before, after, c.want)
					break
				}
			}
			s := said(relay)
			if clear := contains(s, "AUTHENTICATE"); clear != (c.tls == "") || contains(s, "STARTTLS") != (c.tls == "starttls") {
				t.Errorf("in clear the backend says %q", s)
			}
		})
	}
}

// signOns counts those that a node has taken, by mechanism.
func (m *murder) signOns(t testing.TB, id string) map[string]int {
	t.Helper()
	r, err := http.Get("http://" + m.cluster.Addr(id, "http") + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	counts := map[string]int{}
	for s := bufio.NewScanner(r.Body); s.Scan(); {
		var mech string
		var n int
		line := strings.NewReplacer(`"`, " ", `,`, " ", "{", " ", "}", " ").Replace(s.Text())
		if _, err := fmt.Sscanf(line, "murder_logins_total mechanism= %s protocol= mupdate result= ok %d", &mech, &n); err == nil {
			counts[mech] = n
		}
	}
	return counts
}

// TLS from the first octet, as mupdate_server: host:port/tls asks for it.
func TestBackendWithTLSFromTheFirstOctet(t *testing.T) {
	t.Parallel()
	p := Issue(t, "mupdate.rig.test", "murder")
	const port = "3906"
	n, err := loopback.Claim()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Release() })
	relay, err := dialogue.Listen(n.Host(81)+":0", n.Host(1)+":"+port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(relay.Close)
	m := newMurder(t, Options{Backends: 1, Net: n}, serverFlags(p, "c1/mupdate.listen_tls=[\""+n.Host(1)+":"+port+"\"]")...)
	m.ours(t)
	be1 := m.Node("be1")
	if err := be1.SetMupdate(relay.Addr() + "/tls"); err != nil {
		t.Fatal(err)
	}
	if err := be1.Restart(); err != nil {
		t.Fatal(err)
	}
	ok(t, signOn(t, be1, m.Admin()), "CREATE user.u1")
	m.lives(t, "user.u1", be1)
	if s := said(relay); len(s) == 0 || contains(s, "AUTHENTICATE") || contains(s, "STARTTLS") {
		t.Errorf("in clear the backend says %q", s)
	}
}

// Behind a load balancer that names its clients, rules by address, and the history, are about those.
func TestClientsBehindALoadBalancer(t *testing.T) {
	t.Parallel()
	const client = "192.0.2.7"
	n, err := loopback.Claim()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Release() })
	m := newMurder(t, Options{Backends: 1, Net: n, MupdateOf: map[string]string{"be1": n.Host(2) + ":3905"}}, "--set", "c1/mupdate.proxies=[\"127.0.0.0/8\"]")
	m.ours(t)
	m.nodes = slices.DeleteFunc(m.nodes, func(addr string) bool { return addr == m.cluster.Addr("c1", "mupdate") })
	header, err := proxyproto.HeaderProxyFromAddrs(2, &net.TCPAddr{IP: net.ParseIP(client), Port: 4711},
		&net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 3905}).Format()
	if err != nil {
		t.Fatal(err)
	}
	nc, err := net.Dial("tcp", m.cluster.Addr("c1", "mupdate"))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(mupdateline.Timeout))
	if _, err := nc.Write(header); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	got, err := nc.Read(buf)
	greeting := string(buf[:got])
	if err != nil || !strings.HasPrefix(greeting, "* AUTH") {
		t.Fatalf("the greeting is %q (%v)", greeting, err)
	}
	// A password is not for the network: the client is elsewhere, whatever the balancer's address.
	if strings.Contains(greeting, `"PLAIN"`) {
		t.Errorf("a client from afar is offered %q", greeting)
	}
	// Without a header nobody is served there.
	bare, err := net.Dial("tcp", m.cluster.Addr("c1", "mupdate"))
	if err != nil {
		t.Fatal(err)
	}
	defer bare.Close()
	bare.SetDeadline(time.Now().Add(mupdateline.Timeout))
	io.WriteString(bare, "X1 NOOP and enough more to be no header\r\n")
	if got, _ := io.ReadAll(bare); strings.Contains(string(got), "MUPDATE") {
		t.Errorf("a client without a header is greeted: %q", got)
	}
	ok(t, signOn(t, m.Node("be1"), m.Admin()), "CREATE user.u1")
}
