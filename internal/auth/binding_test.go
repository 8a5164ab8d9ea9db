package auth

import (
	"crypto/tls"
	"errors"
	"net"
	"testing"

	"github.com/xdg-go/scram"

	"murder/internal/tlsconf"
)

// tlsPair returns both ends' states of one TLS 1.3 connection.
func tlsPair(t *testing.T) (client, server tls.ConnectionState) {
	t.Helper()
	certPEM, keyPEM, err := tlsconf.SelfSigned("localhost")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	s := tls.Server(b, &tls.Config{Certificates: []tls.Certificate{cert}, SessionTicketsDisabled: true})
	c := tls.Client(a, &tls.Config{InsecureSkipVerify: true})
	done := make(chan error)
	go func() { done <- s.Handshake() }()
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return c.ConnectionState(), s.ConnectionState()
}

func TestChannelBinding(t *testing.T) {
	mine, theirs := tlsPair(t)
	other, _ := tlsPair(t)
	conn := remote
	conn.TLS = &theirs
	m := mechanisms(t, Config{Mechs: []string{ScramSHA256, ScramSHA256Plus}})
	bound := func(state *tls.ConnectionState) func(*scram.Client) *scram.ClientConversation {
		return func(c *scram.Client) *scram.ClientConversation {
			b, err := scram.NewTLSExporterBinding(state)
			if err != nil {
				t.Fatal(err)
			}
			return c.NewConversationWithChannelBinding(b)
		}
	}
	for _, c := range []struct {
		name, mech string
		conv       func(*scram.Client) *scram.ClientConversation
		err        error
	}{
		{"bound", ScramSHA256Plus, bound(&mine), nil},
		{"bound to another connection", ScramSHA256Plus, bound(&other), ErrRejected},
		{"unbound", ScramSHA256Plus, (*scram.Client).NewConversation, ErrMalformed},
		{"unbound, plain variant", ScramSHA256, (*scram.Client).NewConversation, nil},
		{"stripped", ScramSHA256, (*scram.Client).NewConversationAdvertisingChannelBinding, ErrMalformed},
	} {
		client, err := scram.SHA256.NewClient("alice", "secret", "")
		if err != nil {
			t.Fatal(err)
		}
		conv := c.conv(client)
		x, err := m.Start(t.Context(), c.mech, conn)
		done, challenge := false, []byte(nil)
		for err == nil && !done {
			response, clientErr := conv.Step(string(challenge))
			if clientErr != nil {
				t.Fatal(clientErr)
			}
			challenge, done, err = x.Next([]byte(response))
		}
		if !errors.Is(err, c.err) || err != nil && c.err == nil {
			t.Errorf("%s: %v, want %v", c.name, err, c.err)
		}
	}
}
