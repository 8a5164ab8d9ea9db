package imap

import (
	"net"
	"os"
	"sync"
	"syscall"
)

// epollLot is a lot by epoll: one descriptor and one goroutine for a whole server. The goroutine waits as any
// reader of a socket does, because an epoll descriptor can itself be waited for; it holds no thread.
type epollLot struct {
	mu       sync.Mutex
	file     *os.File // of epoll; nil before the first sleeper
	closed   bool
	last     ticket
	sleepers map[ticket]sleeper
	work     *sync.WaitGroup
}

// newLot returns a lot whose goroutine, once there is one, is counted in work.
func newLot(work *sync.WaitGroup) lot {
	return &epollLot{work: work, sleepers: make(map[ticket]sleeper)}
}

func (l *epollLot) enter(conn net.Conn, who sleeper) (ticket, error) {
	raw := rawConn(conn)
	if raw == nil {
		return 0, errNoSocket
	}
	t, epoll, err := l.admit(who)
	if err != nil {
		return 0, err
	}
	// One event, and if there is something to read already, at once. The descriptor stays when its stay ends,
	// and goes when it is closed.
	event := syscall.EpollEvent{Events: syscall.EPOLLIN | syscall.EPOLLRDHUP | syscall.EPOLLONESHOT, Fd: int32(t), Pad: int32(t >> 32)}
	e := epoll.Control(func(at uintptr) {
		e := raw.Control(func(fd uintptr) {
			if err = syscall.EpollCtl(int(at), syscall.EPOLL_CTL_MOD, int(fd), &event); err == syscall.ENOENT {
				err = syscall.EpollCtl(int(at), syscall.EPOLL_CTL_ADD, int(fd), &event)
			}
		})
		if e != nil {
			err = e
		}
	})
	if e != nil {
		err = e
	}
	if err != nil {
		l.leave(t)
		return 0, err
	}
	return t, nil
}

// admit gives out a ticket.
func (l *epollLot) admit(who sleeper) (ticket, syscall.RawConn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return 0, nil, os.ErrClosed
	}
	if l.file == nil {
		fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
		if err != nil {
			return 0, nil, os.NewSyscallError("epoll_create1", err)
		}
		syscall.SetNonblock(fd, true) // so that the runtime waits for it
		l.file = os.NewFile(uintptr(fd), "epoll")
		l.work.Go(l.run)
	}
	raw, err := l.file.SyscallConn()
	if err != nil {
		return 0, nil, err
	}
	l.last++
	l.sleepers[l.last] = who
	return l.last, raw, nil
}

func (l *epollLot) leave(t ticket) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.sleepers, t)
}

func (l *epollLot) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	clear(l.sleepers)
	if l.file != nil {
		l.file.Close()
	}
}

// run wakes sleepers until the lot is closed.
func (l *epollLot) run() {
	l.mu.Lock()
	raw, err := l.file.SyscallConn()
	l.mu.Unlock()
	if err != nil {
		return
	}
	var events [64]syscall.EpollEvent
	var n int
	look := func(fd uintptr) bool {
		for {
			var err error
			if n, err = syscall.EpollWait(int(fd), events[:], 0); err != syscall.EINTR {
				return n != 0
			}
		}
	}
	for raw.Read(look) == nil {
		for _, e := range events[:max(n, 0)] {
			t := ticket(uint32(e.Fd)) | ticket(uint32(e.Pad))<<32
			l.mu.Lock()
			who := l.sleepers[t]
			delete(l.sleepers, t)
			l.mu.Unlock()
			if who != nil {
				who.wake(t)
			}
		}
	}
}
