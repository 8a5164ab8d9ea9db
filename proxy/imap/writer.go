package imap

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// writer gathers what is sent to one peer, so that an answer is one packet, and holds no buffer
// while it has nothing to send. Errors stay: after one, everything is dropped.
type writer struct {
	dst   io.Writer
	conn  net.Conn     // takes the deadline
	after func() error // flushes dst itself (compression), if not nil
	stall time.Duration
	armed time.Time // when the deadline was last set
	pool  *[chunk]byte
	n     int
	sent  bool // something is in dst that after has not flushed
	err   error
	total atomic.Int64 // octets accepted
}

// sharedWriter is the client's, to whom driver and pumps write. The lock covers a whole response line.
type sharedWriter struct {
	sync.Mutex
	writer
}

// Write implements io.Writer.
func (w *writer) Write(p []byte) (int, error) { return len(p), w.put(p) }

// put queues p.
func (w *writer) put(p []byte) error {
	if w.err != nil || len(p) == 0 {
		return w.err
	}
	w.total.Add(int64(len(p)))
	if w.n == 0 && len(p) >= chunk/4 {
		w.send(p) // nothing to gather: no need to copy
		return w.err
	}
	if w.pool == nil {
		w.pool = chunks.Get().(*[chunk]byte)
	}
	if w.n+len(p) > chunk {
		// Fill the buffer up first: a short packet ahead of a long one only costs.
		k := copy(w.pool[w.n:], p)
		w.n, p = w.n+k, p[k:]
		w.send(w.pool[:w.n])
		w.n = 0
		for len(p) >= chunk {
			w.send(p[:chunk])
			p = p[chunk:]
		}
	}
	w.n += copy(w.pool[w.n:], p)
	return w.err
}

func (w *writer) puts(s string) error { return w.put([]byte(s)) }

// flush sends what is queued.
func (w *writer) flush() error {
	if w.n > 0 {
		w.send(w.pool[:w.n])
		w.n = 0
	}
	if w.sent && w.after != nil && w.err == nil {
		w.err = w.after()
	}
	w.sent = false
	if w.pool != nil {
		chunks.Put(w.pool)
		w.pool = nil
	}
	return w.err
}

func (w *writer) send(p []byte) {
	if w.err != nil || len(p) == 0 {
		return
	}
	// Once a second is often enough.
	if now := time.Now(); now.Sub(w.armed) > time.Second {
		w.armed = now
		if w.err = w.conn.SetWriteDeadline(now.Add(w.stall)); w.err != nil {
			return
		}
	}
	_, w.err = w.dst.Write(p)
	w.sent = true
}
