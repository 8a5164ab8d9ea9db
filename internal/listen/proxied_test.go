package listen

import (
	"io"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
)

func TestProxied(t *testing.T) {
	header := proxyproto.HeaderProxyFromAddrs(2,
		&net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 1234}, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 3905})
	sent, err := header.Format()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		trusted []netip.Prefix
		sends   string
		want    string // what the server sees of the client: its address and its words
	}{
		"named by a trusted proxy":    {[]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, string(sent) + "hello", "192.0.2.7:1234 hello"},
		"a trusted proxy names none":  {[]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, "hello, hello, hello", "refused"},
		"nobody is trusted":           {nil, "hello", "itself hello"},
		"another is trusted":          {[]netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}, "hello", "itself hello"},
		"a stranger names an address": {[]netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}, string(sent), "itself " + string(sent)},
	} {
		t.Run(name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			var l Listeners
			defer l.Close()
			seen := make(chan string, 1)
			go l.Serve(Proxied(ln, c.trusted), slog.New(slog.DiscardHandler), func(nc net.Conn) {
				go func() {
					defer nc.Close()
					nc.SetDeadline(time.Now().Add(10 * time.Second))
					words, err := io.ReadAll(nc)
					who := nc.RemoteAddr().String()
					if AddrPort(nc.RemoteAddr()).Addr().IsLoopback() {
						who = "itself"
					}
					if err != nil {
						seen <- "refused"
					} else {
						seen <- who + " " + string(words)
					}
				}()
			})
			nc, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			io.WriteString(nc, c.sends)
			nc.(*net.TCPConn).CloseWrite()
			if got := <-seen; got != c.want {
				t.Errorf("the server saw %q, want %q", got, c.want)
			}
		})
	}
}
