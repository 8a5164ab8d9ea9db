package listen

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
)

func TestOnlyUsers(t *testing.T) {
	me := uint32(os.Getuid())
	for _, c := range []struct {
		uids    []uint32
		welcome bool
	}{{[]uint32{me}, true}, {[]uint32{me + 1, me}, true}, {[]uint32{me + 1}, false}, {nil, false}} {
		ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan error, 1)
		var all Listeners
		go func() {
			served <- all.Serve(OnlyUsers(ln, c.uids, quiet), quiet, func(conn net.Conn) {
				io.WriteString(conn, "hello")
				conn.Close()
			})
		}()
		conn, err := net.Dial("unix", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(conn); (string(text) == "hello") != c.welcome || err != nil {
			t.Errorf("%d in %d: %q %v", me, c.uids, text, err)
		}
		conn.Close()
		all.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}
}
