//go:build skew

package cluster

import (
	"os"
	"strings"
	"sync/atomic"
	"time"
)

// A program that is built with this tag, for tests, has a wall clock that others can move: by the duration in
// the file that MURDER_SKEW names.

var skew atomic.Int64

func init() {
	file := os.Getenv("MURDER_SKEW")
	if file == "" {
		return
	}
	read := func() {
		data, err := os.ReadFile(file)
		if d, perr := time.ParseDuration(strings.TrimSpace(string(data))); err == nil && perr == nil {
			skew.Store(int64(d))
		}
	}
	read()
	go func() {
		for range time.Tick(20 * time.Millisecond) {
			read()
		}
	}()
}

func wallClock() time.Time { return time.Now().Add(time.Duration(skew.Load())) }
