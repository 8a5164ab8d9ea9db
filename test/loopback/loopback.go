// Package loopback hands out addresses below 127/8, so that several test clusters, each on the
// ports that its programs expect, can live on one machine at once.
package loopback

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
)

// lockPort is held on host 254 of a net for as long as it is claimed.
const lockPort = 39054

// ErrOneAddress is returned where the system has 127.0.0.1 alone.
var ErrOneAddress = errors.New("this system has only one loopback address")

// Net is a claimed net of 254 addresses.
type Net struct {
	prefix string
	lock   net.Listener
}

// Claim finds a net that no other run on this machine uses. Claims of dead processes vanish with
// them. It fails with ErrOneAddress on systems that route 127.0.0.1 alone.
func Claim() (*Net, error) {
	if runtime.GOOS != "linux" {
		return nil, ErrOneAddress
	}
	var last error
	for range 50 {
		prefix := fmt.Sprintf("127.%d.%d", 100+rand.IntN(100), 1+rand.IntN(250))
		lock, err := net.Listen("tcp", fmt.Sprintf("%s.254:%d", prefix, lockPort))
		if err == nil {
			return &Net{prefix: prefix, lock: lock}, nil
		}
		last = err
	}
	return nil, fmt.Errorf("claiming a loopback net: %w", last)
}

// Prefix is the first three parts of every address, "127.104.7".
func (n *Net) Prefix() string { return n.prefix }

// Host is one address of the net.
func (n *Net) Host(last int) string { return fmt.Sprintf("%s.%d", n.prefix, last) }

// Release gives the net back.
func (n *Net) Release() error { return n.lock.Close() }
