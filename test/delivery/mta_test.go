//go:build cyrus

package delivery

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// mta is an LMTP client that says what it is told.
type mta struct {
	t  testing.TB
	nc net.Conn
	r  *bufio.Reader
}

func dialMTA(t testing.TB, network, addr string) *mta {
	t.Helper()
	nc, err := net.DialTimeout(network, addr, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(time.Minute))
	m := &mta{t, nc, bufio.NewReader(nc)}
	m.want("220 ")
	m.say("LHLO mta.example.org", "250 Ok SESSIONID=")
	return m
}

// reply reads one reply and returns its lines.
func (m *mta) reply() string {
	m.t.Helper()
	var all strings.Builder
	for {
		line, err := m.r.ReadString('\n')
		if err != nil {
			m.t.Fatalf("reading a reply: %v after %q", err, all.String())
		}
		all.WriteString(line)
		if len(line) < 4 || line[3] != '-' {
			return strings.TrimRight(all.String(), "\r\n")
		}
	}
}

// want reads one reply for each prefix; of several lines the last counts.
func (m *mta) want(prefixes ...string) {
	m.t.Helper()
	for _, want := range prefixes {
		got := m.reply()
		if last := got[strings.LastIndexByte(got, '\n')+1:]; !strings.HasPrefix(last, want) {
			m.t.Fatalf("got %q, want %q", got, want)
		}
	}
}

func (m *mta) send(text string) {
	m.t.Helper()
	if _, err := m.nc.Write([]byte(text)); err != nil {
		m.t.Fatal(err)
	}
}

func (m *mta) say(command, want string) {
	m.t.Helper()
	m.send(command + "\r\n")
	m.want(want)
}

// transaction sends a message to recipients that are all accepted. replies are those after the data.
func (m *mta) transaction(from, message string, rcpts []string, replies ...string) {
	m.t.Helper()
	m.say("MAIL FROM:"+from, "250 ")
	for _, r := range rcpts {
		m.say("RCPT TO:"+r, "250 2.1.5")
	}
	m.say("DATA", "354 ")
	m.send(message + ".\r\n")
	m.want(replies...)
}

// letter is a message with all that Cyrus recognises one by.
func letter(id, body string) string {
	return fmt.Sprintf("From: a@example.org\r\nTo: b@example.org\r\nDate: Mon, 23 Nov 2026 10:00:00 +0000\r\nMessage-ID: <%s@example.org>\r\nSubject: %s\r\n\r\n%s", id, id, body)
}
