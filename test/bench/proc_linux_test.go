package bench

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of processor time in /proc/PID/stat.
const tick = 10 * time.Millisecond

// stat is what /proc tells of a process.
type stat struct {
	parent int
	cpu    time.Duration // its own, and that of its children that have ended
}

func readStat(pid int) (s stat, ok bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return s, false
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	number := func(i int) int { n, _ := strconv.Atoi(fields[i-3]); return n }
	s = stat{parent: number(4), cpu: tick * time.Duration(number(16)+number(17))}
	// Of the living threads the scheduler knows it to the nanosecond.
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	for _, t := range threads {
		text, _ := os.ReadFile(t)
		ns, _, _ := strings.Cut(string(text), " ")
		n, _ := strconv.ParseInt(ns, 10, 64)
		s.cpu += time.Duration(n)
	}
	return s, true
}

// family is a process and all that it has started, as far as they are alive.
func family(root int) []int {
	children := map[int][]int{}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(d))
		if s, ok := readStat(pid); ok {
			children[s.parent] = append(children[s.parent], pid)
		}
	}
	all := []int{root}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all
}

// cpuOf is the processor time that a program has used, all its processes together; 0 where that cannot
// be known.
func cpuOf(root int) (sum time.Duration) {
	if root == 0 {
		return 0
	}
	for _, pid := range family(root) {
		s, _ := readStat(pid)
		sum += s.cpu
	}
	return sum
}

// memoryOf is the memory that a program holds and shares with nobody else, and its descriptors.
func memoryOf(root int) (octets int64, files int) {
	for _, pid := range family(root) {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		for line := range strings.Lines(string(text)) {
			key, value, _ := strings.Cut(line, ":")
			if key == "Private_Dirty" || key == "Private_Clean" {
				n, _ := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
				octets += n << 10
			}
		}
		fds, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		files += len(fds)
	}
	return octets, files
}

// load is the machine's load, to be said beside figures.
func load1() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "load unknown"
	}
	return "load " + strings.Join(strings.Fields(string(text))[:2], " ")
}
