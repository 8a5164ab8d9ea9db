package imap

import (
	"syscall"
	"unsafe"
)

// quickAck acknowledges what has arrived at once. A peer without TCP_NODELAY that answers in several
// packets, as Cyrus does with long answers and with several commands, sends the last one only when
// those before it are acknowledged: that would take our usual 40 ms. The kernel forgets the wish
// soon, so it is uttered before each wait for the rest of an answer; what has come before a command is
// acknowledged by that. In the middle of a long literal it would only make more and smaller packets of it.
func (r *reader) quickAck() {
	if r.ack != nil && r.left <= chunk {
		r.ack.Control(ackNow)
	}
}

func ackNow(fd uintptr) {
	on := int32(1)
	syscall.RawSyscall6(syscall.SYS_SETSOCKOPT, fd, syscall.IPPROTO_TCP, syscall.TCP_QUICKACK, uintptr(unsafe.Pointer(&on)), unsafe.Sizeof(on), 0)
}
