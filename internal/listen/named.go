package listen

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/pires/go-proxyproto"
)

// Trusts reports whether a connection comes from one of the trusted addresses.
func Trusts(trusted []netip.Prefix, from netip.Addr) bool {
	for _, p := range trusted {
		if p.Contains(from.WithZone("")) {
			return true
		}
	}
	return false
}

// Named returns who is at the other end of a connection that has just been accepted, and whom the client
// has called: the addresses of the socket, or, if it comes from a trusted proxy, those in the header of
// the PROXY protocol that must then come first. It reads that header and no octet more, so conn is good
// for everything that a socket is good for.
func Named(conn net.Conn, trusted []netip.Prefix) (peer, local netip.AddrPort, err error) {
	peer, local = AddrPort(conn.RemoteAddr()), AddrPort(conn.LocalAddr())
	if !Trusts(trusted, peer.Addr()) {
		return peer, local, nil
	}
	conn.SetReadDeadline(time.Now().Add(headerTimeout))
	defer conn.SetReadDeadline(time.Time{})
	header, err := readHeader(conn)
	if err != nil {
		return peer, local, fmt.Errorf("reading the PROXY header of %s: %w", peer, err)
	}
	if header.Command.IsLocal() { // the proxy speaks for itself: a health check
		return peer, local, nil
	}
	source, destination, ok := header.TCPAddrs()
	if !ok {
		return peer, local, fmt.Errorf("reading the PROXY header of %s: it names no TCP client", peer)
	}
	return AddrPort(source), AddrPort(destination), nil
}

const (
	longestV1 = 107
	shortV2   = 16 // whose last two octets say how much more there is
	longestV2 = shortV2 + 2048
)

// readHeader takes exactly the header off r.
func readHeader(r io.Reader) (*proxyproto.Header, error) {
	raw := make([]byte, 1, longestV1)
	if _, err := io.ReadFull(r, raw); err != nil {
		return nil, err
	}
	more := func(n int) error {
		raw = append(raw, make([]byte, n)...)
		_, err := io.ReadFull(r, raw[len(raw)-n:])
		return err
	}
	if raw[0] == proxyproto.SIGV2[0] {
		if err := more(shortV2 - 1); err != nil {
			return nil, err
		}
		n := int(binary.BigEndian.Uint16(raw[shortV2-2:]))
		if !bytes.HasPrefix(raw, proxyproto.SIGV2) || shortV2+n > longestV2 {
			return nil, proxyproto.ErrNoProxyProtocol
		}
		if err := more(n); err != nil {
			return nil, err
		}
	} else {
		for len(raw) < longestV1 && raw[len(raw)-1] != '\n' && raw[0] == proxyproto.SIGV1[0] {
			if err := more(1); err != nil {
				return nil, err
			}
		}
	}
	return proxyproto.Read(bufio.NewReaderSize(bytes.NewReader(raw), len(raw)))
}
