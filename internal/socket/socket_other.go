//go:build !linux

package socket

import (
	"net"
	"syscall"
)

// Conn is not used here.
type Conn struct{ *net.TCPConn }

// New returns conn as it is.
func New(conn net.Conn) net.Conn { return conn }

// ReadNow reads what is there. It fails with syscall.EAGAIN if that is nothing.
func ReadNow(fd uintptr, p []byte) (int, error) { return syscall.Read(int(fd), p) }

// AckNow leaves it to the system when to acknowledge.
func AckNow(syscall.RawConn) {}
