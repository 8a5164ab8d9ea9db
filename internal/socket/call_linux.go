//go:build !race

package socket

import (
	"syscall"
	"unsafe"
)

// ReadNow reads what is there. It fails with syscall.EAGAIN if that is nothing.
func ReadNow(fd uintptr, p []byte) (int, error) { return now(syscall.SYS_READ, fd, p) }

// writeNow writes what there is room for.
func writeNow(fd uintptr, p []byte) (int, error) { return now(syscall.SYS_WRITE, fd, p) }

func now(trap, fd uintptr, p []byte) (int, error) {
	for {
		n, _, e := syscall.RawSyscall(trap, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
		switch e {
		case 0:
			return int(n), nil
		case syscall.EINTR:
		default:
			return 0, e
		}
	}
}
