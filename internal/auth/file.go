package auth

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
)

// File is a users file that is read again when it changes.
type File struct {
	watched
	users atomic.Pointer[Users]
}

var (
	_ AccountSource = (*File)(nil)
	_ KeySource     = (*File)(nil)
)

// OpenFile reads a users file. Errors name the file and the line. A nil logger discards.
func OpenFile(path string, logger *slog.Logger) (*File, error) {
	f := &File{watched: watched{path: path, what: "users", log: cmp.Or(logger, slog.New(slog.DiscardHandler))}}
	f.load = func(r io.Reader, info os.FileInfo) error {
		users, err := ReadUsers(r, path)
		if err != nil {
			return err
		}
		if mode := info.Mode().Perm(); mode&0o004 != 0 {
			f.log.Warn("users file can be read by everybody", "file", path, "mode", mode.String())
		}
		f.users.Store(users)
		return nil
	}
	if err := f.Reload(); err != nil {
		return nil, err
	}
	return f, nil
}

// current returns the accounts, after a look at the file if the last was a while ago.
func (f *File) current() *Users {
	f.look()
	return f.users.Load()
}

// Verify implements Source.
func (f *File) Verify(ctx context.Context, user, password string, c Conn) (Account, error) {
	return f.current().Verify(ctx, user, password, c)
}

// Lookup implements AccountSource.
func (f *File) Lookup(ctx context.Context, user string) (Account, error) {
	return f.current().Lookup(ctx, user)
}

// KeyMechs implements KeySource.
func (f *File) KeyMechs() []string { return f.current().KeyMechs() }

// Keys implements KeySource.
func (f *File) Keys(ctx context.Context, user, mech string) (StoredKeys, error) {
	return f.current().Keys(ctx, user, mech)
}

// ErrNoUser means that a users file has no such user.
var ErrNoUser = errors.New("no such user")

// SetUser adds u to a users file or replaces its line, keeping comments, order and mode. A file that
// does not exist is made, readable by its owner only.
func SetUser(path string, u User) error {
	if _, err := NewUsers(u); err != nil {
		return fmt.Errorf("setting a user: %w", err)
	}
	line := u.String()
	back, err := ParseUser(line)
	if err != nil || back.Name != u.Name || back.Password != u.Password || !slices.Equal(back.Groups, u.Groups) ||
		strings.ContainsAny(line, "\r\n") || strings.HasPrefix(line, "#") {
		return fmt.Errorf("setting a user: %q cannot be written into a users file", u.Name)
	}
	return editUsers(path, func(lines []string) ([]string, error) {
		if i := findUser(lines, u.Name); i >= 0 {
			lines[i] = line
			return lines, nil
		}
		return append(lines, line), nil
	})
}

// RemoveUser removes a user from a users file, or returns ErrNoUser.
func RemoveUser(path, name string) error {
	return editUsers(path, func(lines []string) ([]string, error) {
		i := findUser(lines, name)
		if i < 0 {
			return nil, fmt.Errorf("removing %s from %s: %w", name, path, ErrNoUser)
		}
		return append(lines[:i], lines[i+1:]...), nil
	})
}

func findUser(lines []string, name string) int {
	for i, line := range lines {
		if strings.HasPrefix(strings.TrimSpace(line), "#") {
			continue
		}
		if have, _, _ := strings.Cut(line, ":"); strings.TrimSpace(have) == name {
			return i
		}
	}
	return -1
}

// editUsers replaces the file in one step, so that a reader never sees half of it.
func editUsers(path string, edit func([]string) ([]string, error)) error {
	var lines []string
	mode := os.FileMode(0o600)
	switch old, err := os.ReadFile(path); {
	case err == nil:
		if text := strings.TrimSuffix(string(old), "\n"); text != "" {
			lines = strings.Split(text, "\n")
		}
		if info, err := os.Stat(path); err == nil {
			mode = info.Mode().Perm()
		}
	case !errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("editing users: %w", err)
	}
	lines, err := edit(lines)
	if err != nil {
		return err
	}
	text := strings.Join(lines, "\n") + "\n"
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("editing users: %w", err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.WriteString(text)
	err = errors.Join(err, tmp.Chmod(mode), tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("editing users: %w", err)
	}
	return nil
}
