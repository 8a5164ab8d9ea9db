package backend

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// unanswered is how long a server may leave what it is sent unacknowledged. The kernel ends a silent connection
// after that time too, however few of the questions of keepAlive have been lost, so it is as long as all of them
// take: one that is lost is no reason.
var unanswered = keepAlive.Idle + time.Duration(keepAlive.Count)*keepAlive.Interval

// boundRetransmission makes the kernel give up on a server that does not acknowledge; without it that takes a
// quarter of an hour, and keepalive does not run while data is on its way.
func boundRetransmission(_, _ string, raw syscall.RawConn) error {
	var err error
	if e := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unanswered.Milliseconds()))
	}); e != nil {
		return e
	}
	return err
}
