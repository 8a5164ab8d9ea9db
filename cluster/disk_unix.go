//go:build unix

package cluster

import "golang.org/x/sys/unix"

// diskSpace asks for the file system of a directory.
func diskSpace(dir string) space {
	var s unix.Statfs_t
	if unix.Statfs(dir, &s) != nil {
		return space{}
	}
	return space{uint64(s.Bavail) * uint64(s.Bsize), uint64(s.Blocks) * uint64(s.Bsize)}
}

// freeSpace is what is left for this process on the file system of a directory, 0 if unknown.
func freeSpace(dir string) uint64 { return diskSpace(dir).free }
