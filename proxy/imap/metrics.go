package imap

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"murder/internal/mbox"
)

// metrics are the server's counters. Labels are bounded: verbs come from the table, backends from
// the map.
type metrics struct {
	commands  *prometheus.CounterVec   // verb, outcome
	seconds   *prometheus.HistogramVec // verb
	logins    *prometheus.CounterVec   // outcome
	backends  *prometheus.CounterVec   // backend, outcome of opening a connection
	relayed   *prometheus.CounterVec   // backend, outcome of a command there
	sessions  prometheus.Gauge
	conns     *prometheus.GaugeVec // backend
	refused   prometheus.Counter
	tlsFailed prometheus.Counter
	panics    prometheus.Counter
	barriers  *prometheus.CounterVec // outcome
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "murder", Subsystem: "imap", Name: name, Help: help}, labels)
	}
	single := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "murder", Subsystem: "imap", Name: name, Help: help})
	}
	m := &metrics{
		commands: counter("commands_total", "Commands by verb and outcome.", "verb", "outcome"),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: "murder", Subsystem: "imap", Name: "command_seconds",
			Help: "Time from reading a command to its tagged answer.", Buckets: prometheus.ExponentialBuckets(0.0005, 4, 9)}, []string{"verb"}),
		logins:   counter("logins_total", "Logins by outcome.", "outcome"),
		backends: counter("backend_connections_total", "Connections to backends by outcome.", "backend", "outcome"),
		relayed:  counter("backend_commands_total", "Commands at backends by outcome.", "backend", "outcome"),
		sessions: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "murder", Subsystem: "imap", Name: "sessions", Help: "Client sessions."}),
		conns: prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "murder", Subsystem: "imap", Name: "backend_connections",
			Help: "Open connections to backends."}, []string{"backend"}),
		refused:   single("refused_total", "Connections refused because there were too many."),
		tlsFailed: single("tls_failures_total", "Failed TLS handshakes with clients."),
		panics:    single("panics_total", "Sessions ended by a fault of this program."),
		barriers:  counter("barriers_total", "Waits for the map by outcome.", "outcome"),
	}
	if reg != nil {
		reg.MustRegister(m.commands, m.seconds, m.logins, m.backends, m.relayed, m.sessions, m.conns, m.refused, m.tlsFailed, m.panics, m.barriers)
	}
	return m
}

// command counts a command of the client. Names that are not in the table count as one.
func (m *metrics) command(c *command, status, code string) {
	name := c.name
	if c.verb == nil {
		name = "other"
	}
	outcome := strings.ToLower(status)
	if codeName(code) == "UNAVAILABLE" {
		outcome = "unavailable"
	}
	m.commands.WithLabelValues(name, outcome).Inc()
	m.seconds.WithLabelValues(name).Observe(time.Since(c.began).Seconds())
}

func (m *metrics) atBackend(server mbox.Server, st status) {
	m.relayed.WithLabelValues(string(server), strings.ToLower(st.String())).Inc()
}
