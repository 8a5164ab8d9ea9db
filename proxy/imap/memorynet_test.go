package imap

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// memoryNet is a network in one process, so that whole stories can run in the virtual time of
// testing/synctest. Connections have buffers, deadlines and addresses like those of TCP.
type memoryNet struct {
	mu        sync.Mutex
	port      int
	listeners map[string]*memoryListener
	// dark addresses swallow connections, as a host does that drops packets.
	dark map[string]bool
}

func newMemoryNet() *memoryNet {
	return &memoryNet{listeners: make(map[string]*memoryListener), dark: make(map[string]bool)}
}

func (n *memoryNet) address() *net.TCPAddr {
	n.port++
	return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: n.port}
}

// listen listens on an address that was returned before, or "" for a new one.
func (n *memoryNet) listen(addr string) *memoryListener {
	n.mu.Lock()
	defer n.mu.Unlock()
	at := n.address()
	if addr != "" {
		at, _ = net.ResolveTCPAddr("tcp", addr)
	}
	ln := &memoryListener{net: n, addr: at, queue: make(chan net.Conn, 16), closed: make(chan struct{})}
	n.listeners[at.String()] = ln
	return ln
}

func (n *memoryNet) dial(ctx context.Context, addr string) (net.Conn, error) {
	n.mu.Lock()
	ln, dark, from := n.listeners[addr], n.dark[addr], n.address()
	n.mu.Unlock()
	if dark {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if ln == nil {
		return nil, fmt.Errorf("connection to %s refused", addr)
	}
	there, here := newStream(), newStream()
	near := &memoryConn{in: here, out: there, local: from, remote: ln.addr}
	far := &memoryConn{in: there, out: here, local: ln.addr, remote: from}
	select {
	case ln.queue <- far:
		return near, nil
	case <-ln.closed:
		return nil, fmt.Errorf("connection to %s refused", addr)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

type memoryListener struct {
	net    *memoryNet
	addr   *net.TCPAddr
	queue  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *memoryListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *memoryListener) Close() error {
	l.once.Do(func() {
		l.net.mu.Lock()
		if l.net.listeners[l.addr.String()] == l {
			delete(l.net.listeners, l.addr.String())
		}
		l.net.mu.Unlock()
		close(l.closed)
	})
	return nil
}

func (l *memoryListener) Addr() net.Addr { return l.addr }

// memoryConn is one end of a connection.
type memoryConn struct {
	in, out       *stream
	local, remote *net.TCPAddr
}

func (c *memoryConn) Read(p []byte) (int, error)  { return c.in.read(p) }
func (c *memoryConn) Write(p []byte) (int, error) { return c.out.write(p) }
func (c *memoryConn) LocalAddr() net.Addr         { return c.local }
func (c *memoryConn) RemoteAddr() net.Addr        { return c.remote }
func (c *memoryConn) Close() error {
	c.in.close(net.ErrClosed)
	c.out.close(io.EOF)
	return nil
}

func (c *memoryConn) SetDeadline(t time.Time) error {
	c.in.setReadDeadline(t)
	c.out.setWriteDeadline(t)
	return nil
}
func (c *memoryConn) SetReadDeadline(t time.Time) error  { c.in.setReadDeadline(t); return nil }
func (c *memoryConn) SetWriteDeadline(t time.Time) error { c.out.setWriteDeadline(t); return nil }

// memoryLot is a lot for connections in memory.
type memoryLot struct{ last atomic.Uint64 }

func (l *memoryLot) enter(conn net.Conn, who sleeper) (ticket, error) {
	c, ok := conn.(*memoryConn)
	if !ok {
		return 0, errNoSocket
	}
	t := ticket(l.last.Add(1))
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	if c.in.err == net.ErrClosed {
		return 0, c.in.err
	}
	if len(c.in.buf) > 0 || c.in.err != nil {
		go who.wake(t)
	} else {
		c.in.who, c.in.stay = who, t
	}
	return t, nil
}

func (l *memoryLot) leave(ticket) {}
func (l *memoryLot) close()       {}

// streamSize is how much one direction holds.
const streamSize = 64 << 10

// stream is one direction of a connection.
type stream struct {
	mu              sync.Mutex
	buf             []byte
	err             error         // of reading, once buf is empty; and of writing
	changed         chan struct{} // closed and replaced at every change
	readBy, writeBy time.Time     // deadlines
	who             sleeper       // waits for something to read
	stay            ticket        // of his
}

func newStream() *stream { return &stream{changed: make(chan struct{})} }

// step tells everybody who waits; s.mu is held.
func (s *stream) step() {
	if who := s.who; who != nil && (len(s.buf) > 0 || s.err != nil) {
		s.who = nil
		if s.err != net.ErrClosed { // an epoll does not tell of what we close either
			go who.wake(s.stay)
		}
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

// await waits for a change or a deadline; s.mu is held before and after.
func (s *stream) await(deadline time.Time) error {
	var timeout <-chan time.Time
	if !deadline.IsZero() {
		left := time.Until(deadline)
		if left <= 0 {
			return os.ErrDeadlineExceeded
		}
		timer := time.NewTimer(left)
		defer timer.Stop()
		timeout = timer.C
	}
	changed := s.changed
	s.mu.Unlock()
	defer s.mu.Lock()
	select {
	case <-changed:
	case <-timeout:
	}
	return nil
}

func (s *stream) read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.buf) == 0 {
		if s.err != nil {
			return 0, s.err
		}
		if err := s.await(s.readBy); err != nil {
			return 0, err
		}
	}
	if !s.readBy.IsZero() && !time.Now().Before(s.readBy) {
		return 0, os.ErrDeadlineExceeded
	}
	n := copy(p, s.buf)
	s.buf = s.buf[n:]
	s.step()
	return n, nil
}

func (s *stream) write(p []byte) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n < len(p) {
		if s.err != nil {
			return n, fmt.Errorf("broken pipe: %w", net.ErrClosed)
		}
		if !s.writeBy.IsZero() && !time.Now().Before(s.writeBy) {
			return n, os.ErrDeadlineExceeded
		}
		k := min(len(p)-n, streamSize-len(s.buf))
		if k == 0 {
			if err := s.await(s.writeBy); err != nil {
				return n, err
			}
			continue
		}
		s.buf = append(s.buf, p[n:n+k]...)
		n += k
		s.step()
	}
	return n, nil
}

func (s *stream) close(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	if err != io.EOF {
		s.buf = nil
	}
	s.step()
}

func (s *stream) setReadDeadline(t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.readBy = t
	s.step()
}

func (s *stream) setWriteDeadline(t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writeBy = t
	s.step()
}
