// Package socket reads and writes TCP connections without telling Go's scheduler of a system call.
//
// A socket of the net package does not block, so the scheduler need not know; but told, its watchman (sysmon) wakes up
// and looks every 20 µs whether the processor should go to another thread. For a proxy, which does little else than to
// read and write, that costs more than all that it does with a command. On other systems than Linux the connection is
// left as it is.
package socket
