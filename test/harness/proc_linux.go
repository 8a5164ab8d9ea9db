package harness

import "syscall"

// ChildAttr lets children end with the test that started them, and keeps a terminal's signals from
// them. The daemon gets SIGTERM, so that it stops what it has started.
func ChildAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
