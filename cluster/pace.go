package cluster

import (
	"sync"
	"time"
)

// pace is how fast the log grows. A node that needs longer to take a snapshot than the log needs to leave it behind
// gets one snapshot after another and never catches up.
type pace struct {
	mu     sync.Mutex
	points []pacePoint // oldest first
}

type pacePoint struct {
	at   time.Time
	last uint64
}

const (
	paceStep   = 10 * time.Second // between two points
	paceWindow = 10 * time.Minute
)

// entries notes where the log ends and returns how many entries a second were added lately; ok is false as long as
// that is not known.
func (p *pace) entries(now time.Time, last uint64) (perSecond float64, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if k := len(p.points); k == 0 || now.Sub(p.points[k-1].at) >= paceStep {
		p.points = append(p.points, pacePoint{now, last})
	}
	for len(p.points) > 1 && now.Sub(p.points[1].at) > paceWindow {
		p.points = p.points[1:]
	}
	from := p.points[0]
	if now.Sub(from.at) < paceStep || last < from.last {
		return 0, false
	}
	return float64(last-from.last) / now.Sub(from.at).Seconds(), true
}
