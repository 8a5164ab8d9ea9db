package auth

import (
	"context"
	"crypto/hmac"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
)

// Forms in which HashPassword stores a password.
const (
	FormArgon2id    = "argon2id"      // the strongest; no SCRAM
	FormBcrypt      = "bcrypt"        // passwords of at most 72 octets; no SCRAM
	FormScramSHA256 = "scram-sha-256" // SCRAM-SHA-256 and PLAIN
	FormScramSHA1   = "scram-sha-1"   // SCRAM-SHA-1 and PLAIN
	FormPlain       = "plain"         // everything, but readable: for trials only
)

// Cost of new hashes: the second choice of RFC 9106 is far too heavy for a login server, so the
// lightest that current practice accepts (19 MiB, two passes).
const (
	argonTime    = 2
	argonMemory  = 19 << 10 // KiB
	argonThreads = 1
	argonKeyLen  = 32
	maxArgonKiB  = 1 << 20
	bcryptCost   = 11
	maxIters     = 1 << 20
)

// hashing bounds the slow hashes computed at a time, and with them the memory of argon2.
var hashing = make(chan struct{}, max(2, runtime.GOMAXPROCS(0)))

// A credential is a stored password.
type credential interface {
	// check reports whether password is right. It may take tens of milliseconds and returns false
	// when ctx ends first.
	check(ctx context.Context, password string) bool
	// keys returns the keys for a SCRAM mechanism, if there are any.
	keys(mech string) (StoredKeys, bool)
}

// HashPassword writes a password in one of the forms, for the second field of a users file.
func HashPassword(form, password string) (string, error) {
	if password == "" || len(password) > maxPassword || strings.ContainsAny(password, "\x00\r\n") {
		return "", fmt.Errorf("hashing a password: it must have 1 to %d octets on one line", maxPassword)
	}
	switch form {
	case FormArgon2id:
		salt := randomBytes(16)
		key := argon2.IDKey([]byte(password), salt, argonTime, argonMemory, argonThreads, argonKeyLen)
		b64 := base64.RawStdEncoding
		return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, argonMemory, argonTime, argonThreads,
			b64.EncodeToString(salt), b64.EncodeToString(key)), nil
	case FormBcrypt:
		h, err := bcrypt.GenerateFromPassword([]byte(password), bcryptCost)
		return string(h), err
	case FormScramSHA256, FormScramSHA1:
		mech := strings.ToUpper(form)
		k, err := deriveKeys(mech, password, randomBytes(16), scramIterations)
		if err != nil {
			return "", err
		}
		b64 := base64.StdEncoding
		return fmt.Sprintf("{%s}%d,%s,%s,%s", mech, k.Iterations, b64.EncodeToString(k.Salt),
			b64.EncodeToString(k.StoredKey), b64.EncodeToString(k.ServerKey)), nil
	case FormPlain:
		if strings.Contains(password, ":") {
			return "", errors.New("hashing a password: a readable password cannot hold a colon")
		}
		return "{PLAIN}" + password, nil
	}
	return "", fmt.Errorf("hashing a password: unknown form %q", form)
}

// parseCredential reads what HashPassword writes, and what crypt(3) does.
func parseCredential(s string) (credential, error) {
	if c, ok, err := parseCrypt(s); ok {
		return c, err
	}
	switch {
	case strings.HasPrefix(s, "{PLAIN}"):
		return newPlain(strings.TrimPrefix(s, "{PLAIN}"))
	case strings.HasPrefix(s, "{"+ScramSHA256+"}"):
		return parseScram(ScramSHA256, strings.TrimPrefix(s, "{"+ScramSHA256+"}"))
	case strings.HasPrefix(s, "{"+ScramSHA1+"}"):
		return parseScram(ScramSHA1, strings.TrimPrefix(s, "{"+ScramSHA1+"}"))
	case strings.HasPrefix(s, "$argon2id$"):
		return parseArgon(s)
	case strings.HasPrefix(s, "$2a$"), strings.HasPrefix(s, "$2b$"), strings.HasPrefix(s, "$2y$"):
		if _, err := bcrypt.Cost([]byte(s)); err != nil {
			return nil, err
		}
		return bcryptHash(s), nil
	}
	return nil, errors.New("unknown form of password: want $argon2id$, $2b$, $y$, $6$, $5$, {SCRAM-SHA-256}, {SCRAM-SHA-1} or {PLAIN}")
}

// slow runs f when there is room for another slow hash.
func slow(ctx context.Context, f func() bool) bool {
	select {
	case hashing <- struct{}{}:
		defer func() { <-hashing }()
		return f()
	case <-ctx.Done():
		return false
	}
}

type argonHash struct {
	time, memory uint32
	threads      uint8
	salt, key    []byte
}

func parseArgon(s string) (credential, error) {
	var version int
	var h argonHash
	fields := strings.Split(s, "$") // "", argon2id, v=, m=..., salt, key
	if len(fields) != 6 {
		return nil, errors.New("argon2id: want $argon2id$v=19$m=,t=,p=$salt$key")
	}
	if _, err := fmt.Sscanf(fields[2], "v=%d", &version); err != nil || version != argon2.Version {
		return nil, fmt.Errorf("argon2id: unknown version %q", fields[2])
	}
	if _, err := fmt.Sscanf(fields[3], "m=%d,t=%d,p=%d", &h.memory, &h.time, &h.threads); err != nil {
		return nil, fmt.Errorf("argon2id: bad parameters %q", fields[3])
	}
	if h.time < 1 || h.time > 64 || h.threads < 1 || h.memory > maxArgonKiB {
		return nil, fmt.Errorf("argon2id: parameters %q out of range", fields[3])
	}
	var err error
	if h.salt, err = base64.RawStdEncoding.DecodeString(fields[4]); err != nil {
		return nil, fmt.Errorf("argon2id: salt: %w", err)
	}
	if h.key, err = base64.RawStdEncoding.DecodeString(fields[5]); err != nil {
		return nil, fmt.Errorf("argon2id: key: %w", err)
	}
	if len(h.salt) < 8 || len(h.key) < 16 || len(h.key) > 128 {
		return nil, errors.New("argon2id: salt or key has an odd length")
	}
	return h, nil
}

func (h argonHash) check(ctx context.Context, password string) bool {
	return slow(ctx, func() bool {
		key := argon2.IDKey([]byte(password), h.salt, h.time, h.memory, h.threads, uint32(len(h.key)))
		return subtle.ConstantTimeCompare(key, h.key) == 1
	})
}

func (argonHash) keys(string) (StoredKeys, bool) { return StoredKeys{}, false }

// dummy is what the password of an unknown user is compared with.
var dummy = argonHash{time: argonTime, memory: argonMemory, threads: argonThreads, salt: make([]byte, 16), key: make([]byte, argonKeyLen)}

type bcryptHash string

func (h bcryptHash) check(ctx context.Context, password string) bool {
	return slow(ctx, func() bool { return bcrypt.CompareHashAndPassword([]byte(h), []byte(password)) == nil })
}

func (bcryptHash) keys(string) (StoredKeys, bool) { return StoredKeys{}, false }

type scramKeys struct {
	mech string
	StoredKeys
}

func parseScram(mech, s string) (credential, error) {
	fields := strings.Split(s, ",")
	if len(fields) != 4 {
		return nil, fmt.Errorf("%s: want iterations,salt,storedkey,serverkey", mech)
	}
	k := scramKeys{mech: mech}
	var err error
	if k.Iterations, err = strconv.Atoi(fields[0]); err != nil || k.Iterations < 1 || k.Iterations > maxIters {
		return nil, fmt.Errorf("%s: bad number of iterations %q", mech, fields[0])
	}
	for i, part := range []*[]byte{&k.Salt, &k.StoredKey, &k.ServerKey} {
		if *part, err = base64.StdEncoding.DecodeString(fields[i+1]); err != nil {
			return nil, fmt.Errorf("%s: %w", mech, err)
		}
	}
	if size := scramHash(mech)().Size(); len(k.Salt) == 0 || len(k.StoredKey) != size || len(k.ServerKey) != size {
		return nil, fmt.Errorf("%s: salt or key has an odd length", mech)
	}
	return k, nil
}

func (k scramKeys) check(ctx context.Context, password string) bool {
	return slow(ctx, func() bool {
		got, err := deriveKeys(k.mech, password, k.Salt, k.Iterations)
		return err == nil && hmac.Equal(got.StoredKey, k.StoredKey)
	})
}

func (k scramKeys) keys(mech string) (StoredKeys, bool) { return k.StoredKeys, mech == k.mech }

// plainPassword is a readable password with the SCRAM keys derived from it.
type plainPassword struct {
	password string
	derived  map[string]StoredKeys
}

func newPlain(password string) (credential, error) {
	if password == "" {
		return nil, errors.New("empty password")
	}
	p := plainPassword{password: password, derived: make(map[string]StoredKeys)}
	for _, mech := range []string{ScramSHA256, ScramSHA1} {
		keys, err := deriveKeys(mech, password, randomBytes(16), scramIterations)
		if err != nil {
			return nil, err
		}
		p.derived[mech] = keys
	}
	return p, nil
}

func (p plainPassword) check(_ context.Context, password string) bool {
	return hmac.Equal([]byte(p.password), []byte(password))
}

func (p plainPassword) keys(mech string) (StoredKeys, bool) {
	k, ok := p.derived[mech]
	return k, ok
}
