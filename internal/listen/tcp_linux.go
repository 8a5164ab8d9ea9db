package listen

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// config sets the options once, on the listening socket: the connections have them from there (tcp(7)), which
// saves each of them eight system calls.
var config = net.ListenConfig{KeepAlive: -1, Control: func(_, _ string, raw syscall.RawConn) error {
	var err error
	set := func(fd uintptr) {
		for _, o := range [...]struct{ level, name, value int }{
			{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
			{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(keepIdle / time.Second)},
			{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int(keepInterval / time.Second)},
			{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepCount},
		} {
			if err == nil {
				err = unix.SetsockoptInt(int(fd), o.level, o.name, o.value)
			}
		}
	}
	if e := raw.Control(set); e != nil {
		return e
	}
	return err
}}
