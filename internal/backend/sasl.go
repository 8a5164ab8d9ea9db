package backend

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/emersion/go-sasl"
	"github.com/xdg-go/scram"

	"murder/internal/mbox"
)

const (
	scramSHA256   = "SCRAM-SHA-256"
	scramSHA1     = "SCRAM-SHA-1"
	maxIterations = 1 << 17
)

// SASL chooses a mechanism among those a server offers and returns its client, to act as authz (""
// for ourselves). secured is Conn.Secured. The client's Start gives the same mechanism. An
// initial response of nil means none. Errors wrap ErrNoMechanism.
//
// Unless Settings.Mechs says otherwise, EXTERNAL comes first, and PLAIN before SCRAM: both cost one
// round trip and no key derivation. With VerifyNone nobody knows who would get the password, so SCRAM
// comes first. Mechanisms without an authorization identity are not used.
func (s *Set) SASL(server mbox.Server, offered []string, authz string, secured bool) (mech string, client sasl.Client, err error) {
	set := s.Settings(server)
	order := set.Mechs
	if order == nil {
		order = []string{sasl.External, sasl.Plain, scramSHA256, scramSHA1}
		if set.TLS != NoTLS && set.Verify == VerifyNone {
			order = []string{sasl.External, scramSHA256, scramSHA1, sasl.Plain}
		}
	}
	withheld := ""
	for _, mech := range order {
		mech = strings.ToUpper(mech)
		if !slices.ContainsFunc(offered, func(o string) bool { return strings.EqualFold(o, mech) }) {
			continue
		}
		switch {
		case mech == sasl.External && set.Certificate != nil:
			return mech, sasl.NewExternalClient(authz), nil
		case mech == sasl.External || set.Authname == "" || set.Password == "":
			continue
		case mech == sasl.Plain && !secured && !set.AllowPlaintext:
			withheld = "; PLAIN withheld in clear"
		case mech == sasl.Plain:
			return mech, sasl.NewPlainClient(authz, set.Authname, set.Password), nil
		case mech == scramSHA256 || mech == scramSHA1:
			client, err := newScramClient(mech, set.Authname, set.Password, authz)
			if err != nil {
				return "", nil, fmt.Errorf("%w: %w", ErrNoMechanism, err)
			}
			return mech, client, nil
		}
	}
	return "", nil, fmt.Errorf("%w among %q of %s%s", ErrNoMechanism, offered, server, withheld)
}

// scramClient adapts xdg-go's conversation to sasl.Client.
type scramClient struct {
	mech string
	conv *scram.ClientConversation
}

func newScramClient(mech, user, password, authz string) (*scramClient, error) {
	generator := scram.SHA256
	if mech == scramSHA1 {
		generator = scram.SHA1
	}
	client, err := generator.NewClient(user, password, authz)
	if err != nil {
		client, err = generator.NewClientUnprepped(user, password, authz)
	}
	if err != nil {
		return nil, err
	}
	return &scramClient{mech: mech, conv: client.NewConversation()}, nil
}

func (c *scramClient) Start() (mech string, ir []byte, err error) {
	first, err := c.conv.Step("")
	return c.mech, []byte(first), err
}

// Next implements sasl.Client. The answer to the server's final message is empty, not nil.
func (c *scramClient) Next(challenge []byte) ([]byte, error) {
	if c.conv.Done() {
		return nil, sasl.ErrUnexpectedServerChallenge
	}
	for field := range strings.SplitSeq(string(challenge), ",") {
		// The number of iterations is the server's choice but our time.
		if digits, ok := strings.CutPrefix(field, "i="); ok {
			if n, err := strconv.Atoi(digits); err != nil || n > maxIterations {
				return nil, errors.New("scram: too many iterations")
			}
		}
	}
	answer, err := c.conv.Step(string(challenge))
	return []byte(answer), err
}
