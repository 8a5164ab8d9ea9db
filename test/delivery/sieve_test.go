//go:build cyrus

package delivery

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// ManageSieve word by word, with real timsieved behind: what a client hears when something is not as it should be,
// and that the session is as good as new afterwards.
func TestManageSieve(t *testing.T) {
	w := newWorld(t, options{
		conf: map[string][]string{"": {"sieve_maxscriptsize: 1024"}},
		flags: []string{"--user", "frank:" + password, "--user", "erin:" + password, "--set", "f2/sieve.referrals=true",
			"--set", `f2/backends.servers."be1.rig.test".public="imap1.example.org"`},
	})
	addr := w.cluster.Addr("f1", "sieve")

	t.Run("large script behind the login", func(t *testing.T) {
		s := dialSieve(t, addr)
		script := "keep;\r\n" + strings.Repeat("# "+strings.Repeat("x", 74)+"\r\n", 200<<10/78)
		s.send(s.login("", "alice") + fmt.Sprintf("PUTSCRIPT \"big\" {%d+}\r\n%s\r\nLISTSCRIPTS\r\n", len(script), script))
		s.want("OK")
		s.want("OK")
		if got := s.want("OK"); !strings.Contains(got, `"big"`) {
			t.Errorf("scripts are %q", got)
		}
		s.send("GETSCRIPT \"big\"\r\n")
		if got := s.want("OK"); !strings.Contains(got, script) {
			t.Errorf("%d octets came back of %d", len(got), len(script))
		}
	})

	t.Run("UNAUTHENTICATE", func(t *testing.T) {
		s := dialSieve(t, addr)
		s.say(s.login("", "alice"), "OK")
		if got := s.say("CAPABILITY\r\n", "OK"); strings.Contains(got, "UNAUTHENTICATE") {
			t.Errorf("it is offered: %q", got)
		}
		s.say("UNAUTHENTICATE\r\n", "NO")
		if got := s.say("LISTSCRIPTS\r\n", "OK"); !strings.Contains(got, `"big"`) {
			t.Errorf("scripts are %q", got)
		}
	})

	t.Run("in another's name", func(t *testing.T) {
		s := dialSieve(t, addr)
		s.say(s.login("alice", w.rig.Admin()), "OK")
		if got := s.say("LISTSCRIPTS\r\n", "OK"); !strings.Contains(got, `"big"`) {
			t.Errorf("scripts are %q", got)
		}
		s = dialSieve(t, addr)
		s.say(s.login("carol", "alice"), "NO") // no administrator
		s.say(s.login("", "alice"), "OK")
	})

	t.Run("referral", func(t *testing.T) {
		s := dialSieve(t, w.cluster.Addr("f2", "sieve"))
		s.say(s.login("", "alice"), "OK")
		s.say("LISTSCRIPTS\r\n", `BYE (REFERRAL "sieve://imap1.example.org`)
		if rest, err := io.ReadAll(s.r); len(rest) != 0 || err != nil {
			t.Errorf("then came %q %v", rest, err)
		}
		s = dialSieve(t, w.cluster.Addr("f2", "sieve")) // a backend without a public name
		s.say(s.login("", "carol"), "OK")
		s.say("LISTSCRIPTS\r\n", "OK")
	})

	t.Run("reserved, and no mailbox", func(t *testing.T) {
		if err := writer(t, w.cluster, "c1").Reserve(t.Context(), "user.frank", "be1.rig.test!default"); err != nil {
			t.Fatal(err)
		}
		s := dialSieve(t, addr)
		s.say(s.login("", "frank"), "NO (TRYLATER)")
		s.say(s.login("", "erin"), `NO "No mailbox`)
		s.say(s.login("", "alice"), "OK")
	})

	t.Run("a backend is down", func(t *testing.T) {
		if err := w.be2.Stop(); err != nil {
			t.Fatal(err)
		}
		s := dialSieve(t, addr)
		s.say(s.login("", "carol"), "NO (TRYLATER)")
		s.say(s.login("", "alice"), "OK")
		if got := s.say("LISTSCRIPTS\r\n", "OK"); !strings.Contains(got, `"big"`) {
			t.Errorf("scripts are %q", got)
		}
	})
}

// sieveClient says what it is told.
type sieveClient struct {
	t  *testing.T
	nc net.Conn
	r  *bufio.Reader
}

func dialSieve(t *testing.T, addr string) *sieveClient {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	return newSieve(t, nc)
}

func newSieve(t *testing.T, nc net.Conn) *sieveClient {
	t.Helper()
	nc.SetDeadline(time.Now().Add(time.Minute))
	s := &sieveClient{t, nc, bufio.NewReader(nc)}
	s.want("OK")
	return s
}

// login is the command for it.
func (s *sieveClient) login(authz, authc string) string {
	return fmt.Sprintf("AUTHENTICATE \"PLAIN\" \"%s\"\r\n", plain(authz, authc))
}

func (s *sieveClient) send(text string) {
	s.t.Helper()
	if _, err := io.WriteString(s.nc, text); err != nil {
		s.t.Fatal(err)
	}
}

func (s *sieveClient) say(text, want string) string {
	s.t.Helper()
	s.send(text)
	return s.want(want)
}

// want reads one response, whose last line must begin so, and returns all of it.
func (s *sieveClient) want(prefix string) string {
	s.t.Helper()
	var all strings.Builder
	for {
		line, err := s.r.ReadString('\n')
		if err != nil {
			s.t.Fatalf("want %s: %v after %.200q", prefix, err, all.String())
		}
		all.WriteString(line)
		var size int
		if open := strings.LastIndexByte(line, '{'); open >= 0 && strings.HasSuffix(line, "}\r\n") {
			if _, err := fmt.Sscanf(line[open:], "{%d", &size); err == nil {
				if _, err := io.CopyN(&all, s.r, int64(size)); err != nil {
					s.t.Fatal(err)
				}
				continue
			}
		}
		if word, _, _ := strings.Cut(strings.TrimRight(line, "\r\n"), " "); word == "OK" || word == "NO" || word == "BYE" {
			if !strings.HasPrefix(line, prefix) {
				s.t.Fatalf("got %q, want %s", line, prefix)
			}
			return all.String()
		}
	}
}
