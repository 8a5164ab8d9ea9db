package auth

import (
	"context"
	"errors"
	"slices"
)

// Chain asks several sources in order: the first that knows a user decides. A source that cannot
// tell an unknown user from a wrong password, such as saslauthd, belongs at the end.
func Chain(sources ...Source) Source {
	if len(sources) == 1 {
		return sources[0]
	}
	return chain(sources)
}

type chain []Source

var (
	_ AccountSource = chain(nil)
	_ KeySource     = chain(nil)
)

func (ch chain) Verify(ctx context.Context, user, password string, c Conn) (Account, error) {
	for _, source := range ch {
		if a, err := source.Verify(ctx, user, password, c); !errors.Is(err, ErrUnknownUser) {
			return a, err
		}
	}
	return Account{}, ErrUnknownUser
}

// Lookup believes in a user that no source knows if one of them cannot look up.
func (ch chain) Lookup(ctx context.Context, user string) (Account, error) {
	blind := false
	for _, source := range ch {
		known, ok := source.(AccountSource)
		if !ok {
			blind = true
			continue
		}
		if a, err := known.Lookup(ctx, user); !errors.Is(err, ErrUnknownUser) {
			return a, err
		}
	}
	if blind {
		return Account{Name: user}, nil
	}
	return Account{}, ErrUnknownUser
}

func (ch chain) KeyMechs() []string {
	var mechs []string
	for i, source := range ch {
		keys, ok := source.(KeySource)
		if !ok {
			return nil
		}
		have := keys.KeyMechs()
		if i == 0 {
			mechs = slices.Clone(have)
		}
		mechs = slices.DeleteFunc(mechs, func(m string) bool { return !slices.Contains(have, m) })
	}
	return mechs
}

func (ch chain) Keys(ctx context.Context, user, mech string) (StoredKeys, error) {
	for _, source := range ch {
		if keys, ok := source.(KeySource); ok {
			if k, err := keys.Keys(ctx, user, mech); !errors.Is(err, ErrUnknownUser) {
				return k, err
			}
		}
	}
	return StoredKeys{}, ErrUnknownUser
}
