//go:build !unix

package logfile

func keepOwner(_, _ string) error { return nil }
