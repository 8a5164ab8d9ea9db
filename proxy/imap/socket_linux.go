package imap

import (
	"io"
	"net"
	"syscall"
	"unsafe"
)

// readNow reads what is there. The socket does not block, so there is no need to tell the scheduler of a
// system call: its watchman (sysmon) would look every 20 µs whether the processor should go to another
// thread, which costs more than all that this program does with a command.
func readNow(fd uintptr, p []byte) (int, error) { return now(syscall.SYS_READ, fd, p) }

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

// socket is a TCP connection that reads and writes in this way. There may be one reader and one writer
// at a time.
type socket struct {
	*net.TCPConn
	raw           syscall.RawConn
	in, out       []byte
	read, written int
	inErr, outErr error
	tryIn, tryOut func(fd uintptr) bool // bound once, so that nothing is allocated
}

// newSocket returns conn as a socket if it is TCP.
func newSocket(conn net.Conn) net.Conn {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return conn
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return conn
	}
	s := &socket{TCPConn: tcp, raw: raw}
	s.tryIn, s.tryOut = s.readOnce, s.writeAll
	return s
}

// Read implements net.Conn.
func (s *socket) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	s.in, s.read, s.inErr = p, 0, nil
	err := s.raw.Read(s.tryIn)
	s.in = nil
	if err == nil {
		err = s.inErr
	}
	return s.read, err
}

func (s *socket) readOnce(fd uintptr) bool {
	n, err := readNow(fd, s.in)
	if err == syscall.EAGAIN {
		return false
	}
	if s.read, s.inErr = n, err; n == 0 && err == nil {
		s.inErr = io.EOF
	}
	return true
}

// Write implements net.Conn.
func (s *socket) Write(p []byte) (int, error) {
	s.out, s.written, s.outErr = p, 0, nil
	err := s.raw.Write(s.tryOut)
	s.out = nil
	if err == nil {
		err = s.outErr
	}
	return s.written, err
}

func (s *socket) writeAll(fd uintptr) bool {
	for s.written < len(s.out) {
		n, err := writeNow(fd, s.out[s.written:min(len(s.out), s.written+chunk)])
		if err == syscall.EAGAIN {
			return false
		}
		if err != nil {
			s.outErr = err
			return true
		}
		s.written += n
	}
	return true
}
