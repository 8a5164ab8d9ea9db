package listen

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"

	"murder/internal/limit"
)

// guest is a session that notes what it is told.
type guest struct {
	conn    net.Conn
	polite  bool // leaves when asked
	once    sync.Once
	left    chan struct{}
	drained chan struct{}
}

func (g *guest) Drain() {
	close(g.drained)
	if g.polite {
		g.Cut()
	}
}

func (g *guest) Cut() { g.once.Do(func() { close(g.left) }) }

// Shutdown lets in nobody any more, waits for those who leave by themselves, and cuts the others.
func TestGate(t *testing.T) {
	for _, polite := range []bool{true, false} {
		ln := listener(t)
		gate := Gate[*guest]{Limit: limit.NewConns(2, 0), Log: quiet}
		inside, refused, served := make(chan *guest), make(chan error, 1), make(chan error)
		go func() {
			served <- gate.Serve(ln, func(conn net.Conn) {
				defer conn.Close()
				g := &guest{conn: conn, polite: polite, left: make(chan struct{}), drained: make(chan struct{})}
				leave, err := gate.Enter(AddrPort(conn.RemoteAddr()).Addr(), g)
				if err != nil {
					refused <- err
					return
				}
				defer leave()
				inside <- g
				<-g.left
			})
		}()
		dial := func() {
			c, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
		}
		dial()
		one := <-inside
		dial()
		two := <-inside
		dial()
		if err := <-refused; !errors.Is(err, limit.ErrTotal) {
			t.Errorf("a third: %v", err)
		}
		if n := len(gate.Inside()); n != 2 {
			t.Errorf("%d are inside", n)
		}
		ctx, cancel := context.WithCancel(context.Background())
		if !polite {
			go func() {
				<-one.drained
				<-two.drained
				cancel()
			}()
		}
		if err := gate.Shutdown(ctx); (err == nil) != polite {
			t.Errorf("shutdown: %v", err)
		}
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
		if _, err := gate.Enter(AddrPort(ln.Addr()).Addr(), one); !errors.Is(err, ErrClosing) {
			t.Errorf("after the end: %v", err)
		}
		if n := len(gate.Inside()); n != 0 {
			t.Errorf("%d are left", n)
		}
	}
}
