package lmtp

import (
	"context"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"murder/internal/backend"
)

// ackConn tells what is done with its socket besides reading and writing: that what has come is acknowledged.
type ackConn struct {
	net.Conn
	acks chan struct{}
}

type ackSocket struct {
	syscall.RawConn
	acks chan struct{}
}

func (c ackConn) SyscallConn() (syscall.RawConn, error) {
	raw, err := c.Conn.(*net.TCPConn).SyscallConn()
	return ackSocket{raw, c.acks}, err
}

func (s ackSocket) Control(f func(fd uintptr)) error {
	err := s.RawConn.Control(f)
	select {
	case s.acks <- struct{}{}:
	default:
	}
	return err
}

// A backend whose system sends the second packet of its answers only when the first has been acknowledged loses no time
// by it, wherever the first ends.
func TestAnswersInTwoPackets(t *testing.T) {
	for _, c := range []struct {
		name, first, second string
		want                []string
	}{
		{"between recipients", "250 2.1.5 one\r\n", "250 2.1.5 two", []string{"250 2.1.5 one", "250 2.1.5 two"}},
		{"within a line", "250 2.1.5 one\r\n250 2.", "1.5 two", []string{"250 2.1.5 one", "250 2.1.5 two"}},
		{"within an answer", "250 2.1.5 one\r\n550-5.7.1 no\n", "550 5.7.1 no", []string{"250 2.1.5 one", "550-5.7.1 no"}},
		{"too big for one of them", "552 5.2.3 too big\r\n", "250 2.1.5 two", []string{"552 5.2.3 too big", "250 2.1.5 two"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			acks := make(chan struct{}, 1)
			be1 := newStub(t, "be1")
			be1.on(func(s *stubSession, verb, _ string) (string, bool) {
				if verb != "." {
					return "", false
				}
				select { // those of the envelope
				case <-acks:
				default:
				}
				io.WriteString(s.conn, c.first)
				select {
				case <-acks:
				case <-t.Context().Done():
				}
				return c.second, true
			})
			dir := newDirectory(active("user.alice", "be1"), active("user.u1", "be1"))
			h := newHost(t, dir, []*stub{be1}, func(cfg *hostConfig) {
				cfg.Limits.Reply = 10 * time.Second
				cfg.Backends = backend.New(backend.Config{Servers: settingsOf(be1), Dial: func(ctx context.Context, addr string) (net.Conn, error) {
					conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
					return ackConn{conn, acks}, err
				}})
			})
			outcome(t, h.session(t).deliver(testMessage, "alice", "u1"), c.want...)
		})
	}
}
