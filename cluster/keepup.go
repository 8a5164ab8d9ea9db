package cluster

import (
	"context"
	"crypto/x509"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"murder/fsm"
)

const (
	keepUpInterval = 500 * time.Millisecond
	seekAfter      = 2 * time.Second // without a leader
	snapshotAfter  = 256 << 20       // octets of entries
)

// keepUp does what every member does all the time: it keeps a link to the leader, tells the registry
// about this node, and notices when the copy is complete.
func (n *Node) keepUp(e *engine) {
	t := time.NewTicker(keepUpInterval)
	defer t.Stop()
	seen := time.Now()
	for {
		n.leaderMu.Lock()
		changed := n.leaderChanged
		n.leaderMu.Unlock()
		ctx, cancel := context.WithTimeout(n.ctx, 5*time.Second)
		if _, ok := n.Leader(); ok {
			seen = time.Now()
			n.sought.Store(nil)
		} else if time.Since(seen) > seekAfter {
			n.seekLeader(ctx, e)
		}
		n.followLeader(ctx, e)
		n.judge(ctx, e)
		n.rememberJudgement(e)
		n.acks.retain(e.feed.servers())
		cancel()
		if n.replica.diverged.Load() && e.identity.Role != Coordinator {
			n.beginAnew(e)
			return
		}
		if n.replica.logged.Load() > snapshotAfter && !n.spaceLow.Load() && n.replica.doubted() == nil {
			// The library counts entries, and ours differ a thousandfold in size.
			if err := e.feed.keep(); err != nil && n.ctx.Err() == nil {
				n.log.Warn("snapshot failed", "err", err)
			}
		}
		select {
		case <-t.C:
		case <-changed:
		case <-n.ctx.Done():
			return
		}
	}
}

func (n *Node) followLeader(ctx context.Context, e *engine) {
	if n.reign.Load() == nil {
		l, err := n.leaderLink(ctx)
		if err != nil {
			n.noteRefusal(err)
			return
		}
		n.refusal.Store(nil)
		if b := l.last.Load(); b != nil && b.leading && !n.synced.Load() {
			if own, _ := n.replica.applied(); own >= b.applied {
				n.synced.Store(true)
				n.log.Info("copy is complete", "index", own)
			}
		}
	}
	if err := n.announce(ctx, e); err != nil {
		var refused *RefusedError
		if errors.As(err, &refused) && refused.Refusal == fsm.RefusedVersion {
			n.log.Error("this node stops", "err", err)
			n.cfg.hooks.exit(ExitVersion, err.Error())
			return
		}
		n.noteRefusal(err)
		n.log.Debug("registering this node failed", "err", err)
		return
	}
	if !n.synced.Load() {
		return
	}
	if e.identity.Role == Coordinator && n.ca.Load() == nil {
		n.fetchAuthority(ctx, e)
	}
	n.renewCertificate(ctx, e)
	n.rememberPeers(e)
	n.noteEpoch(epochOf(n.State()), n.cfg.NodeID)
	if err := n.startGossip(ctx, e); err != nil {
		n.log.Debug("gossip not started", "err", err)
	}
}

// noteRefusal keeps the reason why other nodes do not want this one, and logs it once.
func (n *Node) noteRefusal(err error) {
	var f *failure
	if !errors.As(err, &f) || f.class != classRefused {
		return
	}
	if old := n.refusal.Swap(&f.text); old == nil || *old != f.text {
		n.log.Error("refused by the cluster", "err", f.text)
	}
}

// record is what the registry shall say about this node.
func (n *Node) record(e *engine) fsm.Node {
	services := n.cfg.Services
	if g := n.gossip.Load(); g != nil {
		services = maps.Clone(services)
		if services == nil {
			services = make(map[string]string)
		}
		services[gossipService] = g.address
	}
	state := fsm.NodeActive
	if n.draining.Load() {
		state = fsm.NodeDraining
	}
	return fsm.Node{
		ID: n.cfg.NodeID, Role: fsmRole(e.identity.Role), State: state,
		Address: n.port.advertise, Services: services,
		DurableLog: e.identity.Role == Coordinator,
		MinCluster: minCluster, MaxCluster: maxCluster, BinaryVersion: n.cfg.BinaryVersion,
	}
}

// announce brings the registry up to date with this node. Before the copy is complete, and while the
// leader does not reach this node, it is the leader that knows the registry: a node that is not where the
// registry says gets no entries that could tell it so.
func (n *Node) announce(ctx context.Context, e *engine) error {
	have, ok := n.State().Node(n.cfg.NodeID)
	if !n.synced.Load() || n.sought.Load() != nil {
		// Into a record of its own: that of the copy is shared with the copy.
		var told fsm.Node
		l, err := n.leaderLink(ctx)
		if err == nil {
			err = l.call(ctx, "record", struct{}{}, &told)
		}
		if err != nil {
			return err
		}
		have, ok = told, true
	}
	want := n.record(e)
	if ok && have.Role == want.Role && have.State == want.State && have.Address == want.Address &&
		maps.Equal(have.Services, want.Services) && have.DurableLog == want.DurableLog &&
		have.MinCluster == want.MinCluster && have.MaxCluster == want.MaxCluster && have.BinaryVersion == want.BinaryVersion {
		return nil
	}
	// Others change the attributes, or remove the record: what was read may be old by now, and is sent on the
	// condition that it is not. Refused, it is read again at the next turn.
	want.Attributes, want.Index = have.Attributes, have.Index
	results, _, err := n.proposer.do(ctx, "", fsm.RegisterNode{Node: want})
	if err == nil {
		err = refusedBy(results[0])
	}
	return err
}

// propose makes one command happen exactly once; a refusal is an error.
func (n *Node) propose(ctx context.Context, c fsm.Command) error {
	results, index, err := n.proposer.do(ctx, "", c)
	if err != nil {
		return err
	}
	if err := refusedBy(results[0]); err != nil {
		return err
	}
	return n.replica.wait(ctx, index)
}

func refusedBy(r fsm.Result) error {
	if r.Refusal == fsm.NotRefused {
		return nil
	}
	return &RefusedError{Refusal: r.Refusal, Detail: r.Detail}
}

// RefusedError says that the cluster decided against a command.
type RefusedError struct {
	Refusal fsm.Refusal
	Detail  string
}

// Refused tells the admin interface that trying again would not help.
func (r *RefusedError) Refused() bool { return true }

func (r *RefusedError) Error() string {
	if r.Detail == "" {
		return r.Refusal.String()
	}
	return r.Refusal.String() + ": " + r.Detail
}

// seekLeader asks the coordinators that this node remembers: one that has moved to another address is
// out of the leader's reach until it says so.
func (n *Node) seekLeader(ctx context.Context, e *engine) {
	for _, addr := range n.peerAddresses(e) {
		l, err := n.links.get(ctx, addr, addr)
		if err != nil {
			n.noteRefusal(err)
			continue
		}
		if b := l.last.Load(); b != nil && b.leading {
			n.sought.Store(&leaderHint{addr, addr})
			return
		}
	}
	n.sought.Store(nil)
}

// peerAddresses are the other coordinators, as far as this node knows.
func (n *Node) peerAddresses(e *engine) []string {
	var addrs []string
	n.State().Nodes(func(rec fsm.Node) bool {
		if rec.Role == fsm.RoleCoordinator && rec.ID != n.cfg.NodeID {
			addrs = append(addrs, rec.Address)
		}
		return true
	})
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, a := range e.identity.Peers {
		if a != n.port.advertise && !slices.Contains(addrs, a) {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// rememberPeers keeps the addresses of coordinators, and what the cluster speaks, for the next start.
func (n *Node) rememberPeers(e *engine) {
	var addrs []string
	n.State().Nodes(func(rec fsm.Node) bool {
		if rec.Role == fsm.RoleCoordinator {
			addrs = append(addrs, rec.Address)
		}
		return true
	})
	version := n.State().ClusterVersion()
	n.mu.Lock()
	known := slices.Equal(addrs, e.identity.Peers) && version == e.identity.ClusterVersion
	n.mu.Unlock()
	if !known {
		n.keepIdentity(e, func(id *identity) { id.Peers, id.ClusterVersion = addrs, version })
	}
}

// keepIdentity changes what this node remembers for its next start.
func (n *Node) keepIdentity(e *engine, change func(*identity)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	id := *e.identity
	change(&id)
	if err := id.write(n.cfg.DataDir); err != nil {
		n.log.Warn("remembering what the cluster is failed", "err", err)
		return
	}
	e.identity.Peers, e.identity.ClusterVersion, e.identity.Epoch = id.Peers, id.ClusterVersion, id.Epoch
	e.identity.Damaged, e.identity.Diverged, e.identity.DivergedAt = id.Damaged, id.Diverged, id.DivergedAt
}

// fetchAuthority gets the key of the cluster's authority from another coordinator, so that this one
// can take in nodes when it leads.
func (n *Node) fetchAuthority(ctx context.Context, e *engine) {
	var failed error
	n.State().Nodes(func(rec fsm.Node) bool {
		if rec.Role != fsm.RoleCoordinator || rec.ID == n.cfg.NodeID {
			return true
		}
		var answer authorityAnswer
		l, err := n.links.get(ctx, rec.ID, rec.Address)
		if err == nil {
			err = l.call(ctx, "authority", struct{}{}, &answer)
		}
		if err == nil {
			err = n.adoptAuthority(e, answer.Key)
		}
		failed = err
		return err != nil
	})
	if failed != nil {
		n.log.Debug("fetching the authority's key failed", "err", failed)
	}
}

type authorityAnswer struct {
	Key []byte `json:"key"`
}

func (n *Node) adoptAuthority(e *engine, key []byte) error {
	ca, err := parseAuthority(encodeCert(e.keys.ca.Raw), key)
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(n.cfg.DataDir, caKeyFile), key, 0o600); err != nil {
		return err
	}
	n.ca.Store(ca)
	return nil
}

type renewRequest struct {
	PublicKey []byte `json:"public_key"` // PKIX
}

type renewAnswer struct {
	Certificate []byte `json:"certificate"`
}

// renewCertificate replaces the node's certificate when two thirds of its life are over.
func (n *Node) renewCertificate(ctx context.Context, e *engine) {
	leaf := e.keys.cert.Load().Leaf
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	if n.now().Before(leaf.NotBefore.Add(life * 2 / 3)) {
		return
	}
	if err := n.renew(ctx, e); err != nil {
		n.log.Warn("renewing the certificate failed", "err", err, "expires", leaf.NotAfter)
		return
	}
	n.log.Info("certificate renewed", "expires", e.keys.cert.Load().Leaf.NotAfter)
}

func (n *Node) renew(ctx context.Context, e *engine) error {
	key, keyPEM, err := newNodeKey()
	if err != nil {
		return err
	}
	pub, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	var answer renewAnswer
	if n.reign.Load() != nil {
		answer, err = n.issueRenewal(e.keys.self, renewRequest{pub})
	} else {
		var l *link
		if l, err = n.leaderLink(ctx); err == nil {
			err = l.call(ctx, "renew", renewRequest{pub}, &answer)
		}
	}
	if err != nil {
		return err
	}
	pair := joinPair(answer.Certificate, keyPEM)
	if err := e.keys.setCertificate(pair); err != nil {
		return err
	}
	return writeFile(filepath.Join(n.cfg.DataDir, certFile), pair, 0o600)
}

func (n *Node) issueRenewal(m member, req renewRequest) (renewAnswer, error) {
	ca := n.ca.Load()
	if ca == nil {
		return renewAnswer{}, notProposed("node %s has not got the authority's key yet", n.cfg.NodeID)
	}
	pub, err := x509.ParsePKIXPublicKey(req.PublicKey)
	if err != nil {
		return renewAnswer{}, refuse("public key: %v", err)
	}
	cert, err := ca.issue(pub, m, n.now())
	return renewAnswer{cert}, err
}
