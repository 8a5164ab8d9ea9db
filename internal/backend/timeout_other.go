//go:build !linux

package backend

import "syscall"

func boundRetransmission(_, _ string, _ syscall.RawConn) error { return nil }
