//go:build !linux

package imap

import (
	"net"
	"syscall"
)

// socket exists where the way it reads and writes has been tried.
type socket struct {
	*net.TCPConn
	raw syscall.RawConn
}

func newSocket(conn net.Conn) net.Conn { return conn }

func readNow(fd uintptr, p []byte) (int, error) { return syscall.Read(int(fd), p) }
