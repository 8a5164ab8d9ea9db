package cluster

import (
	"errors"
	"sync"
	"time"

	libmetrics "github.com/hashicorp/go-metrics/compat"
	gmprom "github.com/hashicorp/go-metrics/compat/prometheus"
	"github.com/prometheus/client_golang/prometheus"

	"murder/internal/mbox"
)

// metrics are this package's own. Without a registerer they are kept all the same and shown nowhere.
type metrics struct {
	node *Node
	reg  prometheus.Registerer

	writes, barriers *prometheus.HistogramVec
	batchSize        prometheus.Histogram
	batchTime        prometheus.Histogram
	told             prometheus.Counter
	retries          prometheus.Counter
	unconfirmed      prometheus.Counter
	leaderChanges    prometheus.Counter
	leaderless       prometheus.Histogram
	transfers        *prometheus.HistogramVec
	repeats          prometheus.Counter
	standIns         prometheus.Counter
	verdicts         *prometheus.CounterVec
	snapshots        prometheus.Histogram
	restored         prometheus.Gauge
	stores           *prometheus.HistogramVec
}

var latencies = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}

func newMetrics(n *Node) *metrics {
	m := &metrics{
		node: n, reg: n.cfg.Metrics,
		writes: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "murder_write_seconds", Help: "Writes of this node by outcome (ok, unknown, unavailable) and by who led when they began (self, other), until its own copy shows them.", Buckets: latencies,
		}, []string{"outcome", "leader"}),
		barriers: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "murder_barrier_seconds", Help: "Linearizable reads of this node.", Buckets: latencies,
		}, []string{"outcome"}),
		batchSize: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "murder_batch_commands", Help: "Commands in one log entry, on the leader.", Buckets: prometheus.ExponentialBuckets(1, 2, 10),
		}),
		batchTime: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "murder_batch_seconds", Help: "From forming an entry to its result, on the leader.", Buckets: latencies,
		}),
		told:          prometheus.NewCounter(prometheus.CounterOpts{Name: "murder_commits_told_total", Help: "Messages that told a node what has been committed, because it waited or no entries followed."}),
		retries:       prometheus.NewCounter(prometheus.CounterOpts{Name: "murder_write_retries_total", Help: "Writes sent again under the same number."}),
		unconfirmed:   prometheus.NewCounter(prometheus.CounterOpts{Name: "murder_read_rounds_unconfirmed_total", Help: "Rounds of linearizable reads that no majority confirmed in time; the reads rode the log instead."}),
		leaderChanges: prometheus.NewCounter(prometheus.CounterOpts{Name: "murder_leader_changes_total", Help: "Changes of the leader that this node saw."}),
		leaderless: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "murder_leaderless_seconds", Help: "Times in which this node knew no leader: elections and hand-overs.", Buckets: latencies,
		}),
		transfers: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "murder_transfer_seconds", Help: "Hand-overs of the lead by this node, by outcome (ok, failed), until the other leads.", Buckets: latencies,
		}, []string{"outcome"}),
		repeats:  prometheus.NewCounter(prometheus.CounterOpts{Name: "murder_write_repeats_total", Help: "Writes whose answer was lost and came from the memory of the map when they were sent again."}),
		standIns: prometheus.NewCounter(prometheus.CounterOpts{Name: "murder_stand_ins_total", Help: "Times that this voter stood in for a leader whose process had ended."}),
		verdicts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "murder_write_verdicts_total", Help: "What the map decided on writes of this node: done, or why they were refused.",
		}, []string{"verdict"}),
		snapshots: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "murder_snapshot_seconds", Help: "Writing a snapshot.", Buckets: prometheus.ExponentialBuckets(.01, 4, 8),
		}),
		restored: prometheus.NewGauge(prometheus.GaugeOpts{Name: "murder_restore_last_seconds", Help: "How long reading the last snapshot took that the leader sent; 0 if there was none since the start."}),
		stores: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "murder_store_seconds", Help: "Calls to the log store by what they do. Each that writes waits for the disk.", Buckets: latencies,
		}, []string{"call"}),
	}
	if m.reg != nil {
		for _, c := range m.collectors() {
			if err := m.reg.Register(c); err != nil {
				n.log.Warn("metric not registered", "err", err)
			}
		}
		startLibraryMetrics(m.reg, n)
	}
	return m
}

func (m *metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.writes, m.barriers, m.batchSize, m.batchTime, m.told, m.retries, m.unconfirmed, m.leaderChanges, m.leaderless, m.transfers,
		m.repeats, m.standIns, m.verdicts, m.snapshots, m.restored, m.stores, (*gauges)(m.node)}
}

func (m *metrics) close() {
	if m.reg == nil {
		return
	}
	for _, c := range m.collectors() {
		m.reg.Unregister(c)
	}
}

func (m *metrics) write(begun time.Time, leads bool, err error) {
	leader := "other"
	if leads {
		leader = "self"
	}
	m.writes.WithLabelValues(outcomeLabel(err), leader).Observe(time.Since(begun).Seconds())
}

func (m *metrics) decided(verdicts []mbox.Verdict) {
	for _, v := range verdicts {
		m.verdicts.WithLabelValues(v.Outcome.String()).Inc()
	}
}

func (m *metrics) store(call string, dur time.Duration) {
	m.stores.WithLabelValues(call).Observe(dur.Seconds())
}

func (m *metrics) barrier(begun time.Time, err error) {
	m.barriers.WithLabelValues(outcomeLabel(err)).Observe(time.Since(begun).Seconds())
}

func (m *metrics) transfer(begun time.Time, err error) {
	outcome := "ok"
	if err != nil {
		outcome = "failed"
	}
	m.transfers.WithLabelValues(outcome).Observe(time.Since(begun).Seconds())
}

func outcomeLabel(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, mbox.ErrUnknownOutcome):
		return "unknown"
	}
	return "unavailable"
}

func (m *metrics) batch(b *batch, err error) {
	if err != nil {
		return
	}
	m.batchSize.Observe(float64(b.cmds))
	m.batchTime.Observe(time.Since(b.begun).Seconds())
}

// The raft library reports into one sink for the whole process. Every registry that asks gets all of it.
var library struct {
	sync.Mutex
	sinks libmetrics.FanoutSink
}

func startLibraryMetrics(reg prometheus.Registerer, n *Node) {
	sink, err := gmprom.NewPrometheusSinkFrom(gmprom.PrometheusOpts{Registerer: reg, Expiration: 10 * time.Minute, Name: "raft"})
	if err != nil {
		n.log.Warn("metrics of the raft library not registered", "err", err)
		return
	}
	library.Lock()
	defer library.Unlock()
	library.sinks = append(library.sinks[:len(library.sinks):len(library.sinks)], sink)
	conf := libmetrics.DefaultConfig("")
	conf.EnableHostname, conf.EnableRuntimeMetrics, conf.EnableServiceLabel = false, false, false
	if _, err := libmetrics.NewGlobal(conf, library.sinks); err != nil {
		n.log.Warn("metrics of the raft library not started", "err", err)
	}
}
