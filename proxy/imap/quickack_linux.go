package imap

import "syscall"

// quickAck acknowledges what has arrived at once. A peer without TCP_NODELAY that answers in several
// packets, as Cyrus does with long answers and with several commands, sends the last one only when
// those before it are acknowledged: that would take our usual 40 ms. The kernel forgets the wish
// soon, so it is uttered before each wait for an answer.
func (r *reader) quickAck() {
	if r.raw != nil {
		r.raw.Control(func(fd uintptr) { syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_QUICKACK, 1) })
	}
}
