package listen

import (
	"context"
	"net"
	"time"
)

// A peer that has vanished is noticed within two minutes.
const (
	keepIdle     = time.Minute
	keepInterval = 10 * time.Second
	keepCount    = 3
)

// TCP listens on an address.
func TCP(addr string) (net.Listener, error) { return config.Listen(context.Background(), "tcp", addr) }
