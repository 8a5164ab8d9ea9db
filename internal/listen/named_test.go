package listen

import (
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
)

func TestNamed(t *testing.T) {
	all := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	client, server := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 1234}, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 143}
	header := func(version byte, client, server net.Addr) string {
		b, err := proxyproto.HeaderProxyFromAddrs(version, client, server).Format()
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for name, c := range map[string]struct {
		trusted     []netip.Prefix
		sends       string
		peer, local string
		rest        string
		fails       bool
	}{
		"version 1":                  {all, header(1, client, server) + "a NOOP\r\n", "192.0.2.7:1234", "192.0.2.1:143", "a NOOP\r\n", false},
		"version 2":                  {all, header(2, client, server) + "\x16\x03\x01", "192.0.2.7:1234", "192.0.2.1:143", "\x16\x03\x01", false},
		"a health check, version 1":  {all, "PROXY UNKNOWN\r\nrest", "itself", "", "rest", false},
		"a health check, version 2":  {all, header(2, nil, nil) + "rest", "itself", "", "rest", false},
		"no header":                  {all, "a LOGIN alice secret\r\n", "", "", "", true},
		"half a header":              {all, header(2, client, server)[:20], "", "", "", true},
		"endless header":             {all, "PROXY TCP4 " + strings.Repeat("1", 200), "", "", "", true},
		"a stranger, with a header":  {nil, header(1, client, server), "itself", "", header(1, client, server), false},
		"a stranger, without header": {nil, "a NOOP\r\n", "itself", "", "a NOOP\r\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			ln := listener(t)
			defer ln.Close()
			out, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			in, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			io.WriteString(out, c.sends)
			out.(*net.TCPConn).CloseWrite()
			peer, local, err := Named(in, c.trusted)
			if c.fails {
				if err == nil {
					t.Fatalf("accepted as %s", peer)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if c.peer == "itself" {
				c.peer, c.local = out.LocalAddr().String(), out.RemoteAddr().String()
			}
			if peer.String() != c.peer || local.String() != c.local {
				t.Errorf("got %s to %s, want %s to %s", peer, local, c.peer, c.local)
			}
			in.SetReadDeadline(time.Now().Add(10 * time.Second))
			if rest, err := io.ReadAll(in); string(rest) != c.rest || err != nil {
				t.Errorf("left %q %v, want %q", rest, err, c.rest)
			}
		})
	}
}

func TestTrusts(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("fe80::/10")}
	for addr, want := range map[string]bool{"192.0.2.1": true, "192.0.3.1": false, "fe80::1": true, "fe80::1%eth0": true, "2001:db8::1": false} {
		if got := Trusts(trusted, netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: %v", addr, got)
		}
	}
}
