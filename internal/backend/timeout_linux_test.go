package backend

import (
	"net"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"murder/internal/mbox"
)

// A question of keepalive that is lost does not end an idle connection: tcp(7) has TCP_USER_TIMEOUT decide about
// that, whatever the number of questions.
func TestOneLostProbeIsNoReason(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	set := New(Config{Servers: map[mbox.Server]Settings{"b1": {
		Host: "127.0.0.1", Ports: map[Service]int{IMAP: ln.Addr().(*net.TCPAddr).Port}, TLS: NoTLS,
	}}})
	conn, err := set.Dial(t.Context(), "b1", IMAP)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, err := conn.raw.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		get := func(name int) int {
			n, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, name)
			if err != nil {
				t.Error(err)
			}
			return n
		}
		all := get(unix.TCP_KEEPIDLE) + get(unix.TCP_KEEPCNT)*get(unix.TCP_KEEPINTVL)
		if limit := get(unix.TCP_USER_TIMEOUT); limit < 1000*all || limit > 2000*all {
			t.Errorf("given up after %d ms, the questions take %d s", limit, all)
		}
	})
}
