package tlsconf

import (
	"crypto/tls"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// handshake returns what the client saw of one connection.
func handshake(t *testing.T, server, client *tls.Config) (state, served tls.ConnectionState, err error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	s, c := tls.Server(b, server), tls.Client(a, client)
	done := make(chan error)
	go func() {
		err := s.Handshake()
		if err == nil {
			var p [1]byte
			_, err = s.Read(p[:])
		}
		b.Close()
		done <- err
	}()
	err = c.Handshake()
	if err == nil {
		_, err = c.Write([]byte("x"))
	}
	if err != nil {
		a.Close()
	}
	if serverErr := <-done; serverErr != nil {
		err = serverErr
	}
	return c.ConnectionState(), s.ConnectionState(), err
}

func TestServer(t *testing.T) {
	dir := t.TempDir()
	cert, key, ca := filepath.Join(dir, "cert"), filepath.Join(dir, "key"), filepath.Join(dir, "ca")
	cfg := Config{CertFile: cert, KeyFile: key, ClientCAFile: ca}
	if _, err := Load(cfg); err == nil {
		t.Fatal("loaded nothing")
	}
	if err := WriteSelfSigned(cert, key, "mail.example", "127.0.0.1"); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(key); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key: %v %v", info.Mode(), err)
	}
	if _, err := Load(cfg); err == nil {
		t.Fatal("loaded without authorities")
	}
	clientPEM, clientKey, err := SelfSigned("alice")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(ca, clientPEM, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Load(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(s.Expires()); left < 300*24*time.Hour {
		t.Errorf("expires in %v", left)
	}
	roots, err := LoadCAs(cert)
	if err != nil {
		t.Fatal(err)
	}
	mine, err := tls.X509KeyPair(clientPEM, clientKey)
	if err != nil {
		t.Fatal(err)
	}
	client := &tls.Config{RootCAs: roots, ServerName: "mail.example", NextProtos: []string{"imap"}}
	server := s.TLS("imap")

	state, served, err := handshake(t, server, client)
	if err != nil || state.NegotiatedProtocol != "imap" || len(served.PeerCertificates) != 0 {
		t.Errorf("plain: %v %+v", err, state.NegotiatedProtocol)
	}
	withCert := client.Clone()
	withCert.Certificates = []tls.Certificate{mine}
	if _, served, err := handshake(t, server, withCert); err != nil || len(served.VerifiedChains) == 0 {
		t.Errorf("client certificate: %v", err)
	}
	old := client.Clone()
	old.MaxVersion = tls.VersionTLS11
	old.MinVersion = tls.VersionTLS10
	if _, _, err := handshake(t, server, old); err == nil {
		t.Error("TLS 1.1 accepted")
	}
	wrong := client.Clone()
	wrong.NextProtos = []string{"h2"}
	if _, _, err := handshake(t, server, wrong); err == nil {
		t.Error("another protocol accepted")
	}
	none := client.Clone()
	none.NextProtos = nil
	if _, _, err := handshake(t, server, none); err != nil {
		t.Errorf("no protocol: %v", err)
	}

	// A renewal is picked up by the next handshake after the pause; a broken one is not.
	first := serial(t, server)
	if err := WriteSelfSigned(cert, key, "mail.example"); err != nil {
		t.Fatal(err)
	}
	os.Chtimes(cert, time.Now(), time.Now().Add(time.Hour))
	if serial(t, server) != first {
		t.Error("looked at the files in every handshake")
	}
	s.checked.Store(0)
	second := serial(t, server)
	if second == first {
		t.Error("renewal not picked up")
	}
	if err := os.WriteFile(key, []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.checked.Store(0)
	if serial(t, server) != second {
		t.Error("broken key replaced a good one")
	}
	if err := s.Reload(); err == nil {
		t.Error("no error for a broken key")
	}
}

func serial(t *testing.T, server *tls.Config) string {
	t.Helper()
	state, _, err := handshake(t, server, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	return state.PeerCertificates[0].SerialNumber.String()
}

func TestStrangersCertificate(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	if err := WriteSelfSigned(cert, key, "x"); err != nil {
		t.Fatal(err)
	}
	s, err := Load(Config{CertFile: cert, KeyFile: key, ClientCAFile: cert, MinVersion: tls.VersionTLS13})
	if err != nil {
		t.Fatal(err)
	}
	c, k, err := SelfSigned("mallory")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(c, k)
	if err != nil {
		t.Fatal(err)
	}
	// The client sends its certificate whatever authorities the server names.
	client := &tls.Config{InsecureSkipVerify: true, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }}
	if _, _, err := handshake(t, s.TLS(), client); err == nil {
		t.Error("accepted")
	}
}

func TestParseVersion(t *testing.T) {
	for in, want := range map[string]uint16{"": tls.VersionTLS12, "1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13, "1.1": 0} {
		if got, err := ParseVersion(in); got != want || (err == nil) != (want != 0) {
			t.Errorf("%q: %x %v", in, got, err)
		}
	}
	if _, _, err := SelfSigned(); err == nil {
		t.Error("certificate for nobody")
	}
	if _, err := LoadCAs(os.DevNull); err == nil {
		t.Error("no authorities accepted")
	}
}
