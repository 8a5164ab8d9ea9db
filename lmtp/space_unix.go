//go:build linux || darwin || freebsd

package lmtp

import (
	"errors"

	"golang.org/x/sys/unix"
)

// freeSpace returns the octets that are left in dir's file system for the likes of us.
func freeSpace(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}

func isNoSpace(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }
