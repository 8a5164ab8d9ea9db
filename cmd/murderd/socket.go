package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"murder/internal/config"
	listening "murder/internal/listen"
)

// listenUnix listens on a socket in the place of one that a process left behind that is gone.
func listenUnix(path string, mode os.FileMode) (net.Listener, error) {
	conn, err := net.Dial("unix", path)
	switch {
	case err == nil:
		conn.Close()
		return nil, fmt.Errorf("%s is in use: is another murderd running here?", path)
	case errors.Is(err, syscall.ECONNREFUSED):
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	ln, err := net.Listen("unix", path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w; the directory %s must exist, systemd makes it by RuntimeDirectory=murder", err, filepath.Dir(path))
	}
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, mode); err != nil {
		ln.Close()
		return nil, err
	}
	return ln, nil
}

// listen listens on an address, or on the path of a socket as its settings say.
func (d *daemon) listen(addr string, s *config.Socket) (net.Listener, error) {
	if !strings.HasPrefix(addr, "/") {
		return listening.TCP(addr)
	}
	uids, err := lookUpAll(s.Users)
	if err != nil {
		return nil, err
	}
	owner, group, err := ownership(s)
	if err != nil {
		return nil, err
	}
	mode, err := s.FileMode()
	if err != nil {
		return nil, err
	}
	ln, err := listenUnix(addr, 0o600)
	if err != nil {
		return nil, err
	}
	err = os.Chown(addr, owner, group)
	if err == nil {
		err = os.Chmod(addr, mode)
	}
	if err != nil {
		ln.Close()
		return nil, fmt.Errorf("giving away a socket: %w", err)
	}
	if len(uids) > 0 {
		ln = listening.OnlyUsers(ln, uids, d.log)
	}
	return ln, nil
}

// ownership is what Chown needs; -1 leaves it as it is.
func ownership(s *config.Socket) (owner, group int, err error) {
	owner, group = -1, -1
	if s.Owner != "" {
		if owner, err = lookUp(s.Owner); err != nil {
			return -1, -1, err
		}
	}
	if s.Group == "" {
		return owner, group, nil
	}
	if group, err = strconv.Atoi(s.Group); err == nil {
		return owner, group, nil
	}
	g, err := user.LookupGroup(s.Group)
	if err != nil {
		return -1, -1, fmt.Errorf("group of a socket: %w", err)
	}
	group, err = strconv.Atoi(g.Gid)
	return owner, group, err
}

func lookUpAll(names []string) (uids []uint32, err error) {
	for _, name := range names {
		uid, err := lookUp(name)
		if err != nil {
			return nil, err
		}
		uids = append(uids, uint32(uid))
	}
	return uids, nil
}

// lookUp finds a user by name or number.
func lookUp(name string) (uid int, err error) {
	if n, err := strconv.ParseUint(name, 10, 32); err == nil {
		return int(n), nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return 0, fmt.Errorf("user of a socket: %w", err)
	}
	return strconv.Atoi(u.Uid)
}
