// Package lifecycle is the beginning and the end of a service process: telling the service manager
// that it is ready and alive (sd_notify), and stopping its parts in an order, each within its time.
package lifecycle

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"
)

// States for Notify.
const (
	Ready     = "READY=1"
	Stopping  = "STOPPING=1"
	Watchdog  = "WATCHDOG=1"
	reloading = "RELOADING=1"
)

// Notify tells the service manager a state. Without one, which $NOTIFY_SOCKET tells, it does nothing.
func Notify(state string) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	if path[0] == '@' { // an abstract name
		path = "\x00" + path[1:]
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("telling the service manager %q: %w", state, err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(state)); err != nil {
		return fmt.Errorf("telling the service manager %q: %w", state, err)
	}
	return nil
}

// Reloading tells that a reload begins; Ready ends it.
func Reloading() error {
	return Notify(reloading + "\nMONOTONIC_USEC=" + strconv.FormatInt(monotonic().Microseconds(), 10))
}

// WatchdogInterval returns how often the service manager wants a sign of life, 0 if it wants none.
func WatchdogInterval() time.Duration {
	usec, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || usec <= 0 {
		return 0
	}
	if pid := os.Getenv("WATCHDOG_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0
	}
	return time.Duration(usec) * time.Microsecond
}

// RunWatchdog gives signs of life four times in the interval asked for, so that one left out is not the end, as long as alive says so. It
// returns when ctx ends, or at once if nobody asks.
func RunWatchdog(ctx context.Context, alive func() bool) {
	interval := WatchdogInterval()
	if interval == 0 {
		return
	}
	ticker := time.NewTicker(interval / 4)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if alive() {
				Notify(Watchdog)
			}
		}
	}
}
