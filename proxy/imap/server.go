package imap

import (
	"context"
	"crypto/tls"
	"net"
	"time"
)

// Server is an IMAP frontend. Its methods may be called from any goroutine.
type Server struct {
	cfg Config
}

// New returns a server that listens on nothing yet.
func New(cfg Config) (*Server, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	return &Server{cfg: cfg}, nil
}

// Serve accepts connections from ln until the server is shut down or ln fails. With a TLS
// configuration sessions start with a handshake (port 993); nil means STARTTLS if Config.TLS is set.
func (s *Server) Serve(ln net.Listener, implicit *tls.Config) error { return net.ErrClosed }

// Shutdown stops accepting, tells idle sessions to leave, spread over the time that ctx allows,
// lets busy ones finish their command, and cuts the rest when ctx ends.
func (s *Server) Shutdown(ctx context.Context) error { return nil }

// SessionInfo describes one session for operators.
type SessionInfo struct {
	ID       string
	User     string // "" before login
	Peer     string
	TLS      bool
	Since    time.Time
	Active   time.Time // last command
	Command  string    // verb being executed, "" when idle
	Mailbox  string    // selected, external name
	Backend  string    // of the selected mailbox
	Backends []string  // all open connections
	In, Out  int64     // octets from and to the client
}

// Sessions lists the sessions of this server, oldest first.
func (s *Server) Sessions() []SessionInfo { return nil }

// Kick ends a session with BYE at the next line boundary; false means there is no such session.
func (s *Server) Kick(id, reason string) bool { return false }
