package process

import (
	"bufio"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/xdg-go/scram"

	"murder/internal/tlsconf"
	"murder/test/harness"
	"murder/test/mupdateline"
)

func session(t *testing.T, addr, user string) *mupdateline.Conn {
	t.Helper()
	m, err := mupdateline.Login(addr, user, password)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// status is how a command is answered.
func status(m *mupdateline.Conn, verb string, args ...string) string {
	_, err := m.Do(verb, args...)
	var refused *mupdateline.RefusedError
	switch {
	case errors.As(err, &refused):
		return refused.Status + " " + refused.Text
	case err != nil:
		return err.Error()
	}
	return "OK"
}

// A frontend with read_only answers as a Cyrus slave does; what is written elsewhere it shows as ever.
func TestReadOnlyFrontend(t *testing.T) {
	c := harness.Start(t, harness.Options{Args: []string{"--demo-backends", "0", "--set", "f1/mupdate.read_only=true"}})
	slave, master := session(t, c.Addr("f1", "mupdate"), admin), session(t, c.Addr("c1", "mupdate"), admin)
	for _, command := range [][]string{
		{"RESERVE", "user.u", "b1!p"}, {"ACTIVATE", "user.u", "b1!p", "u\tl\t"}, {"DEACTIVATE", "user.u", "b1!p"}, {"DELETE", "user.u"},
	} {
		if got := status(slave, command[0], command[1:]...); got != "BAD read-only session" {
			t.Errorf("%q is answered %q", command, got)
		}
	}
	if got := status(master, "ACTIVATE", "user.u", "b1!p", "u\tl\t"); got != "OK" {
		t.Fatal(got)
	}
	if row, err := slave.Find("user.u"); err != nil || row.Location != "b1!p" {
		t.Errorf("FIND: %+v %v", row, err)
	}
	follower := session(t, c.Addr("f1", "mupdate"), admin)
	if rows, err := follower.Do("UPDATE"); err != nil || len(rows) != 1 {
		t.Errorf("UPDATE: %+v %v", rows, err)
	}
}

// All backends share a login, and which servers they are is known by their addresses: the longest prefix that
// fits counts.
func TestIdentitiesByAddress(t *testing.T) {
	c := harness.Start(t, harness.Options{Args: []string{"--demo-backends", "0",
		"--set", `mupdate.peers."127.0.0.0/8".servers=["b1", "b2"]`, "--set", `f1/mupdate.peers."127.0.0.0/9".servers=["b2"]`}})
	near, far := session(t, c.Addr("c1", "mupdate"), "murder"), session(t, c.Addr("f1", "mupdate"), "murder")
	for _, x := range []struct {
		at    *mupdateline.Conn
		words []string
		want  string
	}{
		{near, []string{"ACTIVATE", "user.u", "b1!p", "u\tl\t"}, "OK"},
		{near, []string{"ACTIVATE", "user.v", "b3!p", "u\tl\t"}, "NO not permitted: this identity may not write for b3"},
		{far, []string{"ACTIVATE", "user.w", "b2!p", "u\tl\t"}, "OK"},
		{far, []string{"ACTIVATE", "user.w", "b1!p", "u\tl\t"}, "NO not permitted: this identity may not write for b1"},
		// DELETE names no server: the address does.
		{far, []string{"DELETE", "user.u"}, "NO conflict: user.u is held by b1"},
		{near, []string{"DELETE", "user.u"}, "OK"},
	} {
		if got := status(x.at, x.words[0], x.words[1:]...); got != x.want {
			t.Errorf("%q is answered %q, want %q", x.words, got, x.want)
		}
	}
}

// secure is a raw session in TLS, from before the login.
type secure struct {
	*tls.Conn
	r     *bufio.Reader
	mechs string
}

func (s *secure) line(t *testing.T) string {
	t.Helper()
	line, err := s.r.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(line, "\r\n")
}

func (s *secure) say(line string) { io.WriteString(s, line+"\r\n") }

func startTLS(t *testing.T, addr string, cfg *tls.Config) *secure {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(patience))
	greeting := func(r *bufio.Reader) (mechs string) {
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			if rest, ok := strings.CutPrefix(line, "* AUTH"); ok {
				mechs = rest
			}
			if strings.HasPrefix(line, "* OK") {
				return mechs
			}
		}
	}
	r := bufio.NewReader(nc)
	if mechs := greeting(r); strings.Contains(mechs, "PLUS") || strings.Contains(mechs, "EXTERNAL") {
		t.Errorf("in clear are offered%s", mechs)
	}
	io.WriteString(nc, "S01 STARTTLS\r\n")
	if line, err := r.ReadString('\n'); err != nil || !strings.HasPrefix(line, "S01 OK") {
		t.Fatalf("%q %v", line, err)
	}
	s := &secure{Conn: tls.Client(nc, cfg)}
	if err := s.Handshake(); err != nil {
		t.Fatal(err)
	}
	s.r = bufio.NewReader(s)
	s.mechs = greeting(s.r)
	return s
}

// scramPlus signs on with channel binding and returns the last answer.
func (s *secure) scramPlus(t *testing.T, user string, state tls.ConnectionState) string {
	t.Helper()
	client, err := scram.SHA256.NewClient(user, password, "")
	if err != nil {
		t.Fatal(err)
	}
	binding, err := scram.NewTLSExporterBinding(&state)
	if err != nil {
		t.Fatal(err)
	}
	conv := client.NewConversationWithChannelBinding(binding)
	text, err := conv.Step("")
	s.say(`A01 AUTHENTICATE "SCRAM-SHA-256-PLUS" "` + base64.StdEncoding.EncodeToString([]byte(text)) + `"`)
	for err == nil {
		line := s.line(t)
		if strings.HasPrefix(line, "A01 ") {
			return line
		}
		var challenge []byte
		if challenge, err = base64.StdEncoding.DecodeString(line); err == nil {
			text, err = conv.Step(string(challenge))
		}
		s.say(base64.StdEncoding.EncodeToString([]byte(text)))
	}
	t.Fatal(err)
	return ""
}

// Without a password on the wire: SCRAM bound to the channel, and a client certificate. Both are offered in TLS
// only, the latter only to whom has a certificate.
func TestSignOnWithoutAPassword(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	for _, who := range []string{"server", "be-1"} {
		if err := tlsconf.WriteSelfSigned(file(who+".pem"), file(who+".key"), who, "127.0.0.1"); err != nil {
			t.Fatal(err)
		}
	}
	known, err := os.ReadFile(file("be-1.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file("ca.pem"), known, 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"--demo-backends", "0", "--mupdate-backend", "be-1:" + password + "=b1"}
	for _, set := range []string{"tls.cert_file=" + file("server.pem"), "tls.key_file=" + file("server.key"), "tls.client_ca_file=" + file("ca.pem"),
		`mupdate.mechs=["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "EXTERNAL", "PLAIN"]`} {
		args = append(args, "--set", set)
	}
	c := harness.Start(t, harness.Options{Coordinators: 1, Args: args})
	addr := c.Addr("c1", "mupdate")
	certificate := func(who string) []tls.Certificate {
		cert, err := tls.LoadX509KeyPair(file(who+".pem"), file(who+".key"))
		if err != nil {
			t.Fatal(err)
		}
		return []tls.Certificate{cert}
	}

	plain := startTLS(t, addr, &tls.Config{InsecureSkipVerify: true})
	if want := ` "SCRAM-SHA-256-PLUS" "SCRAM-SHA-256" "PLAIN"`; strings.TrimSpace(plain.mechs) != strings.TrimSpace(want) {
		t.Errorf("without a certificate are offered%s, want%s", plain.mechs, want)
	}
	if got := plain.scramPlus(t, "be-1", plain.ConnectionState()); got != `A01 OK "Authenticated"` {
		t.Errorf("SCRAM-SHA-256-PLUS: %q", got)
	}
	plain.say(`X1 ACTIVATE "user.u" "b1!p" "u	l	"`)
	if got := plain.line(t); got != `X1 OK "done"` {
		t.Errorf("ACTIVATE: %q", got)
	}
	// Somebody in between has another channel with each of the two.
	bent := startTLS(t, addr, &tls.Config{InsecureSkipVerify: true})
	if got := bent.scramPlus(t, "be-1", plain.ConnectionState()); !strings.HasPrefix(got, "A01 NO") {
		t.Errorf("SCRAM-SHA-256-PLUS over another channel: %q", got)
	}

	carrier := startTLS(t, addr, &tls.Config{InsecureSkipVerify: true, Certificates: certificate("be-1")})
	if !slices.Contains(strings.Fields(carrier.mechs), `"EXTERNAL"`) {
		t.Errorf("with a certificate are offered%s", carrier.mechs)
	}
	carrier.say(`A01 AUTHENTICATE "EXTERNAL" ={0+}` + "\r\n") // as Cyrus writes it
	if got := carrier.line(t); got != `A01 OK "Authenticated"` {
		t.Errorf("EXTERNAL: %q", got)
	}
	carrier.say(`X1 DELETE "user.u"`)
	if got := carrier.line(t); got != `X1 OK "done"` {
		t.Errorf("DELETE: %q", got)
	}
}
