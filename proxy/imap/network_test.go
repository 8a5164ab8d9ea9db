package imap

import (
	"bufio"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"murder/internal/auth"
	"murder/internal/backend"
	"murder/internal/mbox"
)

// fromTheNetwork makes a rig believe that clients who say so come from there: through a load balancer.
func fromTheNetwork(c *Config) { c.Proxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} }

// openAs is open with the header of a load balancer.
func (r *rig) openAs(name, address string) *dialogue {
	r.t.Helper()
	d := r.open(name)
	d.raw("PROXY TCP4 " + address + " 192.0.2.1 4242 143\r\n")
	return d
}

// secure makes the connection TLS, after the server has agreed.
func (d *dialogue) secure() *tls.Conn {
	d.t.Helper()
	conn := tls.Client(d.conn, &tls.Config{InsecureSkipVerify: true})
	conn.SetDeadline(time.Now().Add(d.patience))
	if err := conn.Handshake(); err != nil {
		d.t.Fatal(err)
	}
	d.conn, d.r = conn, bufio.NewReader(conn)
	return conn
}

// 2, 3, 4: from beyond loopback passwords need TLS; what was sent too early is in no log.
func TestPasswordsNeedTLS(t *testing.T) {
	r := newRig(t, fromTheNetwork, func(c *Config) { c.TLS = selfSigned(t) })
	d := r.openAs("A", "192.0.2.7")
	for _, first := range []string{"* OK [CAPABILITY ...", "* CAPABILITY ..."} {
		got := d.expect(first)
		if !strings.Contains(got, "STARTTLS") || !strings.Contains(got, "LOGINDISABLED") || strings.Contains(got, "AUTH=PLAIN") {
			t.Errorf("%s", got)
		}
		d.send("a CAPABILITY")
	}
	d.expect("a OK ...")
	d.expect("* CAPABILITY ...")
	d.expect("a OK ...")
	d.send("b LOGIN alice topsecret")
	d.expect("b NO [PRIVACYREQUIRED] ...")
	d.send("c AUTHENTICATE PLAIN " + base64.StdEncoding.EncodeToString([]byte("\x00alice\x00topsecret")))
	d.expect("c NO [PRIVACYREQUIRED] ...")
	d.send("d STARTTLS")
	d.expect("d OK ...")
	d.secure()
	d.send("e CAPABILITY")
	if got := d.expect("* CAPABILITY ..."); strings.Contains(got, "STARTTLS") || strings.Contains(got, "LOGINDISABLED") || !strings.Contains(got, "AUTH=PLAIN") {
		t.Errorf("%s", got)
	}
	d.expect("e OK ...")
	d.send("f LOGIN alice wrongsecret")
	d.expect("f NO [AUTHENTICATIONFAILED] ...")
	d.send("g LOGIN alice pw")
	d.expect("g OK ...")
	d.send("h SELECT INBOX")
	d.until("h")
	if got := r.srv.Sessions()[0]; got.Peer != "192.0.2.7:4242" || !got.TLS {
		t.Errorf("%+v", got)
	}
	if !r.stubs["b1"].saw(`"x-originating-ip" "192.0.2.7"`) {
		t.Error("the backend has not heard where the client is")
	}
	if log := r.log.String(); !strings.Contains(log, "peer=192.0.2.7:4242") || strings.Contains(log, "secret") || strings.Contains(log, "dG9wc2VjcmV0") {
		t.Error(log)
	}
}

// Who is told to come from somewhere, and is no load balancer, is not believed.
func TestNobodyPretends(t *testing.T) {
	r := newRig(t)
	d := r.openAs("A", "192.0.2.7")
	d.expect("* OK ...")
	d.expect("* BYE This is an IMAP server")
	strict := newRig(t, fromTheNetwork)
	d = strict.open("A")
	d.send("a NOOP")
	d.end()
}

// The number of sessions of one address is that of the client's.
func TestPerAddressBehindABalancer(t *testing.T) {
	r := newRig(t, fromTheNetwork, func(c *Config) { c.Limits.PerAddress = 1 })
	r.openAs("A", "192.0.2.7").expect("* OK ...")
	r.openAs("B", "192.0.2.7").expect("* BYE [UNAVAILABLE] ...too many connections from one address...")
	r.openAs("C", "192.0.2.8").expect("* OK ...")
}

// 61: members of a group see what it may see, and for five minutes at most when they are members no more.
func TestGroups(t *testing.T) {
	path := filepath.Join(t.TempDir(), "group")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("# ours\nstaff:x:50:bob,alice\n")
	groups, err := auth.OpenGroups(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	inVirtualTime(t, rigOptions{config: []func(*Config){func(c *Config) {
		c.Auth = auth.NewMechanisms(auth.Config{Source: accounts(), Groups: groups, Pause: -1})
	}}}, func(t *testing.T, r *rig) {
		r.stubs["b2"].add("meeting", "group:staff\tlr\t")
		r.stubs["b2"].add("secretmeeting", "group:staff\tlr\t-alice\tl\t")
		d := r.login("A", "alice")
		see := func(want bool) {
			t.Helper()
			d.send(`a LIST "" "*meeting"`)
			got := d.until("a")
			if seen := len(got) == 2 && strings.HasSuffix(got[0], `"Shared Folders/meeting"`); seen != want || len(got) > 2 {
				t.Errorf("%q", got)
			}
			d.send(`b MYRIGHTS "Shared Folders/meeting"`)
			if got := d.until("b"); (len(got) == 2) != want {
				t.Errorf("%q", got)
			}
		}
		see(true)
		write("staff:x:50:bob\n")
		time.Sleep(groupsFor + time.Second)
		see(false)
		write("staff:x:50:alice\n")
		time.Sleep(groupsFor + time.Second)
		see(true)
	})
}

// 116: a backend whose certificate is not trusted is not used, least of all in clear.
func TestBackendNotTrusted(t *testing.T) {
	cert := selfSigned(t)
	for _, policy := range []backend.TLSPolicy{backend.StartTLS, backend.Implicit} {
		clear := make(chan string, 100) // what is said before TLS
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		go func() {
			for {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					if policy == backend.StartTLS {
						conn.Write([]byte("* OK [CAPABILITY IMAP4rev1 STARTTLS AUTH=PLAIN] ready\r\n"))
						r := bufio.NewReader(conn)
						line, _ := r.ReadString('\n')
						clear <- line
						tag, _, _ := strings.Cut(line, " ")
						conn.Write([]byte(tag + " OK go\r\n"))
					}
					if err := tls.Server(conn, cert).Handshake(); err == nil {
						clear <- "the handshake succeeded"
					}
				}()
			}
		}()
		r := rigOptions{settings: func(server mbox.Server, s *backend.Settings) {
			if server == "b2" {
				s.TLS, s.Verify = policy, backend.VerifyCA
				s.Ports = map[backend.Service]int{backend.IMAP: ln.Addr().(*net.TCPAddr).Port}
			}
		}}.make(t)
		d := r.login("A", "alice")
		d.send(`a SELECT "Shared Folders/shared"`)
		d.expect("a NO [UNAVAILABLE] ...")
		d.send("b SELECT INBOX")
		d.until("b")
		ln.Close()
		close(clear)
		for line := range clear {
			if !strings.HasSuffix(strings.TrimSpace(line), " STARTTLS") {
				t.Errorf("said in clear: %q", line)
			}
		}
		if !strings.Contains(r.log.String(), "certificate") {
			t.Error("the log does not say why")
		}
	}
}

// 6 and 8: what one backend lacks nobody is promised; what the operator hides nobody sees.
func TestCapabilitiesOfAll(t *testing.T) {
	r := rigOptions{config: []func(*Config){func(c *Config) { c.Suppress = []string{"special-use"}; c.ProbeInterval = time.Minute }}, stubs: func(b *stub) {
		if b.name == "b2" {
			b.caps = strings.NewReplacer(" QRESYNC", "", " CONDSTORE", "").Replace(b.caps)
		}
	}}.make(t)
	eventually(t, "both have been looked at", func() bool {
		return r.srv.caps.of("b1") != nil && r.srv.caps.of("b2") != nil
	})
	d := r.login("A", "alice")
	d.send("a CAPABILITY")
	got := parseCaps(strings.TrimPrefix(d.expect("* CAPABILITY ..."), "* CAPABILITY "))
	d.expect("a OK ...")
	for name, want := range map[string]bool{"QRESYNC": false, "CONDSTORE": false, "SPECIAL-USE": false, "LITERAL+": true, "MOVE": true, "UIDPLUS": true} {
		if got.has(name) != want {
			t.Errorf("%s: %v", name, got.has(name))
		}
	}
	d.send("b ENABLE QRESYNC")
	d.expect("* ENABLED")
	d.expect("b OK ...")
	// A session keeps what it was promised; a backend that has lost it fails alone.
	first := rigOptions{}.make(t)
	for _, box := range []string{"INBOX", `"Shared Folders/shared"`} {
		w := first.login("W", "alice")
		w.send("a STATUS " + box + " (MESSAGES)")
		w.until("a")
	}
	d = first.login("A", "alice")
	d.send("a ENABLE QRESYNC")
	d.expect("* ENABLED QRESYNC")
	d.expect("a OK ...")
	first.stubs["b2"].fail("ENABLE", `* ENABLED\nTAG OK nothing`)
	d.send(`b STATUS "Shared Folders/shared" (MESSAGES)`)
	d.expect("b NO [CANNOT] ...")
	d.send("c STATUS INBOX (MESSAGES)")
	d.expect("* STATUS ...")
	d.expect("c OK ...")
}

// 1: the greeting needs nobody.
func TestGreetingNeedsNobody(t *testing.T) {
	inVirtualTime(t, rigOptions{}, func(t *testing.T, r *rig) {
		for _, b := range r.stubs {
			b.stop()
		}
		takes(t, atOnce, atOnce, "the greeting", func() { r.open("A").expect("* OK [CAPABILITY IMAP4rev1 ...") })
	})
}

// A backend that has been taken out of service, which no mailbox is at and no configuration names, no longer
// keeps from the users what it could not do.
func TestBackendTakenOutOfService(t *testing.T) {
	inVirtualTime(t, rigOptions{config: []func(*Config){func(c *Config) { c.ProbeInterval = time.Minute }}, stubs: func(b *stub) {
		if b.name == "b2" {
			b.caps = strings.Replace(b.caps, " QRESYNC", "", 1)
		}
	}}, func(t *testing.T, r *rig) {
		offered := func() bool { time.Sleep(2 * time.Minute); return r.srv.caps.offered().has("QRESYNC") }
		if offered() {
			t.Error("offered, though one backend lacks it")
		}
		set := r.srv.cfg.Backends.(*backend.Set)
		set.Update(backend.Settings{}, map[mbox.Server]backend.Settings{"b1": set.Settings("b1")})
		if offered() {
			t.Error("offered, though a backend with mailboxes lacks it")
		}
		var last []mbox.Name
		r.dir.View().Ascend("", func(e mbox.Entry) bool {
			if e.Location.Server() == "b2" {
				last = append(last, e.Name)
			}
			return true
		})
		for _, name := range last {
			r.stubs["b2"].drop(name)
		}
		if !offered() {
			t.Error("a backend that is gone still counts")
		}
	})
}

// One connection, two users one after the other: each has a login and a logout of its own in the log, with
// the octets of its own time, and no line names both.
func TestTwoUsersOneAfterTheOther(t *testing.T) {
	r := newRig(t)
	d := r.login("A", "alice")
	d.send("a SELECT INBOX")
	d.until("a")
	d.send("b UNAUTHENTICATE")
	d.expect("* OK [CLOSED] ...")
	d.expect("b OK [CAPABILITY ...AUTH=PLAIN...] ...")
	d.send("c SELECT INBOX")
	d.expect("c BAD Log in first")
	d.send("d LOGIN bob pw")
	d.expect("d OK ...")
	d.send("e SELECT INBOX")
	d.expect("* 0 EXISTS")
	d.until("e")
	d.send("f LOGOUT")
	d.until("f")
	eventually(t, "the session is gone", func() bool { return len(r.srv.Sessions()) == 0 })
	seen := map[string]int{}
	for line := range strings.Lines(r.log.String()) {
		if strings.Count(line, "user=") > 1 {
			t.Errorf("two users: %s", line)
		}
		for _, user := range []string{"alice", "bob"} {
			for _, what := range []string{"login", "logout"} {
				if strings.Contains(line, "msg="+what+" ") && strings.Contains(line, "user="+user) {
					seen[what+" "+user]++
				}
			}
		}
		if strings.Contains(line, "msg=logout") && strings.Contains(line, "user=bob") && !strings.Contains(line, " in=58 ") {
			t.Errorf("octets of another: %s", line)
		}
	}
	if len(seen) != 4 || slices.Max(slices.Collect(maps.Values(seen))) > 1 {
		t.Errorf("%v", seen)
	}
}

// What operators count: commands by what came of them, for the client and at each backend, and who got in.
func TestMetrics(t *testing.T) {
	metrics := prometheus.NewRegistry()
	r := newRig(t, func(c *Config) { c.Metrics = metrics })
	d := r.login("A", "alice")
	r.stubs["b1"].fail("STATUS", "TAG NO [SERVERBUG] disk")
	for _, box := range []string{"INBOX", "INBOX", `"Shared Folders/shared"`} {
		d.send("a STATUS " + box + " (MESSAGES)")
		d.until("a")
	}
	r.stubs["b2"].stop()
	d.send(`a STATUS "Shared Folders/shared" (MESSAGES)`)
	d.expect("a NO [UNAVAILABLE] ...")
	other := r.open("B")
	other.expect("* OK ...")
	other.send("a LOGIN alice wrong")
	other.expect("a NO ...")
	for _, c := range []struct {
		want   float64
		metric string
		labels []string
	}{
		{2, "commands_total", []string{"verb=STATUS", "outcome=ok"}},
		{1, "commands_total", []string{"verb=STATUS", "outcome=no"}},
		{1, "commands_total", []string{"verb=STATUS", "outcome=unavailable"}},
		{1, "backend_commands_total", []string{"backend=b1", "outcome=ok"}},
		{1, "backend_commands_total", []string{"backend=b1", "outcome=no"}},
		{1, "backend_commands_total", []string{"backend=b2", "outcome=ok"}},
		{1, "backend_connections_total", []string{"backend=b1", "outcome=ok"}},
		{1, "backend_connections_total", []string{"backend=b2", "outcome=ok"}},
		{1, "backend_connections_total", []string{"backend=b2", "outcome=unreachable"}},
		{1, "backend_connections", []string{"backend=b1"}},
		{0, "backend_connections", []string{"backend=b2"}},
		{1, "logins_total", []string{"outcome=ok"}},
		{1, "logins_total", []string{"outcome=refused"}},
		{2, "sessions", nil},
	} {
		eventually(t, fmt.Sprintf("%s %q is %v", c.metric, c.labels, c.want), func() bool { // nobody waits for the count
			return counted(metrics, "murder_imap_"+c.metric, c.labels...) == c.want
		})
	}
}
