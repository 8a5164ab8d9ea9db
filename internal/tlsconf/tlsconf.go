// Package tlsconf makes TLS configurations for listeners: certificates that are read again when
// their files change, client certificates for EXTERNAL, and a self-signed certificate for trials.
package tlsconf

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const recheck = 10 * time.Second

// Config names the files.
type Config struct {
	CertFile, KeyFile string // PEM; the certificate first, then what signed it
	// ClientCAFile holds the authorities (PEM) whose client certificates are accepted; a client may
	// still come without. "" asks for none.
	ClientCAFile string
	MinVersion   uint16       // 0 means TLS 1.2
	Logger       *slog.Logger // nil discards
}

// Server is a certificate that follows its files. They are looked at during handshakes, at most
// every 10 s; files that do not fit together leave the old certificate in place and are logged. It is
// safe for concurrent use.
type Server struct {
	cfg     Config
	loaded  atomic.Pointer[loaded]
	checked atomic.Int64 // unix nanoseconds of the last look
	mu      sync.Mutex   // held while reading
	seen    [3]stamp
}

type loaded struct {
	cert    tls.Certificate
	clients *x509.CertPool
}

// stamp is what tells one version of a file from the next.
type stamp struct {
	modified time.Time
	size     int64
}

// Load reads the files.
func Load(cfg Config) (*Server, error) {
	if cfg.MinVersion == 0 {
		cfg.MinVersion = tls.VersionTLS12
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{cfg: cfg}
	if err := s.Reload(); err != nil {
		return nil, err
	}
	s.checked.Store(time.Now().UnixNano())
	return s, nil
}

// Reload reads the files now. On error the old certificate stays.
func (s *Server) Reload() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = s.stamps()
	return s.read()
}

func (s *Server) read() error {
	var l loaded
	var err error
	if l.cert, err = tls.LoadX509KeyPair(s.cfg.CertFile, s.cfg.KeyFile); err != nil {
		return fmt.Errorf("loading certificate %s with key %s: %w", s.cfg.CertFile, s.cfg.KeyFile, err)
	}
	if s.cfg.ClientCAFile != "" {
		if l.clients, err = LoadCAs(s.cfg.ClientCAFile); err != nil {
			return err
		}
	}
	s.loaded.Store(&l)
	return nil
}

func (s *Server) stamps() (stamps [3]stamp) {
	for i, file := range []string{s.cfg.CertFile, s.cfg.KeyFile, s.cfg.ClientCAFile} {
		if info, err := os.Stat(file); err == nil {
			stamps[i] = stamp{info.ModTime(), info.Size()}
		}
	}
	return stamps
}

// current returns the certificate, after a look at the files if the last was a while ago.
func (s *Server) current() *loaded {
	now, last := time.Now().UnixNano(), s.checked.Load()
	if now-last >= int64(recheck) && s.checked.CompareAndSwap(last, now) {
		s.refresh()
	}
	return s.loaded.Load()
}

func (s *Server) refresh() {
	s.mu.Lock()
	defer s.mu.Unlock()
	stamps := s.stamps()
	if stamps == s.seen {
		return
	}
	s.seen = stamps
	if err := s.read(); err != nil {
		s.cfg.Logger.Error("certificate not taken over", "file", s.cfg.CertFile, "err", err)
		return
	}
	s.cfg.Logger.Info("certificate read again", "file", s.cfg.CertFile, "expires", s.Expires())
}

// Expires returns the end of the certificate's validity.
func (s *Server) Expires() time.Time { return s.loaded.Load().cert.Leaf.NotAfter }

// TLS returns a configuration for a listener. protocols are the names for ALPN (RFC 7301): imap,
// pop3, managesieve; a client that asks for others only is refused, one that asks for none is not.
func (s *Server) TLS(protocols ...string) *tls.Config {
	type made struct {
		of *loaded
		*tls.Config
	}
	var last atomic.Pointer[made] // which connections share
	return &tls.Config{
		MinVersion: s.cfg.MinVersion,
		// Tickets are sealed with the keys of the outer configuration, so sessions outlive a reload.
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			l := s.current()
			if m := last.Load(); m != nil && m.of == l {
				return m.Config, nil
			}
			cfg := &tls.Config{
				MinVersion:   s.cfg.MinVersion,
				NextProtos:   protocols,
				Certificates: []tls.Certificate{l.cert},
			}
			if l.clients != nil {
				cfg.ClientCAs, cfg.ClientAuth = l.clients, tls.VerifyClientCertIfGiven
			}
			last.Store(&made{l, cfg})
			return cfg, nil
		},
	}
}

// LoadCAs reads a file of authorities in PEM.
func LoadCAs(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("loading authorities: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("loading authorities: no certificate in %s", file)
	}
	return pool, nil
}

// ParseVersion reads "1.2" or "1.3"; "" means 1.2.
func ParseVersion(s string) (uint16, error) {
	switch s {
	case "", "1.2":
		return tls.VersionTLS12, nil
	case "1.3":
		return tls.VersionTLS13, nil
	}
	return 0, fmt.Errorf("unknown TLS version %q: want 1.2 or 1.3", s)
}
