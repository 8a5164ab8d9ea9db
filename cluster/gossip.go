package cluster

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"murder/fsm"
)

// Gossip is a hint about who is alive, and never more: membership is raft's configuration and the
// registry, and losing all gossip changes nothing but a gauge and a column of the status.

const (
	gossipKeyFile  = "gossip-key"
	gossipKeyLen   = 32 // AES-256
	gossipService  = "gossip"
	gossipInterval = 10 * time.Second
	gossipLeave    = 500 * time.Millisecond
)

type gossip struct {
	node    *Node
	list    *memberlist.Memberlist
	ring    *memberlist.Keyring
	address string // advertised

	mu     sync.Mutex
	states map[string]string // alive, left
}

// startGossip opens the gossip port if this node has one configured and holds the key.
func (n *Node) startGossip(ctx context.Context, e *engine) error {
	if n.cfg.GossipListen == "" || n.gossip.Load() != nil {
		return nil
	}
	key, err := n.gossipKey(ctx)
	if err != nil {
		return err
	}
	g, err := newGossip(n, e, key)
	if err != nil {
		return err
	}
	n.gossip.Store(g)
	n.wg.Go(g.keepJoined)
	return nil
}

func newGossip(n *Node, e *engine, key []byte) (*gossip, error) {
	host, port, err := splitPort(n.cfg.GossipListen)
	if err != nil {
		return nil, fmt.Errorf("gossip address: %w", err)
	}
	g := &gossip{node: n, states: make(map[string]string)}
	c := memberlist.DefaultLANConfig()
	if n.cfg.Timing == "wan" {
		c = memberlist.DefaultWANConfig()
	}
	c.Name, c.Label = n.cfg.NodeID, e.identity.ClusterID
	c.BindAddr, c.BindPort = host, port
	// What others shall dial is known by the host of the cluster port.
	advHost, _, err := net.SplitHostPort(n.port.advertise)
	if err != nil {
		return nil, err
	}
	if ip, err := net.ResolveIPAddr("ip", advHost); err == nil {
		c.AdvertiseAddr = ip.String()
	}
	c.AdvertisePort = port
	c.SecretKey = key
	c.GossipVerifyIncoming, c.GossipVerifyOutgoing = true, true
	c.RequireNodeNames = true
	c.Events, c.Alive, c.Delegate = g, g, g
	c.Logger = log.New(gossipLog{n}, "", 0)
	if n.cfg.hooks.gossip != nil {
		n.cfg.hooks.gossip(c)
	}
	if g.list, err = memberlist.Create(c); err != nil {
		return nil, fmt.Errorf("opening the gossip port: %w", err)
	}
	g.ring = c.Keyring
	local := g.list.LocalNode()
	g.address = net.JoinHostPort(advHost, strconv.Itoa(int(local.Port)))
	return g, nil
}

func splitPort(addr string) (string, int, error) {
	host, text, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, err
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("port %q: %w", text, err)
	}
	if host == "" {
		host = "0.0.0.0"
	}
	return host, int(port), nil
}

// keepJoined finds the others by the addresses in the registry.
func (g *gossip) keepJoined() {
	defer g.close()
	t := time.NewTicker(gossipInterval)
	defer t.Stop()
	for {
		var missing []string
		g.node.State().Nodes(func(rec fsm.Node) bool {
			if addr := rec.Services[gossipService]; addr != "" && rec.ID != g.node.cfg.NodeID && g.state(rec.ID) != "alive" {
				missing = append(missing, rec.ID+"/"+addr)
			}
			return true
		})
		if len(missing) > 0 {
			g.list.Join(missing) // who does not answer is tried again
		}
		select {
		case <-t.C:
		case <-g.node.ctx.Done():
			return
		}
	}
}

func (g *gossip) close() {
	if g.node.draining.Load() {
		g.list.Leave(gossipLeave)
	}
	g.list.Shutdown()
}

func (g *gossip) state(node string) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.states[node]
}

// alive counts the members that gossip believes to be alive, this node included.
func (g *gossip) alive() int { return g.list.NumMembers() }

// gone counts those that are registered and were alive once.
func (g *gossip) gone() (count int) {
	for rec := range g.node.State().Nodes {
		if g.state(rec.ID) == "gone" {
			count++
		}
	}
	return count
}

func (g *gossip) note(node, state string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.states[node] = state
}

// memberlist.EventDelegate.
func (g *gossip) NotifyJoin(m *memberlist.Node)   { g.note(m.Name, "alive") }
func (g *gossip) NotifyUpdate(m *memberlist.Node) { g.note(m.Name, "alive") }
func (g *gossip) NotifyLeave(m *memberlist.Node)  { g.note(m.Name, "gone") }

// NotifyAlive implements memberlist.AliveDelegate: who is not registered is no member.
func (g *gossip) NotifyAlive(m *memberlist.Node) error {
	if _, ok := g.node.State().Node(m.Name); !ok && g.node.synced.Load() && m.Name != g.node.cfg.NodeID {
		return fmt.Errorf("node %s is not registered", m.Name)
	}
	return nil
}

// memberlist.Delegate: a word about this node, at most 512 octets, and nothing else.
func (g *gossip) NodeMeta(limit int) []byte {
	data, err := json.Marshal(struct {
		Role string `json:"r"`
		Min  uint32 `json:"min"`
		Max  uint32 `json:"max"`
	}{string(g.node.cfg.Role.member()), minCluster, maxCluster})
	if err != nil || len(data) > limit {
		return nil
	}
	return data
}
func (g *gossip) NotifyMsg([]byte)                {}
func (g *gossip) GetBroadcasts(_, _ int) [][]byte { return nil }
func (g *gossip) LocalState(bool) []byte          { return nil }
func (g *gossip) MergeRemoteState([]byte, bool)   {}

// gossipLog passes on what the library logs, at debug level but for errors.
type gossipLog struct{ node *Node }

func (l gossipLog) Write(p []byte) (int, error) {
	line := strings.TrimSpace(string(p))
	if strings.Contains(line, "[ERR]") && l.node.ctx.Err() == nil {
		l.node.log.Warn("gossip", "detail", line)
	} else {
		l.node.log.Debug("gossip", "detail", line)
	}
	return len(p), nil
}

func newGossipKey() []byte {
	key := make([]byte, gossipKeyLen)
	rand.Read(key) // never fails
	return key
}

type gossipKeyAnswer struct {
	Key []byte `json:"key"`
}

// gossipKey reads the cluster's key, or gets it from the leader. It is never typed by hand.
func (n *Node) gossipKey(ctx context.Context) ([]byte, error) {
	key, err := n.readGossipKey()
	if err != nil || key != nil {
		return key, err
	}
	if n.reign.Load() != nil {
		key = newGossipKey() // of a cluster that has none yet
	} else {
		var a gossipKeyAnswer
		l, err := n.leaderLink(ctx)
		if err == nil {
			err = l.call(ctx, "gossip-key", struct{}{}, &a)
		}
		if err != nil {
			return nil, err
		}
		key = a.Key
	}
	return key, writeFile(filepath.Join(n.cfg.DataDir, gossipKeyFile), key, 0o600)
}

// readGossipKey returns nil and no error if this node has no key yet.
func (n *Node) readGossipKey() ([]byte, error) {
	key, err := os.ReadFile(filepath.Join(n.cfg.DataDir, gossipKeyFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("reading the gossip key: %w", err)
	case len(key) != gossipKeyLen || bytes.Equal(key, make([]byte, gossipKeyLen)):
		return nil, fmt.Errorf("gossip key in %s is damaged: remove the file and start the node again", filepath.Join(n.cfg.DataDir, gossipKeyFile))
	}
	return key, nil
}
