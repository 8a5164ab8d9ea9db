//go:build cyrus

package cyrus

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A backend that signs on with its certificate sends an empty initial response in a form of its own,
// "=" and at once an empty literal. A server that wants only the RFC's forms refuses such backends.
func TestEmptyInitialResponse(t *testing.T) {
	t.Parallel()
	Require(t)
	dir := t.TempDir()
	cert := selfSigned(t, dir)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	lines := make(chan string, 100)
	go serveExternal(l, cert, lines)

	conf := []string{"tls_client_cert: " + filepath.Join(dir, "cert.pem"), "tls_client_key: " + filepath.Join(dir, "key.pem")}
	r := Start(t, Options{Backends: 1, NoPush: true, Mupdate: l.Addr().String(), Conf: map[string][]string{"": conf}})
	for _, f := range []string{"", "cert.pem", "key.pem"} {
		if err := os.Chmod(filepath.Join(dir, f), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Node("be1").Exec("ctl_mboxlist", "-m"); err == nil {
		t.Error("ctl_mboxlist -m is content with a refused sign-on")
	}
	l.Close()
	for line := range lines {
		if strings.HasPrefix(line, "A01 AUTHENTICATE") {
			if line != `A01 AUTHENTICATE "EXTERNAL" ={0+}` {
				t.Errorf("the sign-on is now written %q", line)
			}
			return
		}
	}
	t.Error("the backend never signed on")
}

// serveExternal answers one client as a MUPDATE server that wants STARTTLS and a certificate, and
// tells the lines that it reads.
func serveExternal(l net.Listener, cert tls.Certificate, lines chan<- string) {
	defer close(lines)
	for {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		func() {
			defer nc.Close()
			nc.SetDeadline(time.Now().Add(10 * time.Second))
			io.WriteString(nc, "* AUTH\r\n* STARTTLS\r\n* OK MUPDATE \"x\" \"x\" \"1\" \"(master)\"\r\n")
			if line, err := bufio.NewReader(nc).ReadString('\n'); err != nil || !strings.Contains(line, "STARTTLS") {
				lines <- strings.TrimSpace(line)
				return
			}
			io.WriteString(nc, "S01 OK \"go\"\r\n")
			secure := tls.Server(nc, &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequestClientCert})
			io.WriteString(secure, "* AUTH \"EXTERNAL\"\r\n* OK MUPDATE \"x\" \"x\" \"1\" \"(master)\"\r\n")
			for r := bufio.NewReader(secure); ; {
				line, err := r.ReadString('\n')
				if err != nil {
					if !errors.Is(err, io.EOF) {
						lines <- err.Error()
					}
					return
				}
				line = strings.TrimSpace(line)
				lines <- line
				if strings.HasPrefix(line, "A01 ") {
					io.WriteString(secure, "A01 NO \"enough\"\r\n")
					return
				}
			}
		}()
	}
}

func selfSigned(t *testing.T, dir string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "murder"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
	for name, data := range map[string][]byte{"cert.pem": certPEM, "key.pem": keyPEM} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}
