package cluster

import (
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"

	"murder/fsm"
)

// gauges reads the state of a node when asked.
type gauges Node

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("murder_"+name, help, labels, nil)
}

var (
	descLeader    = desc("has_leader", "Whether this node knows a leader.")
	descLeading   = desc("is_leader", "Whether this node leads.")
	descTerm      = desc("term", "Raft term.")
	descLast      = desc("last_index", "Last index of the log.")
	descCommit    = desc("commit_index", "Last committed index that this node knows of.")
	descApplied   = desc("applied_index", "Index that the copy has reached.")
	descLag       = desc("lag_entries", "Entries that the leader's copy is ahead of this one, by its last sign of life.")
	descContact   = desc("leader_silence_seconds", "Age of the leader's last sign of life; not set on the leader.")
	descMailboxes = desc("mailboxes", "Records of the map.")
	descHolds     = desc("reservations", "Reserved names, by kind (create, move).", "kind")
	descHoldAge   = desc("reservation_oldest_seconds", "Age of the oldest reservation in time of leadership, by kind.", "kind")
	descQueue     = desc("queue_commands", "Commands waiting on the leader.")
	descQueueAge  = desc("queue_age_seconds", "On the leader: how long the oldest command has waited.")
	descVoters    = desc("voters", "On the leader: coordinators that vote.")
	descSpare     = desc("spare_voters", "On the leader: how many more voters may be lost before nothing can be changed.")
	descSnapAge   = desc("snapshot_age_seconds", "Age of the newest snapshot.")
	descTrailing  = desc("trailing_log_seconds", "How long the log takes, as fast as it grows, to leave a snapshot behind that a node is still reading.")
	descMembers   = desc("members", "Registered nodes by role.", "role")
	descPeerAge   = desc("peer_silence_seconds", "On the leader: age of each node's last sign of life.", "peer")
	descPeerLast  = desc("peer_last_index", "On the leader: where each node's log ends.", "peer")
	descStoreAge  = desc("store_call_age_seconds", "Age of the oldest call to the log store under way.")
	descLogFile   = desc("log_file_bytes", "Size of the log's file, which never shrinks by itself: murderctl node log compact.")
	descCramped   = desc("disk_nearly_full", "1 while too little is left on the disk of the data directory.")
	descDisk      = desc("disk_free_bytes", "What is left on the disk of the data directory.")
	descSnapSize  = desc("snapshot_bytes", "Size of the newest snapshot.")
	descSnapIndex = desc("snapshot_index", "Index of the newest snapshot.")
	descSnapReads = desc("snapshot_reads", "Snapshots that are being read at the moment, to be sent or saved.")
	descDiverged  = desc("copy_diverged", "Whether the copy was found to differ from that of a majority of the voters.")
	descExpiry    = desc("certificate_expiry_seconds", "Unix time at which the node's certificate expires.")
	descGossip    = desc("gossip_members", "Members by what gossip believes of them: alive, gone.", "state")
	descVersion   = desc("cluster_version", "Cluster version.")
	descPossible  = desc("cluster_version_possible", "Cluster version that every registered node can speak.")
	descBlocked   = desc("cluster_version_blocked_by", "1 for every node that keeps the cluster version below the newest that any node can speak.", "peer")
	descEpoch     = desc("epoch", "How often the cluster was recovered from a lost quorum.")
)

func (g *gauges) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descLeader, descLeading, descTerm, descLast, descCommit, descApplied, descLag, descContact,
		descMailboxes, descHolds, descHoldAge, descQueue, descMembers, descPeerAge, descPeerLast, descStoreAge, descLogFile, descDisk, descCramped,
		descSnapSize, descSnapIndex, descSnapReads, descSnapAge, descTrailing, descQueueAge, descVoters, descSpare, descDiverged, descExpiry, descGossip, descVersion, descPossible, descBlocked, descEpoch} {
		ch <- d
	}
}

// sample is where gauges go.
type sample chan<- prometheus.Metric

func (s sample) gauge(d *prometheus.Desc, v float64, labels ...string) {
	s <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (s sample) truth(d *prometheus.Desc, b bool) { s.gauge(d, float64(flag(b))) }

func (g *gauges) Collect(ch chan<- prometheus.Metric) {
	n, s := (*Node)(g), sample(ch)
	n.sampleMap(s)
	s.truth(descDiverged, n.replica.diverged.Load())
	if g := n.gossip.Load(); g != nil {
		s.gauge(descGossip, float64(g.alive()), "alive")
		s.gauge(descGossip, float64(g.gone()), "gone")
	}
	_, known := n.Leader()
	s.truth(descLeader, known)
	r := n.reign.Load()
	s.truth(descLeading, r != nil)
	if r != nil {
		s.gauge(descQueue, float64(r.batcher.waiting()))
		s.gauge(descQueueAge, r.batcher.oldest(time.Now()).Seconds())
		s.gauge(descLag, 0)
		r.samplePeers(s)
	} else if lag, age, ok := n.lag(); ok {
		s.gauge(descLag, float64(lag))
		s.gauge(descContact, age.Seconds())
	}
	if e := n.engine.Load(); e != nil {
		n.sampleEngine(s, e)
	}
}

func (n *Node) sampleMap(s sample) {
	v := n.State()
	s.gauge(descApplied, float64(v.Index()))
	s.gauge(descMailboxes, float64(v.Len()))
	s.gauge(descVersion, float64(v.ClusterVersion()))
	s.gauge(descEpoch, float64(n.port.epoch.Load()))
	o := outlookOf(v)
	s.gauge(descPossible, float64(o.possible))
	for _, id := range o.blockers() {
		s.gauge(descBlocked, 1, id)
	}
	roles := map[fsm.Role]int{fsm.RoleCoordinator: 0, fsm.RoleFrontend: 0, fsm.RoleAgent: 0}
	for rec := range v.Nodes {
		roles[rec.Role]++
	}
	for role, count := range roles {
		s.gauge(descMembers, float64(count), role.String())
	}
	var creates, moves int
	var oldestCreate, oldestMove uint64
	for h := range v.Holds {
		age := v.Clock() - min(h.Since, v.Clock())
		if h.Transfer {
			moves, oldestMove = moves+1, max(oldestMove, age)
		} else {
			creates, oldestCreate = creates+1, max(oldestCreate, age)
		}
	}
	s.gauge(descHolds, float64(creates), "create")
	s.gauge(descHolds, float64(moves), "move")
	s.gauge(descHoldAge, float64(oldestCreate)/1000, "create")
	s.gauge(descHoldAge, float64(oldestMove)/1000, "move")
}

// samplePeers tells of the nodes that are registered: the series of one that left ends.
func (r *reign) samplePeers(s sample) {
	for rec := range r.node.State().Nodes {
		if p, ok := r.position(rec.ID); ok && rec.ID != r.node.cfg.NodeID {
			s.gauge(descPeerAge, time.Since(p.at).Seconds(), rec.ID)
			s.gauge(descPeerLast, float64(p.last), rec.ID)
		}
	}
}

// sampleVoters tells how far the cluster is from standing still. A voter counts while it gives signs of life.
func (r *reign) sampleVoters(s sample, servers []raft.Server) {
	voters, up := 0, 0
	for _, v := range servers {
		if v.Suffrage != raft.Voter {
			continue
		}
		voters++
		p, ok := r.position(string(v.ID))
		if string(v.ID) == r.node.cfg.NodeID || ok && time.Since(p.at) < r.node.timing.silence {
			up++
		}
	}
	s.gauge(descVoters, float64(voters))
	s.gauge(descSpare, float64(up-(voters/2+1)))
}

// takenAt is when a snapshot was written: the library's ids are TERM-INDEX-MILLISECONDS.
func takenAt(m *raft.SnapshotMeta) (time.Time, bool) {
	ms, err := strconv.ParseInt(m.ID[strings.LastIndexByte(m.ID, '-')+1:], 10, 64)
	return time.UnixMilli(ms), err == nil
}

func (n *Node) sampleEngine(s sample, e *engine) {
	p := e.feed.place()
	s.gauge(descTerm, float64(p.term))
	s.gauge(descLast, float64(p.last))
	s.gauge(descCommit, float64(p.commit))
	s.gauge(descExpiry, float64(e.keys.cert.Load().Leaf.NotAfter.Unix()))
	s.gauge(descDisk, float64(n.cfg.space().free))
	s.truth(descCramped, n.spaceLow.Load())
	if g := e.guard(); g != nil {
		_, age := g.oldest(time.Now())
		s.gauge(descStoreAge, age.Seconds())
		if info, err := os.Stat(n.cfg.logFile()); err == nil {
			s.gauge(descLogFile, float64(info.Size()))
		}
	}
	if r := n.reign.Load(); r != nil {
		r.sampleVoters(s, e.feed.servers())
	}
	if e.raftFeed == nil {
		return
	}
	if rate, ok := n.pace.entries(time.Now(), p.last); ok && rate > 0 {
		trailing := n.cfg.TrailingLogs // of the coordinators, which are set alike
		if e.identity.Role == Coordinator {
			trailing = e.trailing()
		}
		s.gauge(descTrailing, float64(trailing)/rate)
	}
	if list, err := e.stores.snapshots.List(); err == nil && len(list) > 0 {
		s.gauge(descSnapSize, float64(list[0].Size))
		s.gauge(descSnapIndex, float64(list[0].Index))
		if at, ok := takenAt(list[0]); ok {
			s.gauge(descSnapAge, n.now().Sub(at).Seconds())
		}
	}
	if gate, ok := e.stores.snapshots.(*snapshotGate); ok {
		s.gauge(descSnapReads, float64(len(gate.slots)+len(n.backups)))
	}
}
