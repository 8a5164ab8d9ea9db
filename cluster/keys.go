package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"
)

// Protocols of the cluster port, told apart by ALPN.
const (
	alpnRaft = "murder-raft/1"
	alpnRPC  = "murder-rpc/1"
	alpnJoin = "murder-join/1" // no client certificate: the join token speaks for the node
)

// keys is what this node proves its membership with and checks that of others by.
type keys struct {
	self member
	ca   *x509.Certificate
	pool *x509.CertPool
	cert atomic.Pointer[tls.Certificate] // replaced on renewal
	now  func() time.Time
}

func newKeys(self member, caPEM, pair []byte) (*keys, error) {
	ca, err := decodeCert(caPEM)
	if err != nil {
		return nil, fmt.Errorf("certificate of the cluster's authority: %w", err)
	}
	k := &keys{self: self, ca: ca, pool: x509.NewCertPool(), now: time.Now}
	k.pool.AddCert(ca)
	return k, k.setCertificate(pair)
}

// setCertificate puts a certificate into use; connections that exist keep theirs.
func (k *keys) setCertificate(pair []byte) error {
	cert, err := tls.X509KeyPair(pair, pair)
	if err != nil {
		return fmt.Errorf("node certificate: %w", err)
	}
	m, err := memberOf(cert.Leaf)
	if err == nil && m != k.self {
		err = fmt.Errorf("it names %s", m.uri())
	}
	if err != nil {
		return fmt.Errorf("node certificate: %w", err)
	}
	// The authority goes along so that a joining node can compare it with the hash in its token.
	cert.Certificate = append(cert.Certificate, k.ca.Raw)
	k.cert.Store(&cert)
	return nil
}

func readKeys(dir string, self member) (*keys, error) {
	var pems [2][]byte
	for i, name := range []string{caFile, certFile} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, fmt.Errorf("reading the keys of this node: %w: restore it, or empty the data directory and join again", err)
		}
		pems[i] = data
	}
	return newKeys(self, pems[0], pems[1])
}

// joinPair keeps certificate and key in one file, so that a crash cannot leave halves that do not
// belong together.
func joinPair(cert, key []byte) []byte { return append(slices.Clone(cert), key...) }

func newNodeKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	data, err := encodeKey(key)
	return key, data, err
}

// verify says who a peer is, or in a sentence why it is not welcome.
func (k *keys) verify(chain []*x509.Certificate) (member, error) {
	if len(chain) == 0 {
		return member{}, errors.New("peer showed no certificate")
	}
	m, err := memberOf(chain[0])
	if err != nil {
		return member{}, err
	}
	if m.Cluster != k.self.Cluster {
		return m, fmt.Errorf("node %s belongs to cluster %s, node %s to cluster %s: correct the addresses, or empty the data directory of the node that is wrong and join it again", m.Node, m.Cluster, k.self.Node, k.self.Cluster)
	}
	_, err = chain[0].Verify(x509.VerifyOptions{
		Roots:       k.pool,
		CurrentTime: k.now(),
		KeyUsages:   []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return m, fmt.Errorf("certificate of node %s is valid from %s to %s and the time here is %s: check the clocks; if it has expired, join the node again", m.Node, chain[0].NotBefore.UTC().Format(time.RFC3339), chain[0].NotAfter.UTC().Format(time.RFC3339), k.now().UTC().Format(time.RFC3339))
	case err != nil:
		return m, fmt.Errorf("certificate of node %s was not made by the authority of cluster %s: join the node again", m.Node, k.self.Cluster)
	}
	return m, nil
}

// serverConfig accepts any client certificate: the port verifies it after the handshake, so that a
// refusal can be said in words where a TLS alert could not.
func (k *keys) serverConfig(hello *tls.ClientHelloInfo, epoch uint64) *tls.Config {
	protocols := []string{alpnRPC}
	for _, p := range hello.SupportedProtos {
		if theirs, ok := raftEpoch(p); ok && theirs >= epoch {
			protocols = append(protocols, p)
		}
	}
	c := &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             protocols,
		Certificates:           []tls.Certificate{*k.cert.Load()},
		ClientAuth:             tls.RequireAnyClientCert,
		SessionTicketsDisabled: true,
	}
	if len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == alpnJoin {
		c.NextProtos, c.ClientAuth = []string{alpnJoin}, tls.NoClientCert
	}
	return c
}

// clientConfig verifies the server against this cluster; node is the id it must have, "" for any.
func (k *keys) clientConfig(alpn, node string) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{alpn},
		Certificates:       []tls.Certificate{*k.cert.Load()},
		InsecureSkipVerify: true, // names of hosts mean nothing here: VerifyConnection checks the node
		VerifyConnection: func(s tls.ConnectionState) error {
			m, err := k.verify(s.PeerCertificates)
			if err == nil && node != "" && m.Node != node {
				err = fmt.Errorf("node %s answered where node %s was expected: correct the advertised address of one of them", m.Node, node)
			}
			return err
		},
	}
}

// joinConfig trusts the authority whose hash the token carries, and nobody else.
func joinConfig(clusterID, caHash string) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{alpnJoin},
		InsecureSkipVerify: true, // VerifyConnection checks against the hash in the token
		VerifyConnection: func(s tls.ConnectionState) error {
			for _, ca := range s.PeerCertificates[1:] {
				if fingerprint(ca) != caHash {
					continue
				}
				k := &keys{self: member{Cluster: clusterID}, ca: ca, pool: x509.NewCertPool(), now: time.Now}
				k.pool.AddCert(ca)
				m, err := k.verify(s.PeerCertificates)
				if err == nil && m.Role != Coordinator {
					err = fmt.Errorf("node %s is a %s: only coordinators take in new nodes", m.Node, m.Role)
				}
				return err
			}
			return errors.New("the node that answered is not of the cluster that made this token: create a new token")
		},
	}
}
