package cluster

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"sync"
	"time"

	"murder/cluster/admin"
)

// Bootstrap lets nodes that are all configured alike make a cluster or join the one that is there, for
// automation that cannot carry tokens around. It is ignored by a node that is a member.
//
// Every node asks all the coordinators. Where one is a member it hands out a token, and the node joins as
// with any other. Only when every coordinator says that it has no cluster and expects the same set, the one
// with the smallest id begins; who cannot be reached could be a member, so a missing answer means to wait.
// Frontends and agents never begin.
//
// Both ends prove that they know the secret, for this connection: nobody in between can pass it on, and the
// secret itself never travels.
type Bootstrap struct {
	Expect int      // how many coordinators; 0 if this is not wanted
	Peers  []string // the cluster addresses of all of them
	Secret []byte   // of all nodes
}

// alpnBoot is the protocol of nodes that have no certificates yet.
const alpnBoot = "murder-boot/1"

const (
	bootAskLimit   = 3 * time.Second
	bootPause      = 500 * time.Millisecond
	bootJoinPause  = 5 * time.Second // after a join that was refused
	bootToken      = time.Minute
	minBootSecret  = 16 // octets
	maxBootMessage = 16 << 10
)

func (b *Bootstrap) check(role Role, own string) error {
	switch {
	case b.Expect == 0 && len(b.Peers) == 0:
		return nil
	case len(b.Secret) < minBootSecret:
		return fmt.Errorf("bootstrap secret: %d octets are too few, want at least %d", len(b.Secret), minBootSecret)
	case b.Expect != len(b.Peers):
		return fmt.Errorf("bootstrap_expect is %d and bootstrap_peers names %d coordinators: name them all, this one too", b.Expect, len(b.Peers))
	case role.member() == Coordinator && !slices.Contains(b.Peers, own):
		return fmt.Errorf("bootstrap_peers (%s) does not name this coordinator's own address %s", strings.Join(b.Peers, ", "), own)
	}
	return nil
}

// bootQuestion is what a node without a cluster says about itself, bootReply what it hears.
type bootQuestion struct {
	Node    string   `json:"node"`
	Role    Role     `json:"role"`
	Address string   `json:"address"`
	Peers   []string `json:"peers"`
}

type bootReply struct {
	Node   string   `json:"node"`
	Member bool     `json:"member"`
	Token  string   `json:"token,omitempty"` // of a member that can give one
	Peers  []string `json:"peers"`           // whom a node without a cluster expects
}

// bootstrapUntilMember works until this node is a member.
func (n *Node) bootstrapUntilMember() {
	b := &n.cfg.Bootstrap
	if b.Expect == 0 {
		return
	}
	for n.engine.Load() == nil {
		pause := bootPause
		act, why := n.bootstrapOnce(n.ctx)
		if act != nil {
			if err := act(n.ctx); err != nil {
				why, pause = err.Error(), bootJoinPause
			}
		}
		if old := n.waiting.Swap(&why); why != "" && n.engine.Load() == nil && (old == nil || *old != why) {
			n.log.Info("no cluster yet", "detail", why)
		}
		select {
		case <-time.After(pause):
		case <-n.ctx.Done():
			return
		}
	}
	n.waiting.Store(nil)
}

// bootstrapOnce asks everybody and returns what to do, or why there is nothing to be done yet.
func (n *Node) bootstrapOnce(ctx context.Context) (act func(context.Context) error, why string) {
	replies, silent := n.askBoot(ctx)
	for _, r := range replies {
		if r.Token != "" {
			return func(ctx context.Context) error {
				ctx, cancel := context.WithTimeout(ctx, 2*joinLimit)
				defer cancel()
				return n.Join(ctx, r.Token)
			}, "joining"
		}
	}
	return n.mayBegin(replies, silent)
}

// mayBegin decides whether this node begins the cluster.
func (n *Node) mayBegin(replies []bootReply, silent []string) (act func(context.Context) error, why string) {
	first := n.cfg.NodeID
	ids := []string{first}
	for _, r := range replies {
		switch {
		case r.Member:
			return nil, fmt.Sprintf("node %s has a cluster, but no leader to take this node in", r.Node)
		case !sameSet(r.Peers, n.cfg.Bootstrap.Peers):
			return nil, fmt.Sprintf("node %s expects the coordinators %s, this node %s: give both the same bootstrap_peers",
				r.Node, strings.Join(r.Peers, ", "), strings.Join(n.cfg.Bootstrap.Peers, ", "))
		case slices.Contains(ids, r.Node):
			return nil, fmt.Sprintf("two coordinators have the id %s: give each its own", r.Node)
		}
		ids = append(ids, r.Node)
		first = min(first, r.Node)
	}
	switch {
	case len(silent) > 0:
		return nil, "waiting for " + strings.Join(silent, ", ")
	case n.cfg.Role.member() != Coordinator:
		return nil, "waiting for the coordinators to make a cluster"
	case first != n.cfg.NodeID:
		return nil, fmt.Sprintf("waiting for node %s to make the cluster", first)
	}
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, joinLimit)
		defer cancel()
		_, err := n.Init(ctx, admin.InitRequest{})
		return err
	}, "making the cluster"
}

func sameSet(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}

// askBoot asks all other coordinators at the same time; silent says of each that gave no answer why.
func (n *Node) askBoot(ctx context.Context) (replies []bootReply, silent []string) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, addr := range n.cfg.Bootstrap.Peers {
		if addr == n.port.advertise {
			continue
		}
		wg.Go(func() {
			r, err := n.askBootOne(ctx, addr)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				silent = append(silent, fmt.Sprintf("%s (%v)", addr, err))
				return
			}
			replies = append(replies, r)
		})
	}
	wg.Wait()
	slices.Sort(silent)
	slices.SortFunc(replies, func(a, b bootReply) int { return strings.Compare(a.Node, b.Node) })
	return replies, silent
}

func (n *Node) askBootOne(ctx context.Context, addr string) (r bootReply, err error) {
	ctx, cancel := context.WithTimeout(ctx, bootAskLimit)
	defer cancel()
	conn, err := n.port.dialTLS(ctx, addr, bootClientConfig())
	if err != nil {
		return r, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.NetConn().Close() })
	defer stop()
	q := bootQuestion{Node: n.cfg.NodeID, Role: n.cfg.Role.member(), Address: n.port.advertise, Peers: n.cfg.Bootstrap.Peers}
	if err := n.sendBoot(conn, "question", q); err != nil {
		return r, err
	}
	if err := n.receiveBoot(conn, "reply", &r); err != nil {
		return r, fmt.Errorf("%w: does it have the same bootstrap secret?", err)
	}
	return r, nil
}

// bootClientConfig takes any certificate: both ends prove over the connection that they know the secret.
func bootClientConfig() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{alpnBoot}, InsecureSkipVerify: true}
}

// serveBoot answers a node that has no cluster.
func (n *Node) serveBoot(ctx context.Context, conn *tls.Conn) {
	select {
	case n.joins <- struct{}{}:
		defer func() { <-n.joins }()
	default:
		return // it asks again
	}
	ctx, cancel := context.WithTimeout(ctx, bootAskLimit)
	defer cancel()
	conn.SetDeadline(time.Now().Add(bootAskLimit))
	var q bootQuestion
	if err := n.receiveBoot(conn, "question", &q); err != nil {
		n.log.Warn("bootstrap question refused", "peer", conn.RemoteAddr().String(), "err", err)
		return
	}
	r := bootReply{Node: n.cfg.NodeID, Peers: n.cfg.Bootstrap.Peers, Member: n.engine.Load() != nil}
	if r.Member && (q.Role != Coordinator || slices.Contains(r.Peers, q.Address)) {
		asking, cancel := context.WithTimeout(ctx, bootAskLimit/3) // without a leader the reply must still get there
		defer cancel()
		t, err := n.CreateToken(asking, admin.TokenRequest{Role: string(q.Role), Lifetime: bootToken})
		if err != nil {
			n.log.Info("no token for a node that would join", "joining", q.Node, "err", err)
		}
		r.Token = t.Token
	}
	n.sendBoot(conn, "reply", r)
}

// A message is the proof (32 octets), then JSON.

func (n *Node) bootProof(conn *tls.Conn, what string, body []byte) ([]byte, error) {
	state := conn.ConnectionState()
	binding, err := state.ExportKeyingMaterial(alpnBoot+" "+what, nil, sha256.Size)
	if err != nil {
		return nil, err
	}
	mac := hmac.New(sha256.New, n.cfg.Bootstrap.Secret)
	mac.Write(binding)
	mac.Write(body)
	return mac.Sum(nil), nil
}

func (n *Node) sendBoot(conn *tls.Conn, what string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	proof, err := n.bootProof(conn, what, body)
	if err != nil {
		return err
	}
	_, err = conn.Write(appendFrame(nil, frameCall, 0, func(dst []byte) []byte { return append(append(dst, proof...), body...) }))
	return err
}

func (n *Node) receiveBoot(conn *tls.Conn, what string, v any) error {
	f, err := readFrame(conn)
	switch {
	case err != nil:
		return err
	case f.kind != frameCall || len(f.payload) < sha256.Size || len(f.payload) > maxBootMessage:
		return errShort
	}
	proof, body := f.payload[:sha256.Size], f.payload[sha256.Size:]
	want, err := n.bootProof(conn, what, body)
	if err != nil {
		return err
	}
	if !hmac.Equal(proof, want) {
		return errors.New("it has another bootstrap secret")
	}
	return json.NewDecoder(bytes.NewReader(body)).Decode(v)
}

// bootServerConfig is for connections on which only the secret counts: the certificate is worth nothing.
func bootServerConfig(now time.Time) (*tls.Config, error) {
	key, _, err := newNodeKey()
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(10, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{alpnBoot}, SessionTicketsDisabled: true,
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
	}, nil
}
