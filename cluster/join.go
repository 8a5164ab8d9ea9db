package cluster

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"murder/cluster/admin"
	"murder/fsm"
)

const (
	joinLimit   = 30 * time.Second
	minFree     = 256 << 20 // octets on the disk of a coordinator
	clusterIDs  = 16        // letters of a cluster id
	dialBack    = 2 * time.Second
	maxJoinSize = 64 << 10
	maxJoins    = 16 // at the same time: whoever asks is not known yet
)

// joinRequest is what a node that wants to join says about itself.
type joinRequest struct {
	Cluster    string            `json:"cluster"`
	Token      string            `json:"token"`
	Secret     string            `json:"secret"`
	Node       string            `json:"node"`
	Role       Role              `json:"role"`
	Address    string            `json:"address"`
	Services   map[string]string `json:"services,omitempty"`
	PublicKey  []byte            `json:"public_key"` // PKIX
	MinCluster uint32            `json:"min_cluster"`
	MaxCluster uint32            `json:"max_cluster"`
	Version    string            `json:"version"`
	Free       uint64            `json:"free"` // octets on the disk
}

type joinAnswer struct {
	Authority   []byte   `json:"authority"`
	Certificate []byte   `json:"certificate"`
	Peers       []string `json:"peers"`
	// AuthorityKey goes to coordinators only: each can take in nodes, should it be the last.
	AuthorityKey []byte `json:"authority_key,omitempty"`
}

// Init makes a new cluster with this node as its first voter.
func (n *Node) Init(ctx context.Context, req admin.InitRequest) (admin.InitAnswer, error) {
	answer := admin.InitAnswer{ClusterID: req.ClusterID}
	if n.cfg.Role.member() != Coordinator {
		return answer, refuse("node %s is a %s: a cluster begins with a coordinator", n.cfg.NodeID, n.cfg.Role)
	}
	if answer.ClusterID == "" {
		answer.ClusterID = strings.ToLower(rand.Text()[:clusterIDs])
	}
	if !nodeIDPattern.MatchString(answer.ClusterID) {
		return answer, refuse("cluster id %q: use 1 to 63 letters, digits, dots, hyphens and underscores", answer.ClusterID)
	}
	ca, err := newAuthority(answer.ClusterID, n.now())
	if err != nil {
		return answer, err
	}
	caKey, err := encodeKey(ca.key)
	if err != nil {
		return answer, err
	}
	key, keyPEM, err := newNodeKey()
	if err != nil {
		return answer, err
	}
	id := &identity{ClusterID: answer.ClusterID, NodeID: n.cfg.NodeID, Role: Coordinator}
	cert, err := ca.issue(key.Public(), member{id.ClusterID, id.NodeID, id.Role}, n.now())
	if err != nil {
		return answer, err
	}
	files := membershipFiles{ca: encodeCert(ca.cert.Raw), caKey: caKey, pair: joinPair(cert, keyPEM)}
	if err := n.become(id, files, true); err != nil {
		return answer, err
	}
	for {
		err := n.propose(ctx, fsm.SetSetting{Key: fsm.SettingClusterID, Value: id.ClusterID})
		if err == nil {
			_, err = n.Barrier(ctx)
		}
		if err == nil {
			if err := n.announce(ctx, n.engine.Load()); err != nil {
				return answer, err
			}
			// Nothing older is there to go back to.
			if first := n.cfg.hooks.first; first > n.State().ClusterVersion() {
				err = n.propose(ctx, fsm.SetClusterVersion{Version: first})
			}
			return answer, err
		}
		if ctx.Err() != nil {
			return answer, fmt.Errorf("the cluster was made, but does not answer yet: %w", err)
		}
	}
}

type membershipFiles struct{ ca, caKey, pair []byte }

// become writes a membership to the data directory and takes it up. The identity is written last.
func (n *Node) become(id *identity, files membershipFiles, bootstrap bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.stopped {
		return refuse("this node is stopping")
	}
	if e := n.engine.Load(); e != nil {
		return refuse("node %s is a member of cluster %s already: to use it elsewhere, remove it there and empty its data directory", n.cfg.NodeID, e.identity.ClusterID)
	}
	dir := n.cfg.DataDir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	// What a try left that was cut short was never part of anything.
	if err := os.RemoveAll(filepath.Join(dir, raftDir)); err != nil {
		return err
	}
	err := writeFile(filepath.Join(dir, caFile), files.ca, 0o644)
	if err == nil && files.caKey != nil {
		err = writeFile(filepath.Join(dir, caKeyFile), files.caKey, 0o600)
	}
	if err == nil {
		err = writeFile(filepath.Join(dir, certFile), files.pair, 0o600)
	}
	switch {
	case err != nil:
	case bootstrap:
		err = n.bootstrap()
	case id.Role == Coordinator:
		err = n.layLog()
	}
	if err == nil {
		err = id.write(dir)
	}
	if err == nil {
		err = n.start(id)
	}
	return err
}

// layLog makes an empty log: a coordinator that is a member and has none will not start.
func (n *Node) layLog() error {
	st, err := openStores(&n.cfg, true, nil)
	if err != nil {
		return err
	}
	return st.close()
}

// bootstrap writes the first configuration to an empty log: this node votes alone.
func (n *Node) bootstrap() error {
	st, err := openStores(&n.cfg, true, nil)
	if err != nil {
		return err
	}
	_, trans := raft.NewInmemTransport(raft.ServerAddress(n.port.advertise)) // only asked how it encodes addresses
	err = raft.BootstrapCluster(n.cfg.raftConfig(), st.log, st.stable, st.snapshots, trans, raft.Configuration{
		Servers: []raft.Server{{Suffrage: raft.Voter, ID: raft.ServerID(n.cfg.NodeID), Address: raft.ServerAddress(n.port.advertise)}},
	})
	if cerr := st.close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("beginning the log: %w", err)
	}
	return nil
}

// Join makes this node a member of the cluster that made the token, and returns when its copy is
// complete. It may be repeated until it succeeds.
func (n *Node) Join(ctx context.Context, tokenLine string) error {
	t, err := parseToken(tokenLine)
	if err != nil {
		return refuse("%v", err)
	}
	e := n.engine.Load()
	switch {
	case e != nil && e.identity.ClusterID == t.Cluster:
		return n.waitSynced(ctx) // a repeated call
	case e != nil:
		return refuse("node %s is a member of cluster %s already: to use it elsewhere, remove it there and empty its data directory", n.cfg.NodeID, e.identity.ClusterID)
	case t.Role != n.cfg.Role.member():
		return refuse("the token is for a %s, and node %s is a %s: create a token for that role", t.Role, n.cfg.NodeID, n.cfg.Role)
	}
	key, keyPEM, err := newNodeKey()
	if err != nil {
		return err
	}
	pub, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	if err := os.MkdirAll(n.cfg.DataDir, 0o700); err != nil {
		return err
	}
	req := joinRequest{
		Cluster: t.Cluster, Token: t.ID, Secret: t.Secret,
		Node: n.cfg.NodeID, Role: t.Role, Address: n.port.advertise, Services: n.cfg.Services,
		PublicKey: pub, MinCluster: minCluster, MaxCluster: maxCluster, Version: n.cfg.BinaryVersion,
		Free: freeSpace(n.cfg.DataDir),
	}
	answer, err := n.askToJoin(ctx, t, req)
	if err != nil {
		return err
	}
	id := &identity{ClusterID: t.Cluster, NodeID: n.cfg.NodeID, Role: t.Role, Peers: answer.Peers}
	files := membershipFiles{ca: answer.Authority, caKey: answer.AuthorityKey, pair: joinPair(answer.Certificate, keyPEM)}
	if err := n.become(id, files, false); err != nil {
		return err
	}
	return n.waitSynced(ctx)
}

func (n *Node) waitSynced(ctx context.Context) error {
	for failures := 0; !n.synced.Load(); failures++ {
		if err := n.pause(ctx, failures); err != nil {
			return fmt.Errorf("this node has joined, but its copy is not complete yet: %w", err)
		}
	}
	return nil
}

// askToJoin tries the addresses of a token until one gives a definite answer.
func (n *Node) askToJoin(ctx context.Context, t token, req joinRequest) (joinAnswer, error) {
	var last error
	for failures := 0; ; failures++ {
		for _, addr := range t.Addresses {
			answer, err := n.askOne(ctx, addr, t, req)
			var f *failure
			if err == nil || errors.As(err, &f) && f.class == classRefused {
				return answer, err
			}
			if last == nil || ctx.Err() == nil {
				last = err // what was broken off at the end tells less than what came before
			}
		}
		if n.pause(ctx, max(failures, 6)) != nil {
			return joinAnswer{}, fmt.Errorf("joining: no coordinator of %s took this node in: %w", strings.Join(t.Addresses, ", "), last)
		}
	}
}

func (n *Node) askOne(ctx context.Context, addr string, t token, req joinRequest) (answer joinAnswer, err error) {
	ctx, cancel := context.WithTimeout(ctx, joinLimit)
	defer cancel()
	conn, err := n.port.dialTLS(ctx, addr, joinConfig(t.Cluster, t.CAHash))
	if err != nil {
		return answer, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.NetConn().Close() })
	defer stop()
	data, err := json.Marshal(req)
	if err != nil {
		return answer, err
	}
	if _, err := conn.Write(appendFrame(nil, frameCall, 0, func(dst []byte) []byte {
		return append(appendString(dst, "join"), data...)
	})); err != nil {
		return answer, fmt.Errorf("asking %s: %w", addr, err)
	}
	f, err := readFrame(conn)
	switch {
	case err != nil:
		return answer, fmt.Errorf("asking %s: %w", addr, err)
	case f.kind == frameFailed:
		d := decoder{buf: f.payload}
		return answer, &failure{d.byte(), string(d.buf)}
	}
	return answer, json.Unmarshal(f.payload, &answer)
}

// serveJoin answers one request of a node that has no certificate yet.
func (n *Node) serveJoin(ctx context.Context, conn *tls.Conn) {
	select {
	case n.joins <- struct{}{}:
		defer func() { <-n.joins }()
	default:
		return // the node tries again
	}
	ctx, cancel := context.WithTimeout(ctx, joinLimit)
	defer cancel()
	conn.SetDeadline(time.Now().Add(joinLimit))
	f, err := readFrame(conn)
	d := decoder{buf: f.payload}
	if err != nil || f.kind != frameCall || len(f.payload) > maxJoinSize || string(d.bytes()) != "join" || d.err != nil {
		return
	}
	var req joinRequest
	var answer joinAnswer
	if err = json.Unmarshal(d.buf, &req); err == nil {
		answer, err = n.takeInOrPass(ctx, req)
	}
	if err != nil {
		n.log.Warn("join refused", "peer", conn.RemoteAddr().String(), "joining", req.Node, "err", err)
		conn.Write(appendFrame(nil, frameFailed, 0, func(dst []byte) []byte {
			return append(append(dst, classOf(err)), err.Error()...)
		}))
		return
	}
	data, _ := json.Marshal(answer)
	conn.Write(appendFrame(nil, frameAnswer, 0, func(dst []byte) []byte { return append(dst, data...) }))
}

func (n *Node) takeInOrPass(ctx context.Context, req joinRequest) (answer joinAnswer, err error) {
	if r := n.reign.Load(); r != nil {
		return r.takeIn(ctx, req)
	}
	l, err := n.leaderLink(ctx)
	if err != nil {
		return answer, err
	}
	return answer, l.call(ctx, "join", req, &answer)
}

// takeIn lets a node into the cluster. The checks come in an order in which each message is the one
// that helps.
func (r *reign) takeIn(ctx context.Context, req joinRequest) (joinAnswer, error) {
	n := r.node
	self := r.engine.identity
	v := n.State()
	if req.Cluster != self.ClusterID {
		return joinAnswer{}, refuse("the token is of cluster %s, and this is cluster %s: create a token here", req.Cluster, self.ClusterID)
	}
	hash := sha256.Sum256([]byte(req.Secret))
	use := fsm.UseToken{ID: req.Token, SecretHash: hash, Role: fsmRole(req.Role), NodeID: req.Node, Now: n.now().Unix()}
	if err := checkToken(v, use); err != nil {
		return joinAnswer{}, err
	}
	ca := n.ca.Load()
	pub, err := x509.ParsePKIXPublicKey(req.PublicKey)
	switch {
	case ca == nil:
		return joinAnswer{}, notProposed("leader %s has not got the authority's key yet", self.NodeID)
	case err != nil:
		return joinAnswer{}, refuse("public key: %v", err)
	case !nodeIDPattern.MatchString(req.Node):
		return joinAnswer{}, refuse("node id %q is not valid", req.Node)
	case req.MaxCluster < v.ClusterVersion() || req.MinCluster > v.ClusterVersion():
		return joinAnswer{}, refuse("node %s (version %s) speaks cluster versions %d to %d, and the cluster is at %d: install the version that the cluster runs", req.Node, req.Version, req.MinCluster, req.MaxCluster, v.ClusterVersion())
	}
	if rec, ok := v.Node(req.Node); ok && n.answers(ctx, rec.ID, rec.Address) {
		return joinAnswer{}, refuse("node id %s is in use by a live node at %s: choose another id, or stop that node first", req.Node, rec.Address)
	}
	if err := n.dialsBack(ctx, req.Address); err != nil {
		return joinAnswer{}, refuse("the leader cannot reach node %s at %s (%v): set its advertised address to one that other nodes can dial, and open the port", req.Node, req.Address, err)
	}
	if req.Role == Coordinator && req.Free < minFree {
		return joinAnswer{}, refuse("node %s has %d MiB free in its data directory: a coordinator needs %d", req.Node, req.Free>>20, minFree>>20)
	}
	// Nothing can be remembered of a member that comes back with an empty disk, least of all a vote.
	if err := r.forgetServer(ctx, req.Node); err != nil {
		return joinAnswer{}, notProposed("removing the former node %s: %v", req.Node, err)
	}
	if err := n.propose(ctx, use); err != nil {
		return joinAnswer{}, refusal("using the token", err)
	}
	err = n.propose(ctx, fsm.RegisterNode{Node: fsm.Node{
		ID: req.Node, Role: fsmRole(req.Role), State: fsm.NodeJoining, Address: req.Address, Services: req.Services,
		DurableLog: req.Role == Coordinator, MinCluster: req.MinCluster, MaxCluster: req.MaxCluster, BinaryVersion: req.Version,
	}})
	if err != nil {
		return joinAnswer{}, refusal("registering", err)
	}
	cert, err := ca.issue(pub, member{self.ClusterID, req.Node, req.Role}, n.now())
	if err != nil {
		return joinAnswer{}, err
	}
	answer := joinAnswer{Authority: encodeCert(ca.cert.Raw), Certificate: cert, Peers: append(n.peerAddresses(r.engine), n.port.advertise)}
	if req.Role == Coordinator {
		if answer.AuthorityKey, err = encodeKey(ca.key); err != nil {
			return joinAnswer{}, err
		}
	}
	r.kickSoon()
	n.log.Info("node taken in", "peer", req.Node, "role", string(req.Role), "address", req.Address)
	return answer, nil
}

// checkToken says in words what UseToken will decide.
func checkToken(v *fsm.View, use fsm.UseToken) error {
	t, ok := v.Token(use.ID)
	const again = "create a new one with murderctl cluster token create"
	used := false
	for _, id := range t.UsedBy {
		used = used || id == use.NodeID
	}
	switch {
	case !ok:
		return refuse("the token is not known here, or was revoked: %s", again)
	case t.SecretHash != use.SecretHash:
		return refuse("the token's secret is wrong: copy the whole line, or %s", again)
	case t.ExpiresUnix <= use.Now:
		return refuse("the token expired at %s: %s", time.Unix(t.ExpiresUnix, 0).UTC().Format(time.RFC3339), again)
	case t.Role != use.Role:
		return refuse("the token is for a %s, not for a %s: create one for that role", t.Role, use.Role)
	case t.UsesLeft == 0 && !used:
		return refuse("the token is used up: %s", again)
	}
	return nil
}

// refusal keeps what is known about an outcome and makes the rest a definite no.
func refusal(doing string, err error) error {
	var r *RefusedError
	if errors.As(err, &r) {
		return refuse("%s: %v", doing, r)
	}
	return notProposed("%s: %v", doing, err)
}

// answers reports whether a member is alive: it takes a connection and proves who it is.
func (n *Node) answers(ctx context.Context, id, addr string) bool {
	if id == n.cfg.NodeID {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, dialBack)
	defer cancel()
	conn, err := n.port.dial(ctx, addr, alpnRPC, id)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

func (n *Node) dialsBack(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, dialBack)
	defer cancel()
	conn, err := n.port.dialTCP(ctx, addr)
	if err != nil {
		return err
	}
	return conn.Close()
}

// forgetServer takes a node out of raft's configuration.
func (r *reign) forgetServer(ctx context.Context, id string) error {
	for _, s := range serversOf(r.engine.raft) {
		if string(s.ID) == id {
			err := await(ctx, r.engine.raft.RemoveServer(s.ID, 0, raftCallLimit))
			r.node.acks.drop(s.ID)
			return err
		}
	}
	return nil
}
