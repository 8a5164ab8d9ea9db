//go:build !unix

package cluster

// freeSpace is not known on this system.
func freeSpace(string) uint64 { return minFree }
