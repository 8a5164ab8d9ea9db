package auth

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// Saslauthd asks the daemon of that name over its Unix socket: what Cyrus sites have already, and
// the way to PAM and LDAP without cgo.
//
// The request is four strings (login, password, service, realm), each after its length in two
// octets; the answer is one such string that begins with OK or NO. A NO does not say whether the
// user exists.
type Saslauthd struct {
	Path  string // of the socket; "" means /run/saslauthd/mux
	Realm string // for names without one
}

// Verify implements Source.
func (s *Saslauthd) Verify(ctx context.Context, user, password string, c Conn) (Account, error) {
	// Cyrus: libsasl splits at the last "@".
	login, realm := user, s.Realm
	if i := strings.LastIndexByte(user, '@'); i >= 0 {
		login, realm = user[:i], user[i+1:]
	}
	path := s.Path
	if path == "" {
		path = "/run/saslauthd/mux"
	}
	var request []byte
	for _, field := range []string{login, password, saslService(c.Protocol), realm} {
		if len(field) > 1<<16-1 {
			return Account{}, ErrRejected
		}
		request = binary.BigEndian.AppendUint16(request, uint16(len(field)))
		request = append(request, field...)
	}
	answer, err := s.exchange(ctx, path, request)
	switch {
	case err != nil:
		return Account{}, fmt.Errorf("asking saslauthd: %w: %w", ErrUnavailable, err)
	case strings.HasPrefix(answer, "OK"):
		return Account{Name: user}, nil
	case strings.HasPrefix(answer, "NO"):
		return Account{}, ErrRejected
	}
	return Account{}, fmt.Errorf("asking saslauthd: %w: answer %.20q", ErrUnavailable, answer)
}

func (s *Saslauthd) exchange(ctx context.Context, path string, request []byte) (string, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	if _, err := conn.Write(request); err != nil {
		return "", err
	}
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return "", err
	}
	answer := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err = io.ReadFull(conn, answer)
	return string(answer), err
}

// saslService returns the name that Cyrus gives a service towards SASL, by which PAM files are named.
func saslService(protocol string) string {
	if protocol == "pop3" {
		return "pop"
	}
	return protocol
}
