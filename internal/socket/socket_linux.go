package socket

import (
	"io"
	"net"
	"syscall"
	"unsafe"
)

// most is how much one system call writes at most: the processor belongs to it meanwhile.
const most = 64 << 10

// Conn is a TCP connection that reads and writes in this way. There may be one reader and one writer
// at a time.
type Conn struct {
	*net.TCPConn
	raw           syscall.RawConn
	in, out       []byte
	read, written int
	inErr, outErr error
	tryIn, tryOut func(fd uintptr) bool // bound once, so that nothing is allocated
}

// New returns conn as a *Conn if it is TCP, else as it is.
func New(conn net.Conn) net.Conn {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return conn
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return conn
	}
	c := &Conn{TCPConn: tcp, raw: raw}
	c.tryIn, c.tryOut = c.readOnce, c.writeAll
	return c
}

// SyscallConn implements syscall.Conn.
func (c *Conn) SyscallConn() (syscall.RawConn, error) { return c.raw, nil }

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c.in, c.read, c.inErr = p, 0, nil
	err := c.raw.Read(c.tryIn)
	c.in = nil
	if err == nil {
		err = c.inErr
	}
	return c.read, err
}

func (c *Conn) readOnce(fd uintptr) bool {
	n, err := ReadNow(fd, c.in)
	if err == syscall.EAGAIN {
		return false
	}
	if c.read, c.inErr = n, err; n == 0 && err == nil {
		c.inErr = io.EOF
	}
	return true
}

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (int, error) {
	c.out, c.written, c.outErr = p, 0, nil
	err := c.raw.Write(c.tryOut)
	c.out = nil
	if err == nil {
		err = c.outErr
	}
	return c.written, err
}

func (c *Conn) writeAll(fd uintptr) bool {
	for c.written < len(c.out) {
		n, err := writeNow(fd, c.out[c.written:min(len(c.out), c.written+most)])
		if err == syscall.EAGAIN {
			return false
		}
		if err != nil {
			c.outErr = err
			return true
		}
		c.written += n
	}
	return true
}

// AckNow acknowledges what has arrived, and for a while what arrives, at once instead of with the next that is sent.
func AckNow(raw syscall.RawConn) { raw.Control(ackNow) }

func ackNow(fd uintptr) {
	on := int32(1)
	syscall.RawSyscall6(syscall.SYS_SETSOCKOPT, fd, syscall.IPPROTO_TCP, syscall.TCP_QUICKACK, uintptr(unsafe.Pointer(&on)), unsafe.Sizeof(on), 0)
}
