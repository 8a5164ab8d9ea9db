package cluster

import (
	"os"

	"golang.org/x/sys/unix"
)

// layDown makes a file that takes up room, without writing it.
func layDown(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Fallocate(int(f.Fd()), 0, 0, size)
}
