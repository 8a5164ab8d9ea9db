package backend

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// NeedStartTLS reports whether the policy demands StartTLS and it has not happened yet.
func (c *Conn) NeedStartTLS() bool { return c.terms.TLS == StartTLS && !c.secure }

// Secured reports whether a password may be sent: TLS, or a server on this host.
func (c *Conn) Secured() bool {
	if c.secure {
		return true
	}
	addr, err := netip.ParseAddrPort(c.raw.RemoteAddr().String())
	return err == nil && addr.Addr().Unmap().IsLoopback()
}

// StartTLS performs the handshake, after the server has agreed. Drop whatever was buffered before.
// After an error, which wraps ErrTLS, the connection must be closed.
func (c *Conn) StartTLS(ctx context.Context) error {
	if c.secure {
		return fmt.Errorf("%w: already done", ErrTLS)
	}
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, dialAll)
		defer cancel()
	}
	if err := c.terms.tlsErr; err != nil {
		return fmt.Errorf("%w: %w", ErrTLS, err)
	}
	conn := tls.Client(c.raw, c.terms.tls)
	if err := conn.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("%w: %w", ErrTLS, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Conn, c.secure = conn, true
	return nil
}

// sessionCache is how many sessions of a server can be resumed.
const sessionCache = 32

func (set Settings) tlsConfig() (*tls.Config, error) {
	cfg := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         set.TLSName,
		RootCAs:            set.RootCAs,
		ClientSessionCache: tls.NewLRUClientSessionCache(sessionCache),
	}
	if cfg.ServerName == "" {
		cfg.ServerName = set.Host
	}
	if set.Certificate != nil {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return set.Certificate() }
	}
	// Whatever replaces the standard check runs in VerifyConnection, which resumed sessions pass too.
	switch set.Verify {
	case VerifyName:
	case VerifyCA:
		cfg.InsecureSkipVerify = true
		cfg.VerifyConnection = func(state tls.ConnectionState) error {
			opts := x509.VerifyOptions{Roots: set.RootCAs, Intermediates: x509.NewCertPool()}
			for _, cert := range state.PeerCertificates[1:] {
				opts.Intermediates.AddCert(cert)
			}
			_, err := state.PeerCertificates[0].Verify(opts)
			return err
		}
	case VerifyPin:
		if len(set.Pins) == 0 {
			return nil, errors.New("no pins")
		}
		cfg.InsecureSkipVerify = true
		cfg.VerifyConnection = func(state tls.ConnectionState) error {
			if pin := Pin(state.PeerCertificates[0]); !slices.ContainsFunc(set.Pins, func(p string) bool { return strings.EqualFold(p, pin) }) {
				return fmt.Errorf("the key %s is not pinned", pin)
			}
			return nil
		}
	case VerifyNone:
		cfg.InsecureSkipVerify = true
	}
	return cfg, nil
}

// Pin returns what Settings.Pins compares: the SHA-256 of a certificate's public key, in hexadecimal.
func Pin(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}
