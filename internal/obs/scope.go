package obs

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// Scope registers the metrics of something that ends before the process does, and takes them out again.
type Scope struct {
	reg prometheus.Registerer

	mu   sync.Mutex
	mine []prometheus.Collector
}

// NewScope returns a Registerer in front of reg.
func NewScope(reg prometheus.Registerer) *Scope { return &Scope{reg: reg} }

// Register implements prometheus.Registerer.
func (s *Scope) Register(c prometheus.Collector) error {
	if err := s.reg.Register(c); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mine = append(s.mine, c)
	return nil
}

// MustRegister implements prometheus.Registerer.
func (s *Scope) MustRegister(list ...prometheus.Collector) {
	for _, c := range list {
		if err := s.Register(c); err != nil {
			panic(err)
		}
	}
}

// Unregister implements prometheus.Registerer.
func (s *Scope) Unregister(c prometheus.Collector) bool { return s.reg.Unregister(c) }

// Close takes out what was registered.
func (s *Scope) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.mine {
		s.reg.Unregister(c)
	}
	s.mine = nil
}
