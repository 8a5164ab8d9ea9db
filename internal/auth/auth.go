// Package auth finds out who a client is: SASL (RFC 4422) on the server side, and the sources that
// know accounts and passwords.
//
// Mechanisms: PLAIN (RFC 4616), LOGIN (obsolete, but mail programs still ask for it), SCRAM-SHA-1 and
// SCRAM-SHA-256 with and without channel binding (RFC 5802, 7677, 9266), EXTERNAL by client
// certificate (RFC 4422 appendix A). Sources: a file of users, a fixed list, the socket of saslauthd,
// and a chain of these. A refusal takes the same time and says the same whether the user exists or not.
//
// Known gaps: no security layers; channel binding by tls-exporter only; no OAUTHBEARER, GSSAPI, LDAP,
// SQL or PAM (saslauthd reaches the last two). The salt shown for an unknown user is stable
// within one process only.
package auth

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
)

// What callers branch on. Everything else that Start, Next and Password return wraps one of these.
var (
	// ErrRejected means wrong credentials: the client may try again with others. The pause has
	// already been served when it is returned.
	ErrRejected = errors.New("authentication failed")
	// ErrUnknownUser is a rejection by a source that does not know the name, which lets a chain go
	// on. Protocols must not tell it from ErrRejected; Mechanisms never returns it.
	ErrUnknownUser = fmt.Errorf("unknown user: %w", ErrRejected)
	// ErrUnavailable is a temporary failure: the credentials could not be checked.
	ErrUnavailable = errors.New("authentication is temporarily unavailable")
	// ErrTooManyFailures means that the peer's address must wait; it wraps ErrUnavailable.
	ErrTooManyFailures = fmt.Errorf("too many failed logins: %w", ErrUnavailable)
	// ErrNotAuthorized means right credentials, but not the right to act as the user asked for.
	ErrNotAuthorized = errors.New("not authorized to act as that user")
	// ErrUnknownMechanism means a mechanism that is not offered.
	ErrUnknownMechanism = errors.New("unknown mechanism")
	// ErrNeedsTLS means a mechanism that would show the password to the network.
	ErrNeedsTLS = errors.New("mechanism needs a secured connection")
	// ErrMalformed means a response that breaks the mechanism's grammar or a limit.
	ErrMalformed = errors.New("malformed response")
)

// MaxResponse is the longest decoded SASL response in octets. A protocol needs to read no more than
// MaxEncoded octets of base64 for one response.
//
// Cyrus: 21848 octets of base64 per line.
const (
	MaxResponse = 16384
	MaxEncoded  = (MaxResponse + 2) / 3 * 4
)

// Conn is what is known about a client before it logs in.
type Conn struct {
	Protocol  string // imap, pop3, sieve, lmtp, mupdate: for logs, metrics and saslauthd's service
	Peer      netip.AddrPort
	Local     netip.AddrPort
	TLS       *tls.ConnectionState // nil in clear
	SessionID string
}

// Private reports whether a password may cross the connection: TLS, or both ends on this host.
func (c Conn) Private() bool {
	return c.TLS != nil || c.Peer.Addr().Unmap().IsLoopback()
}

// Account is a user as a source knows it.
type Account struct {
	Name   string // canonical
	Groups []string
	Admin  bool // administrator of the whole system; may act as anybody
	Proxy  bool // may act as any user who is not an administrator
}

// Source verifies passwords. Verify returns ErrUnknownUser, ErrRejected or ErrUnavailable (wrapped);
// it must honour ctx and be safe for concurrent use. It serves no pause: Mechanisms does.
type Source interface {
	Verify(ctx context.Context, user, password string, c Conn) (Account, error)
}

// AccountSource is a Source that knows accounts without a password, which EXTERNAL and
// authorization identities ask for. Lookup returns ErrUnknownUser or ErrUnavailable (wrapped).
type AccountSource interface {
	Source
	Lookup(ctx context.Context, user string) (Account, error)
}

// KeySource is a Source that holds SCRAM keys.
type KeySource interface {
	Source
	// KeyMechs returns the SCRAM mechanisms for which every account has keys. A mechanism that
	// works for some accounts only must not be offered: clients choose it and do not fall back.
	KeyMechs() []string
	// Keys returns a user's keys for SCRAM-SHA-1 or SCRAM-SHA-256, ErrUnknownUser or
	// ErrUnavailable (wrapped).
	Keys(ctx context.Context, user, mech string) (StoredKeys, error)
}

// StoredKeys is what a server keeps for one account and one SCRAM hash (RFC 5802 section 5.1).
type StoredKeys struct {
	Account    Account
	Salt       []byte
	Iterations int
	StoredKey  []byte
	ServerKey  []byte
}

// Result is the outcome of a successful exchange.
type Result struct {
	Authc string // who proved to be there: the basis of roles
	Authz string // whom the session acts as; equal to Authc unless Authc may act for others
	// Account is that of Authz.
	Account
}
