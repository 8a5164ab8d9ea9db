package auth

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync/atomic"
)

// GroupFile says which groups users are in, which ACLs may name as group:NAME. Its form is that of
// /etc/group, "name:password:number:user,user", of which only the first and last field count. It is read
// again when it changes.
//
// Cyrus: auth_mech: unix.
type GroupFile struct {
	watched
	members atomic.Pointer[map[string][]string] // groups by user
}

// OpenGroups reads a group file. Errors name the file and the line. A nil logger discards.
func OpenGroups(path string, logger *slog.Logger) (*GroupFile, error) {
	g := &GroupFile{watched: watched{path: path, what: "groups", log: cmp.Or(logger, slog.New(slog.DiscardHandler))}}
	g.load = func(r io.Reader, _ os.FileInfo) error {
		members, err := readGroups(r, path)
		if err == nil {
			g.members.Store(&members)
		}
		return err
	}
	if err := g.Reload(); err != nil {
		return nil, err
	}
	return g, nil
}

func readGroups(r io.Reader, name string) (map[string][]string, error) {
	members := make(map[string][]string)
	scanner := bufio.NewScanner(r)
	scanner.Buffer(nil, 1<<20)
	n := 0
	for scanner.Scan() {
		n++
		line := strings.TrimSpace(scanner.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		fields := strings.Split(line, ":")
		if len(fields) != 4 || fields[0] == "" {
			return nil, fmt.Errorf("%s:%d: want name:password:number:user,user", name, n)
		}
		for user := range strings.SplitSeq(fields[3], ",") {
			if user = strings.TrimSpace(user); user != "" && !slices.Contains(members[user], fields[0]) {
				members[user] = append(members[user], fields[0])
			}
		}
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("%s:%d: %w", name, n+1, err)
	}
	return members, nil
}

// of returns the groups of a user.
func (g *GroupFile) of(user string) []string {
	g.look()
	return (*g.members.Load())[user]
}

// Groups returns the groups that a user is in now, "" for an account that no source knows: for sessions
// that last longer than a membership.
func (m *Mechanisms) Groups(ctx context.Context, user string) ([]string, error) {
	account, err := m.lookup(ctx, user)
	return account.Groups, err
}

// flagged adds what the configuration knows of an account.
func (m *Mechanisms) flagged(a Account) Account {
	a.Admin = a.Admin || slices.Contains(m.cfg.Admins, a.Name)
	a.Proxy = a.Proxy || slices.Contains(m.cfg.Proxies, a.Name)
	if m.cfg.Groups != nil {
		a.Groups = slices.Concat(a.Groups, m.cfg.Groups.of(a.Name))
	}
	return a
}
