//go:build unix

package cluster

import "golang.org/x/sys/unix"

// freeSpace is what is left for this process on the file system of a directory, 0 if unknown.
func freeSpace(dir string) uint64 {
	var s unix.Statfs_t
	if unix.Statfs(dir, &s) != nil {
		return 0
	}
	return uint64(s.Bavail) * uint64(s.Bsize)
}
