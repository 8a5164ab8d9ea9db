package backend

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	dials   *prometheus.CounterVec
	logins  *prometheus.CounterVec
	conns   *prometheus.GaugeVec
	waiting *prometheus.GaugeVec
	seconds *prometheus.HistogramVec
}

// newMetrics registers with r unless it is nil. A second set on the same registry shares the first's.
func newMetrics(r prometheus.Registerer) metrics {
	both := []string{"backend", "service"}
	return metrics{
		dials: register(r, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "murder_backend_dials_total",
			Help: "Attempts to connect to backends, by result (ok, unreachable, tls, busy, breaker, loop).",
		}, []string{"backend", "service", "result"})),
		logins: register(r, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "murder_backend_login_failures_total",
			Help: "Logins with our own identity that a backend refused.",
		}, both)),
		conns: register(r, prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "murder_backend_connections",
			Help: "Open connections to backends.",
		}, both)),
		waiting: register(r, prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "murder_backend_waiting",
			Help: "Callers who wait for their turn to connect, because a backend is slow to greet those before them.",
		}, both)),
		seconds: register(r, prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "murder_backend_dial_seconds",
			Help:    "Time to connect to a backend, with TLS where it comes first.",
			Buckets: []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .25, .5, 1, 2, 5},
		}, []string{"service"})),
	}
}

func register[C prometheus.Collector](r prometheus.Registerer, c C) C {
	if r == nil {
		return c
	}
	var already prometheus.AlreadyRegisteredError
	if err := r.Register(c); errors.As(err, &already) {
		if existing, ok := already.ExistingCollector.(C); ok {
			return existing
		}
	}
	return c
}
