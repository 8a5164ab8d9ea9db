package pop3

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"murder/internal/auth"
	"murder/internal/backend"
	"murder/proxy/login"
)

var errBase64 = errors.New("base64 expected")

// auth executes AUTH (RFC 5034). Without an argument it lists the mechanisms, which old clients
// depend on.
func (s *session) auth(arg string) error {
	if arg == "" {
		return s.Say("+OK\r\n" + strings.Join(append(s.Config().Auth.Names(s.Conn()), "."), "\r\n") + "\r\n")
	}
	mech, text, has := strings.Cut(arg, " ")
	var initial []byte
	if has {
		var err error
		if initial, err = decode(text); err != nil {
			return s.bad("-ERR " + errBase64.Error())
		}
	}
	result, err := s.Authenticate(mech, initial, func(challenge []byte) ([]byte, error) {
		if err := s.Say("+ " + base64.StdEncoding.EncodeToString(challenge) + "\r\n"); err != nil {
			return nil, err
		}
		line, err := s.ReadLine(auth.MaxEncoded)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%w: %w", errLeave, err)
		case line == "*":
			return nil, login.ErrCancelled
		}
		return decode(line)
	})
	switch {
	case err == nil:
		return s.enter(result.Account, "")
	case errors.Is(err, errLeave):
		return err
	case errors.Is(err, login.ErrCancelled):
		return s.bad("-ERR Authentication cancelled")
	case errors.Is(err, auth.ErrUnknownMechanism):
		return s.bad("-ERR Unknown mechanism")
	case errors.Is(err, errBase64), errors.Is(err, auth.ErrMalformed):
		return s.bad("-ERR [AUTH] Malformed response")
	}
	return s.failed(err)
}

// decode reads a response; "=" is an empty initial response.
func decode(text string) ([]byte, error) {
	if text == "=" {
		return []byte{}, nil
	}
	response, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, errBase64
	}
	return append([]byte{}, response...), nil
}

// signOn is the dialogue with a backend from its greeting until it has opened the maildrop of authz.
// It returns the backend's consent, for the client.
func signOn(ctx context.Context, b *login.Backend, authz string) (string, error) {
	greeting, err := b.ReadLine()
	if err != nil {
		return "", err
	}
	if !strings.HasPrefix(greeting, "+OK") {
		return "", refusal(greeting)
	}
	caps, err := capa(b)
	if err != nil {
		return "", err
	}
	if b.NeedStartTLS() {
		if _, ok := caps["STLS"]; !ok {
			return "", fmt.Errorf("%w: STLS is not offered", backend.ErrTLS)
		}
		line, err := ask(b, "STLS")
		if err != nil {
			return "", err
		}
		if !strings.HasPrefix(line, "+OK") {
			return "", fmt.Errorf("%w: %s", backend.ErrTLS, line)
		}
		if err := b.StartTLS(ctx); err != nil {
			return "", err
		}
		if caps, err = capa(b); err != nil {
			return "", err
		}
	}
	consent := ""
	reply := func(line string, err error) ([]byte, bool, error) {
		if err != nil {
			return nil, false, err
		}
		if text, ok := strings.CutPrefix(line, "+ "); ok || line == "+" {
			challenge, err := decode(strings.TrimSpace(text))
			if err != nil {
				return nil, false, fmt.Errorf("%w: %w", login.ErrProtocol, err)
			}
			return challenge, false, nil
		}
		if !strings.HasPrefix(line, "+OK") {
			return nil, false, refusal(line)
		}
		consent = line
		return nil, true, nil
	}
	start := func(mech string, initial []byte) ([]byte, bool, error) {
		command := "AUTH " + mech
		if initial == nil {
			return reply(ask(b, command))
		}
		text := encode(initial)
		if len(command)+len(text) < 250 { // RFC 5034 section 4: 255 octets
			return reply(ask(b, command+" "+text))
		}
		if challenge, done, err := reply(ask(b, command)); err != nil || done || len(challenge) > 0 {
			return nil, false, errors.Join(login.ErrProtocol, err)
		}
		return reply(ask(b, text))
	}
	more := func(response []byte) ([]byte, bool, error) {
		return reply(ask(b, base64.StdEncoding.EncodeToString(response)))
	}
	err = b.SignOn(strings.Fields(caps["SASL"]), authz, start, more)
	return consent, err
}

// encode writes an initial response, which must not be nothing.
func encode(initial []byte) string {
	if len(initial) == 0 {
		return "="
	}
	return base64.StdEncoding.EncodeToString(initial)
}

// ask sends a line and returns the first line of the answer.
func ask(b *login.Backend, line string) (string, error) {
	if err := b.Say(line + "\r\n"); err != nil {
		return "", err
	}
	return b.ReadLine()
}

// capa returns the backend's capabilities with their arguments.
func capa(b *login.Backend) (map[string]string, error) {
	caps := make(map[string]string)
	line, err := ask(b, "CAPA")
	if err != nil || !strings.HasPrefix(line, "+OK") {
		return caps, err
	}
	for range 100 {
		if line, err = b.ReadLine(); err != nil || line == "." {
			return caps, err
		}
		name, args, _ := strings.Cut(line, " ")
		caps[strings.ToUpper(name)] = args
	}
	return nil, fmt.Errorf("%w: endless capabilities", login.ErrProtocol)
}

// refusal reads a backend's -ERR. With the code AUTH it is about us: the user has proved himself
// here, and what the backend looked at was our own identity.
func refusal(line string) error {
	text, ok := strings.CutPrefix(line, "-ERR")
	if !ok {
		return fmt.Errorf("%w: %.80q", login.ErrProtocol, line)
	}
	text = strings.TrimSpace(text)
	code := ""
	if rest, ok := strings.CutPrefix(text, "["); ok {
		if inside, _, ok := strings.Cut(rest, "]"); ok {
			code = strings.ToUpper(inside)
		}
	}
	if code == "AUTH" {
		return fmt.Errorf("%w: %s", login.ErrOurIdentity, text)
	}
	return &login.Refused{Code: code, Text: text}
}
