//go:build !skew

package cluster

import "time"

func wallClock() time.Time { return time.Now() }
