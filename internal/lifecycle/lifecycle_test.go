package lifecycle

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func listen(t *testing.T) *net.UnixConn {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return conn
}

func read(t *testing.T, conn *net.UnixConn) string {
	t.Helper()
	buf := make([]byte, 256)
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, err := conn.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

func TestNotify(t *testing.T) {
	conn := listen(t)
	if err := Notify(Ready); err != nil {
		t.Fatal(err)
	}
	if got := read(t, conn); got != "READY=1" {
		t.Errorf("got %q", got)
	}
	if err := Reloading(); err != nil {
		t.Fatal(err)
	}
	if got := read(t, conn); !strings.HasPrefix(got, "RELOADING=1\nMONOTONIC_USEC=") {
		t.Errorf("got %q", got)
	}
}

func TestNobodyToNotify(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	if err := Notify(Ready); err != nil {
		t.Error(err)
	}
}

func TestWatchdog(t *testing.T) {
	conn := listen(t)
	t.Setenv("WATCHDOG_PID", "")
	t.Setenv("WATCHDOG_USEC", "20000")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { RunWatchdog(ctx, func() bool { return true }); close(done) }()
	if got := read(t, conn); got != Watchdog {
		t.Errorf("got %q", got)
	}
	cancel()
	<-done
	t.Setenv("WATCHDOG_PID", strconv.Itoa(1))
	if WatchdogInterval() != 0 {
		t.Error("the watchdog of another process was taken")
	}
}

func TestStopOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var order []string
		part := func(name string, err error) func(context.Context) error {
			return func(context.Context) error { order = append(order, name); return err }
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			Stop(context.Background(), slog.New(slog.DiscardHandler),
				Stage{"first", time.Second, []func(context.Context) error{part("a", nil)}},
				Stage{"fails", time.Second, []func(context.Context) error{part("b", errors.New("no"))}},
				Stage{"obeys", time.Second, []func(context.Context) error{func(ctx context.Context) error {
					<-ctx.Done()
					order = append(order, "c")
					return ctx.Err()
				}}},
				Stage{"last", time.Second, []func(context.Context) error{part("d", nil)}})
		}()
		<-done
		if want := []string{"a", "b", "c", "d"}; !slices.Equal(order, want) {
			t.Errorf("got %v, want %v", order, want)
		}
	})
}

// A part that ignores its context is left behind.
func TestStopLeavesBehind(t *testing.T) {
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	stage := Stage{"hangs", time.Millisecond, []func(context.Context) error{func(context.Context) error { <-release; return nil }}}
	began := time.Now()
	Stop(context.Background(), slog.New(slog.DiscardHandler), stage)
	if d := time.Since(began); d > 30*time.Second {
		t.Errorf("took %s", d)
	}
}
