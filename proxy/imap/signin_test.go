package imap

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/xdg-go/scram"

	"murder/internal/auth"
	"murder/internal/limit"
)

// 20: SCRAM bound to the TLS connection, and to another one.
func TestScramPlus(t *testing.T) {
	r := newRig(t, func(c *Config) {
		c.TLS = selfSigned(t)
		c.Auth = auth.NewMechanisms(auth.Config{Source: accounts(), Pause: -1, Mechs: []string{auth.ScramSHA256Plus, auth.ScramSHA256}})
	})
	var other *tls.ConnectionState
	for _, c := range []struct {
		name   string
		answer string
	}{{"bound to this connection", "x OK ..."}, {"bound to another", "x NO [AUTHENTICATIONFAILED] ..."}} {
		t.Run(c.name, func(t *testing.T) {
			d := r.open(c.name)
			if got := d.expect("* OK ..."); strings.Contains(got, "-PLUS") {
				t.Error("binding is offered in clear")
			}
			d.send("s STARTTLS")
			d.expect("s OK ...")
			state := d.secure().ConnectionState()
			if other == nil {
				other = &state
			}
			d.send("c CAPABILITY")
			d.expect("* CAPABILITY ...AUTH=SCRAM-SHA-256-PLUS...")
			d.expect("c OK ...")
			client, err := scram.SHA256.NewClient("alice", "pw", "")
			if err != nil {
				t.Fatal(err)
			}
			binding, err := scram.NewTLSExporterBinding(other)
			if err != nil {
				t.Fatal(err)
			}
			conv := client.NewConversationWithChannelBinding(binding)
			if got := d.authenticate("SCRAM-SHA-256-PLUS", true, conv.Step); !likeness(c.answer).MatchString(got) {
				t.Errorf("got %q, want %q", got, c.answer)
			}
		})
	}
}

// authenticate carries a mechanism out, with the client's first word at once or when asked for it, and returns the tagged
// answer.
func (d *dialogue) authenticate(mech string, early bool, step func(challenge string) (string, error)) string {
	d.t.Helper()
	say := func(challenge string) string {
		answer, err := step(challenge)
		if err != nil {
			d.t.Fatal(err)
		}
		return base64.StdEncoding.EncodeToString([]byte(answer))
	}
	if early {
		d.send("x AUTHENTICATE " + mech + " " + say(""))
	} else {
		d.send("x AUTHENTICATE " + mech)
	}
	for {
		line, err := d.line()
		if err != nil {
			d.t.Fatal(err)
		}
		challenge, more := strings.CutPrefix(line, "+ ")
		if !more {
			return line
		}
		octets, err := base64.StdEncoding.DecodeString(challenge)
		if err != nil {
			d.t.Fatal(err)
		}
		d.send(say(string(octets)))
	}
}

// Every mechanism that works without a certificate, with its first word at once or when asked for it.
func TestMechanisms(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Auth = auth.NewMechanisms(auth.Config{Source: accounts(), Pause: -1}) })
	words := func(list ...string) func(string) (string, error) {
		return func(string) (word string, err error) { word, list = list[0], list[1:]; return word, nil }
	}
	for mech, begin := range map[string]func(password string) func(string) (string, error){
		"PLAIN": func(password string) func(string) (string, error) { return words("\x00alice\x00" + password) },
		"LOGIN": func(password string) func(string) (string, error) { return words("alice", password) },
		"SCRAM-SHA-1": func(password string) func(string) (string, error) {
			client, _ := scram.SHA1.NewClient("alice", password, "")
			return client.NewConversation().Step
		},
		"SCRAM-SHA-256": func(password string) func(string) (string, error) {
			client, _ := scram.SHA256.NewClient("alice", password, "")
			return client.NewConversation().Step
		},
	} {
		for _, early := range []bool{true, false} {
			d := r.open(mech)
			d.expect("* OK [...AUTH=" + mech + "...")
			if got := d.authenticate(mech, early, begin("wrong")); !likeness("x NO [AUTHENTICATIONFAILED] ...").MatchString(got) {
				t.Errorf("%s with a wrong password: %q", mech, got)
			}
			if got := d.authenticate(strings.ToLower(mech), early, begin("pw")); !likeness("x OK [CAPABILITY ...] ...").MatchString(got) {
				t.Errorf("%s: %q", mech, got)
			}
			d.send("s SELECT INBOX")
			if got := d.until("s"); !strings.HasPrefix(got[len(got)-1], "s OK") {
				t.Errorf("%s: %q", mech, got)
			}
			d.conn.Close()
		}
	}
}

// failing is a source of accounts that cannot be asked while it is down.
type failing struct {
	auth.Source
	down bool
}

func (f *failing) Verify(ctx context.Context, user, password string, c auth.Conn) (auth.Account, error) {
	if f.down {
		return auth.Account{}, errors.New("no route to the directory")
	}
	return f.Source.Verify(ctx, user, password, c)
}

// 19: passwords that cannot be checked are not wrong, and are not counted with those that are.
func TestSourceIsDown(t *testing.T) {
	source := &failing{Source: accounts(), down: true}
	inVirtualTime(t, rigOptions{config: []func(*Config){fromTheNetwork, func(c *Config) {
		c.Auth = auth.NewMechanisms(auth.Config{Source: source, AllowPlaintext: true, Failures: limit.NewFailures(1, time.Hour, 10)})
	}}}, func(t *testing.T, r *rig) {
		login := func(answer string, takesTime time.Duration) {
			t.Helper()
			d := r.openAs("A", "192.0.2.7")
			d.expect("* OK ...")
			for _, cmd := range []string{"LOGIN alice pw", "AUTHENTICATE PLAIN " + base64.StdEncoding.EncodeToString([]byte("\x00alice\x00pw"))} {
				takes(t, takesTime, takesTime, cmd, func() {
					d.send("a " + cmd)
					d.expect("a " + answer)
				})
				if strings.HasPrefix(answer, "OK") {
					d.send("b UNAUTHENTICATE")
					d.until("b")
				}
			}
			d.conn.Close()
		}
		for range 3 {
			login("NO [UNAVAILABLE] ...", atOnce)
		}
		source.down = false
		login("OK ...", atOnce)
		d := r.openAs("A", "192.0.2.7")
		d.expect("* OK ...")
		d.send("a LOGIN alice wrong")
		d.expect("a NO [AUTHENTICATIONFAILED] ...")
		login("NO [UNAVAILABLE] ...", atOnce) // one that is wrong is enough for that
	})
}

// 18: an unknown user and a wrong password get the same answer after the same time, whatever the source.
func TestNobodyIsEnumerated(t *testing.T) {
	inVirtualTime(t, rigOptions{config: []func(*Config){func(c *Config) {
		c.Auth = auth.NewMechanisms(auth.Config{Source: accounts()})
	}}}, func(t *testing.T, r *rig) {
		d := r.open("A")
		d.expect("* OK ...")
		for _, cmd := range []string{"LOGIN alice wrong", "LOGIN nobody wrong", "LOGIN alice \"\"", "LOGIN nobody \"\""} {
			takes(t, 3*time.Second, 3*time.Second, cmd, func() {
				d.send("a " + cmd)
				d.expect("a NO [AUTHENTICATIONFAILED] Authentication failed.")
			})
		}
	})
}

// What deploy/fail2ban looks for is what is logged of a wrong password, once, and of nothing else.
func TestFail2ban(t *testing.T) {
	filter, err := os.ReadFile("../../deploy/fail2ban/murder.conf")
	if err != nil {
		t.Fatal(err)
	}
	var patterns []*regexp.Regexp
	_, rest, _ := strings.Cut(string(filter), "failregex = ")
	lines, _, _ := strings.Cut(rest, "ignoreregex")
	for line := range strings.Lines(lines) {
		if line = strings.TrimLeft(strings.TrimRight(line, "\n"), " "); line != "" {
			patterns = append(patterns, regexp.MustCompile(strings.ReplaceAll(line, "<ADDR>", `([0-9a-fA-F.:]+)`)))
		}
	}
	for name, handler := range map[string]func(io.Writer) slog.Handler{
		"text": func(w io.Writer) slog.Handler { return slog.NewTextHandler(w, nil) },
		"json": func(w io.Writer) slog.Handler { return slog.NewJSONHandler(w, nil) },
	} {
		for _, peer := range []string{"192.0.2.7", "2001:db8::7"} {
			t.Run(name+" "+peer, func(t *testing.T) {
				var log lockedBuffer
				r := newRig(t, fromTheNetwork, func(c *Config) {
					c.Logger = slog.New(handler(&log))
					c.Auth = auth.NewMechanisms(auth.Config{Source: accounts(), Pause: -1, AllowPlaintext: true, Logger: c.Logger})
				})
				d := r.open("A")
				family := map[bool]string{false: "TCP4 " + peer + " 192.0.2.1", true: "TCP6 " + peer + " 2001:db8::1"}[strings.Contains(peer, ":")]
				d.raw("PROXY " + family + " 4242 143\r\n")
				d.expect("* OK ...")
				d.send("a LOGIN alice wrong")
				d.expect("a NO ...")
				d.send("b LOGIN alice pw")
				d.expect("b OK ...")
				var found []string
				for line := range strings.Lines(log.String()) {
					for _, p := range patterns {
						if m := p.FindStringSubmatch(line); m != nil {
							found = append(found, m[1])
						}
					}
				}
				if !slices.Equal(found, []string{peer}) {
					t.Errorf("found %q in %s", found, log.String())
				}
			})
		}
	}
}
