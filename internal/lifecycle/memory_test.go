package lifecycle

import (
	"testing"
	"testing/fstest"
)

func TestGroupLimit(t *testing.T) {
	for what, c := range map[string]struct {
		files map[string]string
		want  int64
	}{
		"none": {map[string]string{}, 0},
		"version 2, of the unit": {map[string]string{"proc/self/cgroup": "0::/system.slice/murderd.service\n",
			"sys/fs/cgroup/system.slice/murderd.service/memory.max": "2147483648\n", "sys/fs/cgroup/system.slice/memory.max": "max\n"}, 2 << 30},
		"version 2, of the slice": {map[string]string{"proc/self/cgroup": "0::/system.slice/murderd.service\n",
			"sys/fs/cgroup/system.slice/murderd.service/memory.max": "2147483648\n", "sys/fs/cgroup/system.slice/memory.max": "1073741824\n"}, 1 << 30},
		"version 2, in a container": {map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "1073741824\n"}, 1 << 30},
		"version 1": {map[string]string{"proc/self/cgroup": "5:cpu:/x\n4:memory:/box\n0::/\n",
			"sys/fs/cgroup/memory/box/memory.limit_in_bytes": "1073741824\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, 1 << 30},
		"version 1, unlimited": {map[string]string{"proc/self/cgroup": "4:memory:/\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, 0},
	} {
		root := fstest.MapFS{}
		for name, text := range c.files {
			root[name] = &fstest.MapFile{Data: []byte(text)}
		}
		if got := groupLimit(root); got != c.want {
			t.Errorf("%s: %d, want %d", what, got, c.want)
		}
	}
}
