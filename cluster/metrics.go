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
	standIns         prometheus.Counter
}

var latencies = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}

func newMetrics(n *Node) *metrics {
	m := &metrics{
		node: n, reg: n.cfg.Metrics,
		writes: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "murder_write_seconds", Help: "Writes of this node by outcome, until its own copy shows them.", Buckets: latencies,
		}, []string{"outcome"}),
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
		standIns:      prometheus.NewCounter(prometheus.CounterOpts{Name: "murder_stand_ins_total", Help: "Times that this voter stood in for a leader whose process had ended."}),
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
	return []prometheus.Collector{m.writes, m.barriers, m.batchSize, m.batchTime, m.told, m.retries, m.unconfirmed, m.leaderChanges, m.standIns, (*gauges)(m.node)}
}

func (m *metrics) close() {
	if m.reg == nil {
		return
	}
	for _, c := range m.collectors() {
		m.reg.Unregister(c)
	}
}

func (m *metrics) write(begun time.Time, err error) {
	m.writes.WithLabelValues(outcomeLabel(err)).Observe(time.Since(begun).Seconds())
}

func (m *metrics) barrier(begun time.Time, err error) {
	m.barriers.WithLabelValues(outcomeLabel(err)).Observe(time.Since(begun).Seconds())
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

// gauges reads the state of a node when asked.
type gauges Node

var (
	descLeader    = prometheus.NewDesc("murder_has_leader", "Whether this node knows a leader.", nil, nil)
	descLeading   = prometheus.NewDesc("murder_is_leader", "Whether this node leads.", nil, nil)
	descTerm      = prometheus.NewDesc("murder_term", "Raft term.", nil, nil)
	descLast      = prometheus.NewDesc("murder_last_index", "Last index of the log.", nil, nil)
	descCommit    = prometheus.NewDesc("murder_commit_index", "Last committed index that this node knows of.", nil, nil)
	descApplied   = prometheus.NewDesc("murder_applied_index", "Index that the copy has reached.", nil, nil)
	descLag       = prometheus.NewDesc("murder_lag_entries", "Entries that the leader's copy is ahead of this one, by its last sign of life.", nil, nil)
	descContact   = prometheus.NewDesc("murder_leader_silence_seconds", "Age of the leader's last sign of life; not set on the leader.", nil, nil)
	descMailboxes = prometheus.NewDesc("murder_mailboxes", "Records of the map.", nil, nil)
	descQueue     = prometheus.NewDesc("murder_queue_commands", "Commands waiting on the leader.", nil, nil)
	descStoreAge  = prometheus.NewDesc("murder_store_call_age_seconds", "Age of the oldest call to the log store under way.", nil, nil)
	descDiverged  = prometheus.NewDesc("murder_copy_diverged", "Whether the copy was found to differ from the leader's.", nil, nil)
	descExpiry    = prometheus.NewDesc("murder_certificate_expiry_seconds", "Unix time at which the node's certificate expires.", nil, nil)
	descGossip    = prometheus.NewDesc("murder_gossip_members", "Members that gossip believes to be alive.", nil, nil)
	descVersion   = prometheus.NewDesc("murder_cluster_version", "Cluster version.", nil, nil)
	descPossible  = prometheus.NewDesc("murder_cluster_version_possible", "Cluster version that every registered node can speak.", nil, nil)
	descBlocked   = prometheus.NewDesc("murder_cluster_version_blocked_by", "1 for every node that keeps the cluster version below the newest that any node can speak.", []string{"peer"}, nil)
)

func (g *gauges) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descLeader, descLeading, descTerm, descLast, descCommit, descApplied, descLag, descContact,
		descMailboxes, descQueue, descStoreAge, descDiverged, descExpiry, descGossip, descVersion, descPossible, descBlocked} {
		ch <- d
	}
}

func (g *gauges) Collect(ch chan<- prometheus.Metric) {
	n := (*Node)(g)
	gauge := func(d *prometheus.Desc, v float64) { ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v) }
	truth := func(d *prometheus.Desc, b bool) { gauge(d, float64(flag(b))) }
	v := n.State()
	gauge(descApplied, float64(v.Index()))
	gauge(descMailboxes, float64(v.Len()))
	gauge(descVersion, float64(v.ClusterVersion()))
	o := outlookOf(v)
	gauge(descPossible, float64(o.possible))
	for _, id := range o.blockers() {
		ch <- prometheus.MustNewConstMetric(descBlocked, prometheus.GaugeValue, 1, id)
	}
	truth(descDiverged, n.replica.diverged.Load())
	if g := n.gossip.Load(); g != nil {
		gauge(descGossip, float64(g.alive()))
	}
	_, known := n.Leader()
	truth(descLeader, known)
	r := n.reign.Load()
	truth(descLeading, r != nil)
	if r != nil {
		gauge(descQueue, float64(r.batcher.waiting()))
		gauge(descLag, 0)
	} else if lag, age, ok := n.lag(); ok {
		gauge(descLag, float64(lag))
		gauge(descContact, age.Seconds())
	}
	e := n.engine.Load()
	if e == nil {
		return
	}
	gauge(descTerm, float64(e.raft.CurrentTerm()))
	gauge(descLast, float64(e.raft.LastIndex()))
	gauge(descCommit, float64(e.raft.CommitIndex()))
	gauge(descExpiry, float64(e.keys.cert.Load().Leaf.NotAfter.Unix()))
	if e.stores.guard != nil {
		_, age := e.stores.guard.oldest(time.Now())
		gauge(descStoreAge, age.Seconds())
	}
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
