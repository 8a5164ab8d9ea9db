//go:build !linux

package imap

import "sync"

// newLot returns nil: every session keeps its goroutines.
func newLot(*sync.WaitGroup) lot { return nil }
