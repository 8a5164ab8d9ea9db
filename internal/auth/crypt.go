package auth

import (
	"context"
	"fmt"
	"strings"

	"github.com/go-crypt/crypt/algorithm"
	"github.com/go-crypt/crypt/algorithm/md5crypt"
	"github.com/go-crypt/crypt/algorithm/scrypt"
	"github.com/go-crypt/crypt/algorithm/shacrypt"
)

// cryptForms are the passwords of crypt(3) as they stand in shadow files, by their beginning. They are
// read, for those who bring their users along, and never written.
var cryptForms = []struct {
	prefix string
	decode func(string) (algorithm.Digest, error)
}{
	{"$5$", shacrypt.Decode}, // SHA-256
	{"$6$", shacrypt.Decode}, // SHA-512
	{"$y$", scrypt.Decode},   // yescrypt
	{"$1$", md5crypt.Decode}, // MD5
}

type cryptHash struct{ algorithm.Digest }

// parseCrypt reads a password of crypt(3); ok tells whether it is one. "{CRYPT}" may stand in front,
// as in LDAP directories.
func parseCrypt(s string) (c credential, ok bool, err error) {
	s = strings.TrimPrefix(s, "{CRYPT}")
	for _, form := range cryptForms {
		if strings.HasPrefix(s, form.prefix) {
			digest, err := form.decode(s)
			if err != nil {
				return nil, true, fmt.Errorf("crypt: %w", err)
			}
			return cryptHash{digest}, true, nil
		}
	}
	return nil, false, nil
}

func (h cryptHash) check(ctx context.Context, password string) bool {
	return slow(ctx, func() bool { return h.Match(password) })
}

func (cryptHash) keys(string) (StoredKeys, bool) { return StoredKeys{}, false }
