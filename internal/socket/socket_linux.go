package socket

import (
	"io"
	"net"
	"sync"
	"syscall"
	"unsafe"
)

// most is how much one system call writes at most: the processor belongs to it meanwhile.
const most = 64 << 10

// Conn is a TCP connection that reads and writes in this way. It is small, because most connections are idle.
type Conn struct {
	*net.TCPConn
	raw syscall.RawConn
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
	return &Conn{tcp, raw}
}

// SyscallConn implements syscall.Conn.
func (c *Conn) SyscallConn() (syscall.RawConn, error) { return c.raw, nil }

// call is one call of Read or Write.
type call struct {
	p           []byte
	n           int
	err         error
	read, write func(fd uintptr) bool // bound once, so that nothing is allocated
}

var calls = sync.Pool{New: func() any {
	c := &call{}
	c.read, c.write = c.readOnce, c.writeAll
	return c
}}

func begin(p []byte) *call {
	c := calls.Get().(*call)
	c.p, c.n, c.err = p, 0, nil
	return c
}

// end returns what has come of the call, which the socket has ended with err.
func (c *call) end(err error) (int, error) {
	n := c.n
	if err == nil {
		err = c.err
	}
	c.p, c.err = nil, nil
	calls.Put(c)
	return n, err
}

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	call := begin(p)
	return call.end(c.raw.Read(call.read))
}

func (c *call) readOnce(fd uintptr) bool {
	n, err := ReadNow(fd, c.p)
	if err == syscall.EAGAIN {
		return false
	}
	if c.n, c.err = n, err; n == 0 && err == nil {
		c.err = io.EOF
	}
	return true
}

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (int, error) {
	call := begin(p)
	return call.end(c.raw.Write(call.write))
}

func (c *call) writeAll(fd uintptr) bool {
	for c.n < len(c.p) {
		n, err := writeNow(fd, c.p[c.n:min(len(c.p), c.n+most)])
		if err == syscall.EAGAIN {
			return false
		}
		if err != nil {
			c.err = err
			return true
		}
		c.n += n
	}
	return true
}

// AckNow acknowledges what has arrived, and for a while what arrives, at once instead of with the next that is sent.
func AckNow(raw syscall.RawConn) { raw.Control(ackNow) }

func ackNow(fd uintptr) {
	on := int32(1)
	syscall.RawSyscall6(syscall.SYS_SETSOCKOPT, fd, syscall.IPPROTO_TCP, syscall.TCP_QUICKACK, uintptr(unsafe.Pointer(&on)), unsafe.Sizeof(on), 0)
}
