package auth

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"hash"
	"strings"

	"github.com/xdg-go/scram"
	"github.com/xdg-go/stringprep"
)

const plusSuffix = "-PLUS"

// scramIterations is the RFC's minimum and what libsasl uses itself; its clients accept at most 65536,
// and every login of a Cyrus backend pays for them.
const scramIterations = 4096

// scramServer adapts xdg-go's conversation to sasl.Server.
type scramServer struct {
	x       *Exchange
	conv    *scram.ServerConversation
	account Account
	sent    bool // the final message
}

func newScramServer(x *Exchange) (*scramServer, error) {
	s := &scramServer{x: x}
	base, plus := strings.CutSuffix(x.mech, plusSuffix)
	generator := scram.SHA256
	if base == ScramSHA1 {
		generator = scram.SHA1
	}
	server, err := generator.NewServer(func(user string) (scram.StoredCredentials, error) {
		return s.keys(base, user)
	})
	if err != nil {
		return nil, err
	}
	switch {
	case plus:
		binding, err := scram.NewTLSExporterBinding(x.conn.TLS)
		if err != nil {
			return nil, err
		}
		s.conv = server.NewConversationWithChannelBindingRequired(binding)
	case x.m.usable(base+plusSuffix, x.conn) == nil:
		// A client that could bind but did not see the -PLUS variant has been lied to.
		binding, err := scram.NewTLSExporterBinding(x.conn.TLS)
		if err != nil {
			return nil, err
		}
		s.conv = server.NewConversationWithChannelBinding(binding)
	default:
		s.conv = server.NewConversation()
	}
	return s, nil
}

// bindable reports whether tls-exporter is sound on c (RFC 9266 section 4.2).
func bindable(c Conn) bool { return c.TLS != nil && c.TLS.Version >= tls.VersionTLS13 }

func (s *scramServer) keys(mech, user string) (scram.StoredCredentials, error) {
	s.x.user = user
	if s.x.m.blocked(s.x.conn, user) {
		return scram.StoredCredentials{}, ErrTooManyFailures
	}
	var keys StoredKeys
	err := s.x.m.ask(s.x.ctx, user, func(ctx context.Context, name string) (err error) {
		keys, err = s.x.m.cfg.Source.(KeySource).Keys(ctx, name, mech)
		return err
	})
	if errors.Is(err, ErrRejected) {
		keys, err = s.x.m.nobody(mech, user), nil
	}
	if err != nil {
		return scram.StoredCredentials{}, sourceErr(err)
	}
	s.account = s.x.m.flagged(keys.Account)
	return scram.StoredCredentials{
		KeyFactors: scram.KeyFactors{Salt: string(keys.Salt), Iters: keys.Iterations},
		StoredKey:  keys.StoredKey,
		ServerKey:  keys.ServerKey,
	}, nil
}

// nobody returns keys that no password fits, with a salt that does not change between attempts.
func (m *Mechanisms) nobody(mech, user string) StoredKeys {
	h := scramHash(mech)
	mac := hmac.New(sha256.New, m.salts)
	mac.Write([]byte(mech + "\x00" + user))
	return StoredKeys{
		Salt:       mac.Sum(nil)[:16],
		Iterations: scramIterations,
		StoredKey:  randomBytes(h().Size()),
		ServerKey:  randomBytes(h().Size()),
	}
}

func (s *scramServer) Next(response []byte) (challenge []byte, done bool, err error) {
	switch {
	case response == nil:
		return []byte{}, false, nil
	case s.sent:
		if len(response) != 0 {
			return nil, false, fmt.Errorf("%w: answer to the final message", ErrMalformed)
		}
		return nil, true, nil
	}
	known := s.conv.Username() != "" // past the first message
	answer, err := s.conv.Step(string(response))
	switch {
	case err != nil && known && !ours(err):
		return nil, false, fmt.Errorf("%w: %w", ErrRejected, err)
	case err != nil:
		return nil, false, err
	case !s.conv.Valid():
		return []byte(answer), false, nil
	}
	if s.x.result, err = s.x.m.authorize(s.x.ctx, s.account, s.conv.AuthzID()); err != nil {
		return nil, false, sourceErr(err)
	}
	s.sent = true
	return []byte(answer), false, nil
}

func scramHash(mech string) func() hash.Hash {
	if mech == ScramSHA1 {
		return sha1.New
	}
	return sha256.New
}

// deriveKeys computes what a server stores for a password (RFC 5802 section 3).
func deriveKeys(mech, password string, salt []byte, iterations int) (StoredKeys, error) {
	h := scramHash(mech)
	if prepared, err := stringprep.SASLprep.Prepare(password); err == nil {
		password = prepared // otherwise as it is, as libsasl does
	}
	salted, err := pbkdf2.Key(h, password, salt, iterations, h().Size())
	if err != nil {
		return StoredKeys{}, fmt.Errorf("deriving %s keys: %w", mech, err)
	}
	sign := func(text string) []byte {
		mac := hmac.New(h, salted)
		mac.Write([]byte(text))
		return mac.Sum(nil)
	}
	stored := h()
	stored.Write(sign("Client Key"))
	return StoredKeys{Salt: salt, Iterations: iterations, StoredKey: stored.Sum(nil), ServerKey: sign("Server Key")}, nil
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // never fails
	return b
}
