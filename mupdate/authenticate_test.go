package mupdate

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/xdg-go/scram"

	"murder/internal/auth"
)

// A4: SCRAM's messages are bare base64 lines, its last one too, which the client answers by an empty line.
func TestScramOnTheWire(t *testing.T) {
	cfg := testConfig(t, newMemory())
	cfg.Auth = testAuth(t, "SCRAM-SHA-256")
	d := dialServer(t, startServer(t, cfg))
	d.nc.SetDeadline(time.Now().Add(patience))
	if got, err := d.line(); err != nil || got != `* AUTH "SCRAM-SHA-256"` {
		t.Fatalf("got %q, %v", got, err)
	}
	if err := d.until("* OK"); err != nil {
		t.Fatal(err)
	}
	client, err := scram.SHA256.NewClient("be-a", testPassword, "")
	if err != nil {
		t.Fatal(err)
	}
	talk := client.NewConversation()
	step := func(challenge string) string {
		t.Helper()
		answer, err := talk.Step(challenge)
		if err != nil {
			t.Fatal(err)
		}
		return base64.StdEncoding.EncodeToString([]byte(answer))
	}
	challenge := func() string {
		t.Helper()
		got, err := d.line()
		plain, bad := base64.StdEncoding.DecodeString(got)
		if err != nil || bad != nil {
			t.Fatalf("got %q, %v", got, err)
		}
		return string(plain)
	}
	first := step("")
	fmt.Fprintf(d.nc, "A01 AUTHENTICATE \"SCRAM-SHA-256\" {%d+}\r\n%s\r\n", len(first), first)
	d.send(step(challenge()) + "\r\n")
	if last := challenge(); !strings.HasPrefix(last, "v=") || step(last) != "" {
		t.Fatalf("the last message is %q", last)
	}
	d.send("\r\n")
	if got, err := d.line(); err != nil || got != `A01 OK "Authenticated"` {
		t.Fatalf("got %q, %v", got, err)
	}
}

// Our own client does the same.
func TestScram(t *testing.T) {
	served := testConfig(t, newMemory())
	served.Auth = testAuth(t, "SCRAM-SHA-256")
	s := startServer(t, served)
	cfg := ClientConfig{Addresses: []string{s.addr}, SASL: Password("be-a", testPassword)}
	c, err := Dial(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Noop(t.Context()); err != nil {
		t.Fatal(err)
	}
	cfg.SASL = Password("be-a", "wrong")
	if _, err := Dial(t.Context(), cfg); err == nil {
		t.Fatal("a wrong password was taken")
	}
}

// What a stranger says fills no log.
func TestLongLoginsAreLoggedShort(t *testing.T) {
	var log bytes.Buffer
	cfg := testConfig(t, newMemory())
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	source, err := testUsers()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Auth = auth.NewMechanisms(auth.Config{Source: source, Mechs: []string{"PLAIN"}, Pause: -1, Logger: cfg.Logger})
	d := dialServer(t, startServer(t, cfg))
	if err := d.until("* OK"); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", 10_000)
	response := base64.StdEncoding.EncodeToString([]byte("\x00" + long + "\x00secret"))
	for _, args := range []string{literal(long), `"PLAIN" ` + literal(response)} {
		d.send("A01 AUTHENTICATE " + args + "\r\n")
		if got, err := d.line(); err != nil || !strings.HasPrefix(got, "A01 NO ") {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	d.nc.Close()
	if n := log.Len(); n == 0 || n > 4096 {
		t.Errorf("%d octets of log", n)
	}
}

func literal(s string) string { return fmt.Sprintf("{%d+}\r\n%s", len(s), s) }
