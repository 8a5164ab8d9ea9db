package lifecycle

import (
	"io/fs"
	"os"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
)

// memoryShare is how much of what the kernel allows is for the heap, in percent: stacks and what the kernel keeps
// for the process count as well.
const memoryShare = 90

// LimitMemory tells the garbage collector what the control group of the process allows, so that it works harder
// before the kernel ends the process: a map is held twice while a snapshot is read. It returns the limit, 0 if there
// is none or the operator has set GOMEMLIMIT.
func LimitMemory() int64 {
	if os.Getenv("GOMEMLIMIT") != "" {
		return 0
	}
	limit := groupLimit(os.DirFS("/")) / 100 * memoryShare
	if limit > 0 {
		debug.SetMemoryLimit(limit)
	}
	return limit
}

// groupLimit is the least limit of the control groups that the process is in, 0 for none.
func groupLimit(root fs.FS) (least int64) {
	groups, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(groups)) {
		_, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, group, ok := strings.Cut(rest, ":")
		base, file := "sys/fs/cgroup", "memory.max" // version 2
		switch {
		case !ok:
			continue
		case controllers == "memory":
			base, file = "sys/fs/cgroup/memory", "memory.limit_in_bytes" // version 1
		case controllers != "":
			continue
		}
		for dir := path.Clean("/" + group); ; dir = path.Dir(dir) {
			if n := readLimit(root, path.Join(base, dir, file)); n > 0 && (least == 0 || n < least) {
				least = n
			}
			if dir == "/" {
				break
			}
		}
	}
	return least
}

// unlimited is what version 1 says, rounded to pages, when there is no limit; version 2 says "max".
const unlimited = 1 << 60

func readLimit(root fs.FS, name string) int64 {
	data, err := fs.ReadFile(root, name)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	if err != nil || n >= unlimited {
		return 0
	}
	return n
}
