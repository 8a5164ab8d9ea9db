package demo

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"
	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"murder/internal/mbox"
)

// ledger is a map that remembers what it was told, and refuses names that hold "refused".
type ledger struct {
	mu   sync.Mutex
	said []string
}

func (l *ledger) Create(_ context.Context, n mbox.Name, loc mbox.Location, _ mbox.ACL) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if strings.Contains(string(n), "refused") {
		return errors.New("mailbox already exists")
	}
	l.said = append(l.said, "create "+string(n)+" "+string(loc))
	return nil
}

func (l *ledger) Delete(_ context.Context, n mbox.Name) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.said = append(l.said, "delete "+string(n))
	return nil
}

// An administrator makes a user, mail arrives, the user reads it through proxy authorization, and the
// map has heard of every mailbox.
func TestStory(t *testing.T) {
	var l ledger
	b := New(Config{
		Name: "b1", Namespace: mbox.Namespace{Alt: true}, Registrar: &l,
		Admins: map[string]string{"cyrus": "pw", "murder": "pw"},
		Users:  map[string]string{"u1": "pw"}, Logger: slog.New(slog.DiscardHandler),
	})
	imapAddr, lmtpAddr := serve(t, b.ServeIMAP), serve(t, b.ServeLMTP)
	t.Cleanup(func() { b.Close() })

	admin := dial(t, imapAddr, "cyrus")
	check(t, admin.Create("user/u1", nil).Wait())
	check(t, admin.Create("user/u2", nil).Wait())

	conn, err := net.Dial("tcp", lmtpAddr)
	check(t, err)
	c := smtp.NewClientLMTP(conn)
	check(t, c.Auth(sasl.NewPlainClient("", "murder", "pw")))
	check(t, c.Mail("x@example.org", nil))
	check(t, c.Rcpt("u1@example.org", nil))
	check(t, c.Rcpt("u2", nil)) // no domain
	if err := c.Rcpt("nobody@example.org", nil); err == nil {
		t.Error("mail for an unknown user was accepted")
	}
	w, err := c.Data()
	check(t, err)
	_, err = w.Write([]byte("Subject: hello\r\n\r\nRCPT TO:<left alone>\r\n"))
	check(t, err)
	check(t, w.Close())

	u1 := dial(t, imapAddr, "u1")
	check(t, u1.Create("Work", nil).Wait())
	if err := u1.Create("refused", nil).Wait(); err == nil {
		t.Error("a mailbox that the map refused was created")
	}
	check(t, u1.Rename("Work", "Play", nil).Wait())
	if _, err := u1.Select("Other Users/u2", nil).Wait(); err == nil {
		t.Error("u1 opened a mailbox of u2")
	}
	sel, err := u1.Select("INBOX", nil).Wait()
	check(t, err)
	if sel.NumMessages != 1 {
		t.Errorf("INBOX holds %d messages, want 1", sel.NumMessages)
	}
	body := &imap.FetchItemBodySection{}
	messages, err := u1.Fetch(imap.SeqSetNum(1), &imap.FetchOptions{BodySection: []*imap.FetchItemBodySection{body}}).Collect()
	check(t, err)
	if text := messages[0].FindBodySection(body); !strings.HasSuffix(string(text), "\r\nRCPT TO:<left alone>\r\n") {
		t.Errorf("the message was changed: %q", text)
	}
	list, err := u1.List("", "*", nil).Collect()
	check(t, err)
	var names []string
	for _, d := range list {
		names = append(names, d.Mailbox)
	}
	if want := []string{"INBOX", "Play"}; !slices.Equal(names, want) {
		t.Errorf("u1 sees %q, want %q", names, want)
	}
	want := []string{
		"create user.u1 b1!default", "create user.u2 b1!default", "create user.u1.Work b1!default",
		"delete user.u1.Work", "create user.u1.Play b1!default",
	}
	if !slices.Equal(l.said, want) {
		t.Errorf("the map heard %q, want %q", l.said, want)
	}
}

func serve(t *testing.T, f func(net.Listener) error) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	go f(ln)
	return ln.Addr().String()
}

// dial signs on as the proxy does.
func dial(t *testing.T, addr, user string) *imapclient.Client {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	check(t, err)
	c := imapclient.New(conn, &imapclient.Options{})
	t.Cleanup(func() { c.Close() })
	check(t, c.Authenticate(sasl.NewPlainClient(user, "murder", "pw")))
	if !c.Caps().Has(imap.CapIMAP4rev1) {
		t.Error("no IMAP4rev1 after login")
	}
	return c
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
