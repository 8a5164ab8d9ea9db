package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

const (
	handshakeTimeout = 3 * time.Second
	maxHandshakes    = 64   // at the same time; more wait in the kernel's queue
	maxConnections   = 2048 // on the cluster port
)

// port is the one TCP port between nodes. ALPN tells its protocols apart.
type port struct {
	ln        net.Listener
	advertise string
	log       *slog.Logger
	hooks     *hooks

	keys  atomic.Pointer[keys] // nil until the node is a member
	epoch atomic.Uint64
	boot  *tls.Config // for nodes without certificates that bootstrap; nil if that is not wanted
	// admit may refuse a member by the registry; the error is a sentence for its operator. Raft connections
	// are exempt: this node's registry may be behind, and the leader that would bring it up to date may be
	// new to it.
	admit func(m member) error
	// meet is told the epoch of a member that opens a raft connection.
	meet func(epoch uint64, node string)
	// serve is called, each time on a goroutine of its own, for what is not raft. For a refused peer
	// the reason is set; serve may tell it.
	serve func(ctx context.Context, conn *tls.Conn, m member, refused error)

	mu    sync.Mutex
	conns map[*tls.Conn]struct{} // accepted, and of raft also dialled

	raftConns chan net.Conn
	ctx       context.Context
	cancel    context.CancelFunc
	wg        sync.WaitGroup
}

func listen(c *Config) (*port, error) {
	ln, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return nil, fmt.Errorf("opening the cluster port: %w", err)
	}
	adv, err := c.advertised(ln.Addr())
	if err != nil {
		ln.Close()
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &port{
		ln: ln, advertise: adv, log: c.Logger, hooks: &c.hooks,
		conns: make(map[*tls.Conn]struct{}), raftConns: make(chan net.Conn), ctx: ctx, cancel: cancel,
	}, nil
}

// start accepts connections. Before keys are set every handshake fails.
func (p *port) start() {
	p.wg.Go(p.acceptLoop)
}

func (p *port) close() {
	p.cancel()
	p.ln.Close()
	p.sever()
	p.wg.Wait()
}

func (p *port) acceptLoop() {
	handshakes := make(chan struct{}, maxHandshakes)
	connections := make(chan struct{}, maxConnections)
	for {
		select {
		case handshakes <- struct{}{}:
		case <-p.ctx.Done():
			return
		}
		raw, err := p.ln.Accept()
		if err != nil {
			if p.ctx.Err() != nil {
				return
			}
			<-handshakes
			p.log.Warn("cluster port: accepting failed", "err", err)
			select { // out of file descriptors, most likely
			case <-time.After(100 * time.Millisecond):
			case <-p.ctx.Done():
			}
			continue
		}
		select {
		case connections <- struct{}{}:
		default:
			raw.Close()
			<-handshakes
			continue
		}
		p.wg.Go(func() {
			defer func() { <-connections }()
			conn, m, refused, err := p.handshake(raw)
			<-handshakes
			if err != nil {
				raw.Close()
				p.log.Debug("cluster port: handshake failed", "peer", raw.RemoteAddr().String(), "err", err)
				return
			}
			p.dispatch(conn, m, refused)
		})
	}
}

// handshake returns the connection and who the peer is; refused says why it is not welcome.
func (p *port) handshake(raw net.Conn) (conn *tls.Conn, m member, refused, err error) {
	k := p.keys.Load()
	conn = tls.Server(raw, &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			switch {
			case p.boot != nil && len(h.SupportedProtos) == 1 && h.SupportedProtos[0] == alpnBoot:
				return p.boot, nil
			case k == nil:
				return nil, errors.New("this node is not a member of a cluster yet")
			}
			return k.serverConfig(h, p.epoch.Load()), nil
		},
	})
	ctx, cancel := context.WithTimeout(p.ctx, handshakeTimeout)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, m, nil, err
	}
	state := conn.ConnectionState()
	epoch, isRaft := raftEpoch(state.NegotiatedProtocol)
	switch {
	case state.NegotiatedProtocol == alpnJoin, state.NegotiatedProtocol == alpnBoot:
		return conn, m, nil, nil
	case isRaft, state.NegotiatedProtocol == alpnRPC:
	default:
		return nil, m, nil, errors.New("peer speaks no protocol of this port")
	}
	m, refused = k.verify(state.PeerCertificates)
	if refused == nil && isRaft && m.Role != Coordinator {
		// Only leaders open raft connections, and only coordinators lead.
		refused = fmt.Errorf("node %s is a %s and may not take part in elections", m.Node, m.Role)
	}
	if refused == nil && p.admit != nil && !isRaft {
		refused = p.admit(m)
	}
	if refused == nil && isRaft {
		p.meet(epoch, m.Node)
	}
	return conn, m, refused, nil
}

func (p *port) dispatch(conn *tls.Conn, m member, refused error) {
	if refused != nil {
		p.log.Warn("cluster port: peer refused", "peer", conn.RemoteAddr().String(), "node", m.Node, "err", refused)
	}
	if _, isRaft := raftEpoch(conn.ConnectionState().NegotiatedProtocol); isRaft {
		if refused != nil {
			conn.Close()
			return
		}
		select {
		case p.raftConns <- p.track(conn):
		case <-p.ctx.Done():
			conn.Close()
		}
		return
	}
	defer p.track(conn).Close()
	p.serve(p.ctx, conn, m, refused)
}

// trackedConn ends with the port: the raft library leaves its idle connections open when it stops.
type trackedConn struct {
	*tls.Conn
	port *port
}

func (p *port) track(conn *tls.Conn) *trackedConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[conn] = struct{}{}
	if p.ctx.Err() != nil {
		conn.NetConn().Close()
	}
	return &trackedConn{conn, p}
}

func (c *trackedConn) Close() error {
	c.port.mu.Lock()
	delete(c.port.conns, c.Conn)
	c.port.mu.Unlock()
	return c.Conn.Close()
}

// sever breaks all connections.
func (p *port) sever() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.NetConn().Close()
	}
}

// dial connects to another node as a member of the cluster; node is the id that must answer, "" for any.
func (p *port) dial(ctx context.Context, addr, alpn, node string) (*tls.Conn, error) {
	k := p.keys.Load()
	if k == nil {
		return nil, errors.New("this node is not a member of a cluster yet")
	}
	return p.dialTLS(ctx, addr, k.clientConfig(alpn, node))
}

func (p *port) dialTLS(ctx context.Context, addr string, c *tls.Config) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	raw, err := p.dialTCP(ctx, addr)
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", addr, err)
	}
	conn := tls.Client(raw, c)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, fmt.Errorf("connecting to %s: %w", addr, err)
	}
	return conn, nil
}

func (p *port) dialTCP(ctx context.Context, addr string) (net.Conn, error) {
	if p.hooks.dial != nil {
		return p.hooks.dial(ctx, addr)
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", addr)
}

// raftStream is the part of the port that raft uses.
type raftStream struct {
	port *port
	// nodeAt returns the id of the member at an address, "" if unknown.
	nodeAt func(addr string) string
	once   sync.Once
	done   chan struct{}
}

func newRaftStream(p *port, nodeAt func(string) string) *raftStream {
	return &raftStream{port: p, nodeAt: nodeAt, done: make(chan struct{})}
}

func (s *raftStream) Dial(addr raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(s.port.ctx, timeout)
	defer cancel()
	conn, err := s.port.dial(ctx, string(addr), raftProtocol(s.port.epoch.Load()), s.nodeAt(string(addr)))
	if err != nil {
		return nil, err
	}
	return s.port.track(conn), nil
}

func (s *raftStream) Accept() (net.Conn, error) {
	select {
	case conn := <-s.port.raftConns:
		return conn, nil
	case <-s.done:
	case <-s.port.ctx.Done():
	}
	return nil, net.ErrClosed
}

func (s *raftStream) Close() error {
	s.once.Do(func() { close(s.done) })
	return nil
}

func (s *raftStream) Addr() net.Addr { return advertisedAddr(s.port.advertise) }

// advertisedAddr is a host and port that need not be resolved.
type advertisedAddr string

func (advertisedAddr) Network() string  { return "tcp" }
func (a advertisedAddr) String() string { return string(a) }
