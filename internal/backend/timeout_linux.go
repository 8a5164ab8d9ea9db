package backend

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// boundRetransmission makes the kernel give up on a server that does not acknowledge for a minute;
// without it that takes a quarter of an hour, and keepalive does not run while data is on its way.
func boundRetransmission(_, _ string, raw syscall.RawConn) error {
	var err error
	if e := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 60_000)
	}); e != nil {
		return e
	}
	return err
}
