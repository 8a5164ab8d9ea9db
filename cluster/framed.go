package cluster

import (
	"bufio"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"
)

const (
	maxOutbox    = 16 << 20 // octets waiting for a peer that does not read
	writeTimeout = 5 * time.Second
)

// framed is a connection that carries frames. Frames are queued and many go out with one write, so
// that nobody who sends waits for the network.
type framed struct {
	*tls.Conn
	in      *bufio.Reader
	silence time.Duration // without a frame for so long the peer is taken for dead

	mu     sync.Mutex
	out    []byte
	closed error
	ready  chan struct{} // capacity 1
	done   chan struct{}
	writer sync.WaitGroup
}

var errOutboxFull = errors.New("peer does not read")

func newFramed(conn *tls.Conn, silence time.Duration) *framed {
	f := &framed{
		Conn: conn, in: bufio.NewReaderSize(conn, 32<<10), silence: silence,
		ready: make(chan struct{}, 1), done: make(chan struct{}),
	}
	f.writer.Go(f.writeLoop)
	return f
}

// send queues a frame. It does not block.
func (f *framed) send(kind byte, id uint64, body func([]byte) []byte) error {
	f.mu.Lock()
	if f.closed == nil && len(f.out) > maxOutbox {
		f.mu.Unlock()
		f.close(errOutboxFull)
		return errOutboxFull
	}
	defer f.mu.Unlock()
	if f.closed != nil {
		return f.closed
	}
	f.out = appendFrame(f.out, kind, id, body)
	select {
	case f.ready <- struct{}{}:
	default:
	}
	return nil
}

func (f *framed) writeLoop() {
	var spare []byte
	for {
		select {
		case <-f.ready:
		case <-f.done:
			return
		}
		f.mu.Lock()
		buf := f.out
		f.out = spare[:0]
		f.mu.Unlock()
		f.SetWriteDeadline(time.Now().Add(writeTimeout))
		if _, err := f.Conn.Write(buf); err != nil {
			f.close(err)
			return
		}
		if spare = buf; cap(spare) > 1<<20 {
			spare = nil
		}
	}
}

func (f *framed) receive() (frame, error) {
	f.SetReadDeadline(time.Now().Add(f.silence))
	return readFrame(f.in)
}

// close ends the connection; the first error is the one that send reports.
func (f *framed) close(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed != nil {
		return
	}
	if err == nil {
		err = net.ErrClosed
	}
	f.closed = err
	close(f.done)
	f.Conn.NetConn().Close() // without the farewell of TLS, which waits for a peer that does not read
}
