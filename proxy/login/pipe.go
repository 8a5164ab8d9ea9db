package login

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"
)

// linger is how long a client may take to hear the end.
const linger = 2 * time.Second

// drain is how long a backend may be silent once the client has ended.
const drain = time.Minute

// leg is one side of a session. While it relays, reading ends when neither side has said anything
// for the idle time; before that the deadline is whatever was set on the connection.
type leg struct {
	net.Conn
	stall time.Duration
	last  *atomic.Int64 // unix nanoseconds of the last octet of either side
	idle  atomic.Int64  // a duration, 0 before relaying
}

// Read implements io.Reader.
func (l *leg) Read(p []byte) (int, error) {
	for {
		idle := l.idle.Load()
		if idle != 0 {
			l.SetReadDeadline(time.Now().Add(time.Duration(idle)))
			if l.idle.Load() != idle {
				continue
			}
		}
		n, err := l.Conn.Read(p)
		idle = l.idle.Load()
		if n > 0 {
			l.last.Store(time.Now().UnixNano())
		} else if idle != 0 && isTimeout(err) && time.Since(time.Unix(0, l.last.Load())) < time.Duration(idle) {
			continue // it is the other side's turn
		}
		return n, err
	}
}

// Write implements io.Writer.
func (l *leg) Write(p []byte) (int, error) {
	l.SetWriteDeadline(time.Now().Add(l.stall))
	return l.Conn.Write(p)
}

// relay makes reading end after idle without an octet of either side, from now on.
func (l *leg) relay(idle time.Duration) {
	l.idle.Store(int64(idle))
	l.SetReadDeadline(time.Now().Add(idle))
}

// Pipe carries octets until the session is over: up from the client to the backend, down from the
// backend to the client, each in a goroutine. Both read from the Readers, which may hold octets
// already, and return io.EOF when their side has ended in good order.
//
// When the client ends, the backend's answers are still carried; nothing is ever said to the backend
// in his name. A client who vanished with a reset, or did not finish TLS, ends everything at once.
//
// farewell, if not nil, takes leave of a client who is between two commands, and returns false when he
// is not. It is called from any goroutine.
func (c *Session) Pipe(b *Backend, up, down func() error, farewell func(reason string) bool) {
	c.mu.Lock()
	c.farewell = farewell
	c.mu.Unlock()
	c.last.Store(time.Now().UnixNano())
	b.leg.last = &c.last
	c.client.relay(c.cfg.Limits.Idle)
	b.leg.relay(c.cfg.Limits.Idle)
	over := make(chan struct{})
	go func() {
		defer close(over)
		defer b.Close()
		defer c.guard()
		err := down()
		c.Log.Debug("backend side ended", "err", err)
		if errors.Is(err, io.EOF) {
			if half, ok := c.client.Conn.(interface{ CloseWrite() error }); ok {
				half.CloseWrite()
			}
			c.client.relay(linger)
		} else {
			c.sock.Close()
		}
	}()
	func() {
		defer c.guard()
		err := up()
		c.Log.Debug("client side ended", "err", err)
		if errors.Is(err, io.EOF) {
			b.CloseWrite()
			b.leg.relay(drain)
		} else {
			b.Close()
		}
	}()
	<-over
	c.Log.Info("session ended")
}
