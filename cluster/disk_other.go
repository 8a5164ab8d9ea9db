//go:build !unix

package cluster

// diskSpace is not known on this system.
func diskSpace(string) space { return space{} }

// freeSpace is not known on this system.
func freeSpace(string) uint64 { return minFree }
