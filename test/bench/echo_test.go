package bench

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// An echo server answers every line with two of the size of a FIND's answer, and does nothing else. It is a process
// of its own, as the servers beside it are.

// echoEnv tells a process that it is one, and where to listen.
const echoEnv = "MURDER_BENCH_ECHO"

// serveEcho answers what has come with one write, as any server should.
func serveEcho(nc net.Conn) {
	defer nc.Close()
	io.WriteString(nc, "* OK echo\r\n")
	row := fmt.Appendf(nil, "X1 MAILBOX \"%s\" \"load.test!default\" \"owner\tlrswipkxtecdan\t\"\r\nX1 OK \"Search completed\"\r\n", record(1))
	r := bufio.NewReaderSize(nc, 64<<10)
	var out []byte
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return
		}
		if bytes.HasPrefix(line, []byte("A01 ")) {
			out = append(out, "A01 OK \"Authenticated\"\r\n"...)
		} else {
			out = append(out, row...)
		}
		if r.Buffered() == 0 {
			if _, err := nc.Write(out); err != nil {
				return
			}
			out = out[:0]
		}
	}
}

// How much of what the sockets allow do look-ups reach, with and without a window of commands that are not waited
// for? The echo server beside them shows what the sockets allow.
func BenchmarkFindAgainstEcho(b *testing.B) {
	w := start(b)
	echo := target{name: "echo", addr: net.JoinHostPort(w.host(90), "3905")}
	if w.net == nil {
		b.Skip("needs an address of its own")
	}
	cmd, err := startOwn(echoEnv, echo.addr)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	for _, window := range []int{1, 32} {
		for _, s := range append(w.mupdateServers(), echo) {
			b.Run(fmt.Sprintf("conns=64/window=%d/server=%s", window, s.name), func(b *testing.B) {
				if s.name != "echo" {
					if err := load(s.addr, 1000); err != nil {
						b.Fatal(err)
					}
				}
				findInWindows(b, s.addr, 64, window)
			})
		}
	}
}

func findInWindows(b *testing.B, addr string, conns, window int) {
	var command bytes.Buffer
	for i := range window {
		fmt.Fprintf(&command, "X%d FIND \"%s\"\r\n", i, record(i*7))
	}
	var clients []*bufio.ReadWriter
	for range conns {
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			b.Fatal(err)
		}
		defer nc.Close()
		c := bufio.NewReadWriter(bufio.NewReaderSize(nc, 64<<10), bufio.NewWriter(nc))
		fmt.Fprintf(c, "A01 AUTHENTICATE \"PLAIN\" \"%s\"\r\n", base64.StdEncoding.EncodeToString([]byte("\x00"+admin+"\x00"+password)))
		c.Flush()
		for line := ""; !strings.HasPrefix(line, "A01 OK"); {
			if line, err = c.ReadString('\n'); err != nil {
				b.Fatalf("signing on: %q, %v", line, err)
			}
		}
		clients = append(clients, c)
	}
	rounds := b.N/(conns*window) + 1
	var all sync.WaitGroup
	b.ResetTimer()
	for _, c := range clients {
		all.Go(func() {
			for range rounds {
				c.Write(command.Bytes())
				c.Flush()
				for range 2 * window {
					if _, err := c.ReadSlice('\n'); err != nil {
						b.Error(err)
						return
					}
				}
			}
		})
	}
	all.Wait()
	b.StopTimer()
	done := rounds * conns * window
	b.ReportMetric(float64(done)/b.Elapsed().Seconds(), "finds/s")
	note(b.Name(), b.Elapsed()/time.Duration(done))
}
