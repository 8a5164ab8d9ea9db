// Package listen accepts connections. All servers of the project share this loop: it outlives a
// shortage of file descriptors and ends without an error when it is told to.
package listen

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Pauses after a failed accept, doubling from the first to the last.
const (
	firstPause = 5 * time.Millisecond
	lastPause  = time.Second
)

// Listeners are what one server listens on. The zero value is ready. Its methods may be called from
// any goroutine.
type Listeners struct {
	mu     sync.Mutex
	open   map[net.Listener]struct{}
	closed chan struct{} // made when first needed
}

// Serve hands every connection to accept, one at a time, until Close, which makes it return nil, or
// until ln fails for good. It closes ln.
func (l *Listeners) Serve(ln net.Listener, log *slog.Logger, accept func(net.Conn)) error {
	defer ln.Close()
	closed, ok := l.add(ln)
	if !ok {
		return nil
	}
	defer l.remove(ln)
	pause := firstPause
	for {
		conn, err := ln.Accept()
		if err == nil {
			pause = firstPause
			accept(conn)
			continue
		}
		if l.Closed() {
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("accepting connections on %s: %w", ln.Addr(), err)
		}
		// Out of file descriptors, most likely: those who are connected go on.
		log.Error("accepting a connection failed", "address", ln.Addr().String(), "err", err)
		select {
		case <-time.After(pause):
			pause = min(2*pause, lastPause)
		case <-closed:
			return nil
		}
	}
}

func (l *Listeners) add(ln net.Listener) (closed chan struct{}, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	closed = l.closedLocked()
	select {
	case <-closed:
		return nil, false
	default:
	}
	if l.open == nil {
		l.open = make(map[net.Listener]struct{})
	}
	l.open[ln] = struct{}{}
	return closed, true
}

func (l *Listeners) remove(ln net.Listener) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, ln)
}

func (l *Listeners) closedLocked() chan struct{} {
	if l.closed == nil {
		l.closed = make(chan struct{})
	}
	return l.closed
}

// Close closes all listeners, also those that Serve is given later. It may be called again.
func (l *Listeners) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	closed := l.closedLocked()
	select {
	case <-closed:
		return
	default:
		close(closed)
	}
	for ln := range l.open {
		ln.Close()
	}
}

// Closed reports whether Close has been called.
func (l *Listeners) Closed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.closedLocked():
		return true
	default:
		return false
	}
}

// AddrPort returns a TCP address as a value, IPv4 in its short form; the zero value for other kinds.
func AddrPort(a net.Addr) netip.AddrPort {
	if tcp, ok := a.(*net.TCPAddr); ok {
		ap := tcp.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}
