//go:build race

package socket

import "syscall"

// The race detector learns from the calls of package syscall that whoever has read something comes after whoever wrote
// it. Without them it would find races between the two ends of a connection that a test has both of.

// ReadNow reads what is there. It fails with syscall.EAGAIN if that is nothing.
func ReadNow(fd uintptr, p []byte) (int, error) { return now(syscall.Read, fd, p) }

// writeNow writes what there is room for.
func writeNow(fd uintptr, p []byte) (int, error) { return now(syscall.Write, fd, p) }

func now(call func(int, []byte) (int, error), fd uintptr, p []byte) (int, error) {
	for {
		n, err := call(int(fd), p)
		if err != syscall.EINTR {
			return max(n, 0), err
		}
	}
}
