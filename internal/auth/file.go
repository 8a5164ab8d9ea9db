package auth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const recheck = time.Second

// File is a users file that is read again when it changes. It looks at the file at most once a
// second, when it is asked something; a file that cannot be read or parsed leaves the accounts as
// they were and is logged once.
type File struct {
	path string
	log  *slog.Logger

	users   atomic.Pointer[Users]
	checked atomic.Int64 // unix nanoseconds of the last look

	mu   sync.Mutex // held while reading
	seen os.FileInfo
}

var (
	_ AccountSource = (*File)(nil)
	_ KeySource     = (*File)(nil)
)

// OpenFile reads a users file. Errors name the file and the line. A nil logger discards.
func OpenFile(path string, logger *slog.Logger) (*File, error) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	f := &File{path: path, log: logger}
	if err := f.Reload(); err != nil {
		return nil, err
	}
	return f, nil
}

// Reload reads the file now. On error the accounts stay as they were.
func (f *File) Reload() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.read()
}

func (f *File) read() error {
	r, err := os.Open(f.path)
	if err != nil {
		f.seen = nil
		return fmt.Errorf("reading users: %w", err)
	}
	defer r.Close()
	info, err := r.Stat()
	if err != nil {
		return fmt.Errorf("reading users: %w", err)
	}
	f.seen = info
	users, err := ReadUsers(r, f.path)
	if err != nil {
		return fmt.Errorf("reading users: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o004 != 0 {
		f.log.Warn("users file can be read by everybody", "file", f.path, "mode", mode.String())
	}
	f.users.Store(users)
	return nil
}

// current returns the accounts, after a look at the file if the last was a while ago.
func (f *File) current() *Users {
	now, last := time.Now().UnixNano(), f.checked.Load()
	if now-last >= int64(recheck) && f.checked.CompareAndSwap(last, now) {
		f.refresh()
	}
	return f.users.Load()
}

// refresh reads the file if it is not the one seen last.
func (f *File) refresh() {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, err := os.Stat(f.path)
	switch {
	case err != nil && f.seen == nil:
		return // known to be gone
	case err == nil && f.seen != nil && os.SameFile(info, f.seen) && info.ModTime().Equal(f.seen.ModTime()) && info.Size() == f.seen.Size():
		return
	}
	if err := f.read(); err != nil {
		f.log.Error("users file not taken over", "file", f.path, "err", err)
		return
	}
	f.log.Info("users file read again", "file", f.path, "users", f.users.Load().Len())
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
