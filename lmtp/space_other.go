//go:build !linux && !darwin && !freebsd

package lmtp

import "math"

func freeSpace(string) (int64, error) { return math.MaxInt64, nil }

func isNoSpace(error) bool { return false }
