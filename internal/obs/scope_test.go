package obs

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func TestScope(t *testing.T) {
	reg := prometheus.NewRegistry()
	outer := prometheus.NewCounter(prometheus.CounterOpts{Name: "outer"})
	reg.MustRegister(outer)
	for range 2 { // what has been closed may be opened again
		s := NewScope(reg)
		s.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "inner"}))
		if err := s.Register(prometheus.NewCounter(prometheus.CounterOpts{Name: "outer"})); err == nil {
			t.Error("registered twice")
		}
		s.Close()
	}
	if got, err := reg.Gather(); err != nil || len(got) != 1 || got[0].GetName() != "outer" {
		t.Errorf("%v %v", got, err)
	}
}
