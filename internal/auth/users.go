package auth

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// A users file has one account a line:
//
//	name:password[:group,group,...]
//
// The password is in one of the forms that HashPassword writes. The groups @admin and @proxy are not
// groups but set Account.Admin and Account.Proxy. Empty lines and lines that begin with # are skipped.
// A name stands once. Blanks around the fields do not count.
const (
	maxUsersLine = 8192
	adminMark    = "@admin"
	proxyMark    = "@proxy"
)

// User is one line of a users file.
type User struct {
	Account
	Password string // in a form of HashPassword
}

// String writes the line.
func (u User) String() string {
	groups := slices.Clone(u.Groups)
	if u.Admin {
		groups = append(groups, adminMark)
	}
	if u.Proxy {
		groups = append(groups, proxyMark)
	}
	if len(groups) == 0 {
		return u.Name + ":" + u.Password
	}
	return u.Name + ":" + u.Password + ":" + strings.Join(groups, ",")
}

// ParseUser reads a line of a users file.
func ParseUser(line string) (User, error) {
	fields := strings.Split(line, ":")
	if len(fields) < 2 || len(fields) > 3 {
		return User{}, errors.New("want name:password[:groups]")
	}
	for i := range fields {
		fields[i] = strings.TrimSpace(fields[i])
	}
	u := User{Account: Account{Name: fields[0]}, Password: fields[1]}
	if u.Name == "" || len(u.Name) > maxUser {
		return User{}, fmt.Errorf("a name has 1 to %d octets", maxUser)
	}
	if len(fields) == 3 {
		for group := range strings.SplitSeq(fields[2], ",") {
			switch group = strings.TrimSpace(group); group {
			case "":
			case adminMark:
				u.Admin = true
			case proxyMark:
				u.Proxy = true
			default:
				u.Groups = append(u.Groups, group)
			}
		}
	}
	return u, nil
}

// Users is a fixed list of accounts: an AccountSource and a KeySource.
type Users struct {
	accounts map[string]stored
	mechs    []string
}

type stored struct {
	Account
	credential
}

// NewUsers returns the list of users.
func NewUsers(users ...User) (*Users, error) {
	t := &Users{accounts: make(map[string]stored, len(users))}
	for _, u := range users {
		if err := t.add(u); err != nil {
			return nil, err
		}
	}
	return t.finish(), nil
}

// ReadUsers reads a users file; name is its name in errors, which look like "name:line: why".
func ReadUsers(r io.Reader, name string) (*Users, error) {
	t := &Users{accounts: make(map[string]stored)}
	scanner := bufio.NewScanner(r)
	scanner.Buffer(nil, maxUsersLine)
	n := 0
	for scanner.Scan() {
		n++
		line := strings.TrimSpace(scanner.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		u, err := ParseUser(line)
		if err == nil {
			err = t.add(u)
		}
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, n, err)
		}
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("%s:%d: %w", name, n+1, err)
	}
	return t.finish(), nil
}

func (t *Users) add(u User) error {
	if _, dup := t.accounts[u.Name]; dup {
		return fmt.Errorf("user %s stands twice", u.Name)
	}
	c, err := parseCredential(u.Password)
	if err != nil {
		return fmt.Errorf("user %s: %w", u.Name, err)
	}
	t.accounts[u.Name] = stored{u.Account, c}
	return nil
}

func (t *Users) finish() *Users {
	for _, mech := range []string{ScramSHA256, ScramSHA1} {
		all := len(t.accounts) > 0
		for _, a := range t.accounts {
			if _, ok := a.keys(mech); !ok {
				all = false
				break
			}
		}
		if all {
			t.mechs = append(t.mechs, mech)
		}
	}
	return t
}

// Len returns the number of accounts.
func (t *Users) Len() int { return len(t.accounts) }

// Verify implements Source.
func (t *Users) Verify(ctx context.Context, user, password string, _ Conn) (Account, error) {
	a, ok := t.accounts[user]
	switch {
	case !ok:
		return Account{}, ErrUnknownUser
	case a.check(ctx, password):
		return a.Account, nil
	case ctx.Err() != nil:
		return Account{}, fmt.Errorf("hashing: %w", ErrUnavailable)
	}
	return Account{}, ErrRejected
}

// Lookup implements AccountSource.
func (t *Users) Lookup(_ context.Context, user string) (Account, error) {
	a, ok := t.accounts[user]
	if !ok {
		return Account{}, ErrUnknownUser
	}
	return a.Account, nil
}

// KeyMechs implements KeySource.
func (t *Users) KeyMechs() []string { return t.mechs }

// Keys implements KeySource.
func (t *Users) Keys(_ context.Context, user, mech string) (StoredKeys, error) {
	a, ok := t.accounts[user]
	if !ok {
		return StoredKeys{}, ErrUnknownUser
	}
	k, ok := a.keys(mech)
	if !ok {
		return StoredKeys{}, ErrRejected
	}
	k.Account = a.Account
	return k, nil
}
