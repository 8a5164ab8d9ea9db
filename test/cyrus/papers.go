package cyrus

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Papers are certificates of one authority, with keys: File("ca.pem"), and File(NAME+".pem") and ".key" of a server and
// of clients.
type Papers struct{ dir string }

// File is the path of one.
func (p Papers) File(name string) string { return filepath.Join(p.dir, name) }

// Issue makes papers, readable for Cyrus's user: "server" for a host, "client" for the first client, and for further ones
// under their names.
func Issue(t testing.TB, host, client string, more ...string) Papers {
	t.Helper()
	dir, err := os.MkdirTemp("", "papers")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	os.Chmod(dir, 0o755)
	p := Papers{dir}
	write := func(name, kind string, der []byte) {
		t.Helper()
		if err := os.WriteFile(p.File(name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	template := func(n int64, name string) *x509.Certificate {
		return &x509.Certificate{SerialNumber: big.NewInt(n), Subject: pkix.Name{CommonName: name},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	}
	ca := template(1, "the authority")
	ca.IsCA, ca.BasicConstraintsValid, ca.KeyUsage = true, true, x509.KeyUsageCertSign
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(file string, c *x509.Certificate) {
		t.Helper()
		key := caKey
		if c != ca {
			if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
				t.Fatal(err)
			}
		}
		der, err := x509.CreateCertificate(rand.Reader, c, ca, key.Public(), caKey)
		if err != nil {
			t.Fatal(err)
		}
		secret, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		write(file+".pem", "CERTIFICATE", der)
		write(file+".key", "PRIVATE KEY", secret)
	}
	sign("ca", ca)
	server := template(2, host)
	server.DNSNames = []string{host}
	server.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	sign("server", server)
	for i, name := range append([]string{client}, more...) {
		user := template(int64(3+i), name)
		user.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		if i == 0 {
			name = "client"
		}
		sign(name, user)
	}
	return p
}
