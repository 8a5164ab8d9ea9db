//go:build !linux

package harness

import "syscall"

// ChildAttr keeps a terminal's signals from children.
func ChildAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
