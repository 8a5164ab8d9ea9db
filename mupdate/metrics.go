package mupdate

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	open, streams                       prometheus.Gauge
	connections, commands, streamsEnded *prometheus.CounterVec
	barrier                             prometheus.Histogram
	degraded, stale, rows, alarms       prometheus.Counter
	resyncs                             prometheus.Counter
	loginFailures                       prometheus.Counter
}

// newMetrics registers with reg, which may be nil.
func newMetrics(reg prometheus.Registerer) *metrics {
	const ns, sub = "murder", "mupdate"
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: name, Help: help})
	}
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: name, Help: help}, labels)
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: ns, Subsystem: sub, Name: name, Help: help})
	}
	m := &metrics{
		open:         gauge("connections", "Open connections."),
		streams:      gauge("streams", "Connections that follow by UPDATE."),
		connections:  vec("connections_total", "Connections by what became of them.", "result"),
		commands:     vec("commands_total", "Commands answered, by verb and reply.", "verb", "outcome"),
		streamsEnded: vec("streams_ended_total", "UPDATE streams that ended, by reason.", "reason"),
		barrier: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: ns, Subsystem: sub, Name: "barrier_seconds",
			Help:    "Time to confirm that the local copy is current.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2.5, 11),
		}),
		degraded:      counter("noop_degraded_total", "NOOPs answered without a confirmed copy."),
		stale:         counter("stale_answers_total", "Look-ups and dumps answered from an unconfirmed copy."),
		rows:          counter("stream_rows_total", "Rows sent to UPDATE streams after their dump."),
		resyncs:       counter("stream_resyncs_total", "Streams that had fallen behind and got what they missed."),
		alarms:        counter("alarms_total", "Answers withheld to protect data: mass conflicts and shrunken dumps."),
		loginFailures: counter("login_failures_total", "Refused logins."),
	}
	if reg != nil {
		reg.MustRegister(m.open, m.streams, m.connections, m.commands, m.streamsEnded, m.barrier,
			m.degraded, m.stale, m.rows, m.resyncs, m.alarms, m.loginFailures)
	}
	return m
}
