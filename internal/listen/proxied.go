package listen

import (
	"net"
	"net/netip"
	"time"

	"github.com/pires/go-proxyproto"
)

// headerTimeout is how long a proxy may take to name its client.
const headerTimeout = 5 * time.Second

// Proxied returns ln, or, if some addresses are trusted, a listener whose connections from there
// begin with a header of the PROXY protocol (version 1 or 2), and have the address of the client that
// it names. From there a header must come; from elsewhere none is understood, so nobody can pretend
// to be another. RemoteAddr, like Read and Write, waits for the header: do not ask in the loop that
// accepts.
//
// Source: the PROXY protocol specification of HAProxy.
func Proxied(ln net.Listener, trusted []netip.Prefix) net.Listener {
	if len(trusted) == 0 {
		return ln
	}
	return &proxyproto.Listener{Listener: ln, ReadHeaderTimeout: headerTimeout,
		ConnPolicy: func(o proxyproto.ConnPolicyOptions) (proxyproto.Policy, error) {
			if Trusts(trusted, AddrPort(o.Upstream).Addr()) {
				return proxyproto.REQUIRE, nil
			}
			return proxyproto.SKIP, nil
		}}
}
