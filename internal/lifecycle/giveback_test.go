package lifecycle

import (
	"runtime"
	"testing"
)

func TestExcessive(t *testing.T) {
	for name, c := range map[string]struct {
		usage
		before uint64
		want   bool
	}{
		"after a wave":         {usage{live: 20 << 20, objects: 40 << 20, allocated: 1 << 30}, 1<<30 - 1<<19, true},
		"freed, but kept":      {usage{live: 20 << 20, objects: 20 << 20, free: 20 << 20, allocated: 1 << 30}, 1 << 30, true},
		"in the wave":          {usage{live: 20 << 20, objects: 40 << 20, allocated: 1 << 30}, 1<<30 - 10<<20, false},
		"given back":           {usage{live: 20 << 20, objects: 21 << 20, free: 1 << 20, allocated: 1 << 30}, 1 << 30, false},
		"little beside a map":  {usage{live: 1 << 30, objects: 1<<30 + 100<<20, allocated: 1 << 30}, 1 << 30, false},
		"a small process":      {usage{live: 1 << 20, objects: 4 << 20, allocated: 1 << 30}, 1 << 30, false},
		"more live than there": {usage{live: 40 << 20, objects: 20 << 20, allocated: 1 << 30}, 1 << 30, false},
	} {
		if got := c.excessive(c.before); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// What excessive goes by is there under the names that are used.
func TestUsage(t *testing.T) {
	runtime.GC()
	var u usage
	u.read()
	if u.live == 0 || u.objects == 0 || u.allocated < u.objects {
		t.Errorf("%+v", u)
	}
}
