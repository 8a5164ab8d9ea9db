package backend

import (
	"fmt"
	"slices"
	"strings"

	"github.com/emersion/go-sasl"

	"murder/internal/auth"
	"murder/internal/mbox"
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
		order = []string{sasl.External, sasl.Plain, auth.ScramSHA256, auth.ScramSHA1}
		if set.TLS != NoTLS && set.Verify == VerifyNone {
			order = []string{sasl.External, auth.ScramSHA256, auth.ScramSHA1, sasl.Plain}
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
		case mech == auth.ScramSHA256 || mech == auth.ScramSHA1:
			client, err := auth.NewScramClient(mech, set.Authname, set.Password, authz)
			if err != nil {
				return "", nil, fmt.Errorf("%w: %w", ErrNoMechanism, err)
			}
			return mech, client, nil
		}
	}
	return "", nil, fmt.Errorf("%w among %q of %s%s", ErrNoMechanism, offered, server, withheld)
}
