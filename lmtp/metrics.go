package lmtp

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	sessions   prometheus.Gauge
	refused    prometheus.Counter
	recipients *prometheus.CounterVec
	deliveries *prometheus.HistogramVec
	uncertain  prometheus.Counter
	alerts     *prometheus.CounterVec
	spool      *prometheus.GaugeVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	return &metrics{
		sessions: register(r, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "murder_lmtp_sessions", Help: "Connected LMTP clients.",
		})),
		refused: register(r, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "murder_lmtp_refused_total", Help: "LMTP clients turned away because there were too many.",
		})),
		recipients: register(r, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "murder_lmtp_recipients_total",
			Help: "Recipients by stage (rcpt, data) and result (ok, deferred, refused). At rcpt only those not accepted are counted.",
		}, []string{"stage", "result"})),
		deliveries: register(r, prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "murder_lmtp_delivery_seconds",
			Help:    "Time from the client's final dot to a backend's last reply.",
			Buckets: []float64{.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60, 120, 300, 600},
		}, []string{"backend"})),
		uncertain: register(r, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "murder_lmtp_uncertain_total",
			Help: "Recipients whose backend was lost after the final dot: the MTA will send the message again.",
		})),
		alerts: register(r, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "murder_lmtp_alerts_total",
			Help: "Things an operator should look at, by kind (loop, not_at_backend, identity, panic).",
		}, []string{"kind"})),
		spool: register(r, prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "murder_lmtp_spool_bytes", Help: "Octets of messages under way, by place (memory, file).",
		}, []string{"place"})),
	}
}

// register adds c to r, or returns what has been added under that name before.
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
