package imap

import "syscall"

// quickAck acknowledges what has arrived at once. A peer that answers several commands in several
// packets, without TCP_NODELAY, sends the second only when the first is acknowledged: that would
// take our usual 40 ms. The kernel forgets the wish soon, so it is uttered before each such wait.
func (r *reader) quickAck() {
	if r.raw != nil {
		r.raw.Control(func(fd uintptr) { syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_QUICKACK, 1) })
	}
}
