//go:build !linux

package imap

func (r *reader) quickAck() {}
