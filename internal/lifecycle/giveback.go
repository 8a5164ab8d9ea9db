package lifecycle

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// lull is how long a process must have had little to do before memory is given back, and little how many
	// octets it may have allocated meanwhile.
	lull   = 4 * time.Second
	little = 1 << 20
	// worthwhile is how much there must be to give, in octets.
	worthwhile = 4 << 20
)

// GiveBack returns memory to the system after a wave of work, such as the logins of thousands of clients, until ctx
// ends. By itself the runtime keeps as much again as lives, for what may come next, and collects what nobody needs
// after two minutes. A collection is forced only in a lull, and when a quarter of what lives could be had, which then
// takes minutes to come together again: it costs little beside what the wave has cost.
func GiveBack(ctx context.Context) {
	tick := time.NewTicker(lull)
	defer tick.Stop()
	var now, before usage
	before.read()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if now.read(); now.excessive(before.allocated) {
			debug.FreeOSMemory()
			now.read()
		}
		before = now
	}
}

// usage is what the heap consists of, in octets.
type usage struct {
	live      uint64 // at the last collection
	objects   uint64 // live or not
	free      uint64 // neither used nor given back
	allocated uint64 // ever
}

func (u *usage) read() {
	samples := [...]metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/free:bytes"}, {Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(samples[:])
	for i, to := range []*uint64{&u.live, &u.objects, &u.free, &u.allocated} {
		if samples[i].Value.Kind() == metrics.KindUint64 {
			*to = samples[i].Value.Uint64()
		}
	}
}

// excessive reports whether memory is to be given back, when before octets had been allocated a lull ago.
func (u *usage) excessive(before uint64) bool {
	spare := u.free + u.objects - min(u.live, u.objects)
	return spare > worthwhile && spare > u.live/4 && u.allocated-before < max(little, spare/64)
}
