package listen

import (
	"errors"
	"log/slog"
	"net"
	"syscall"
	"testing"
)

var quiet = slog.New(slog.DiscardHandler)

// scripted returns its errors first, then waits to be closed.
type scripted struct {
	net.Listener
	errs []error
}

func (s *scripted) Accept() (net.Conn, error) {
	if len(s.errs) > 0 {
		err := s.errs[0]
		s.errs = s.errs[1:]
		return nil, err
	}
	return s.Listener.Accept()
}

func listener(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// A server that is out of descriptors goes on, and ends when it is told to.
func TestServe(t *testing.T) {
	ln := &scripted{Listener: listener(t), errs: []error{syscall.EMFILE, syscall.EMFILE}}
	var l Listeners
	accepted, ended := make(chan net.Conn), make(chan error)
	go func() { ended <- l.Serve(ln, quiet, func(c net.Conn) { accepted <- c }) }()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	(<-accepted).Close()
	l.Close()
	l.Close()
	if err := <-ended; err != nil || !l.Closed() {
		t.Errorf("after Close: %v", err)
	}
}

func TestServeAfterClose(t *testing.T) {
	var l Listeners
	l.Close()
	ln := listener(t)
	if err := l.Serve(ln, quiet, nil); err != nil {
		t.Error(err)
	}
	if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the listener is open: %v", err)
	}
}

// A listener that somebody else has closed is an error.
func TestListenerFails(t *testing.T) {
	ln := listener(t)
	ln.Close()
	var l Listeners
	if err := l.Serve(ln, quiet, nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

func TestAddrPort(t *testing.T) {
	for _, c := range []struct {
		addr net.Addr
		want string
	}{
		{&net.TCPAddr{IP: net.ParseIP("::ffff:192.0.2.1"), Port: 143}, "192.0.2.1:143"},
		{&net.TCPAddr{IP: net.ParseIP("2001:db8::1"), Port: 143}, "[2001:db8::1]:143"},
		{&net.UnixAddr{Name: "/run/x"}, "invalid AddrPort"},
	} {
		if got := AddrPort(c.addr).String(); got != c.want {
			t.Errorf("%v: got %s, want %s", c.addr, got, c.want)
		}
	}
}
