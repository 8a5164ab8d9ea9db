package cluster

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// beatInterval is how often both ends of a link say where they are.
const beatInterval = time.Second

// hello is what a server says first.
type hello struct {
	Node string `json:"node"`
	Wire int    `json:"wire"` // highest version of the frames that the server speaks, see wire.go
	// Epoch is how often the server's cluster has been recovered.
	Epoch uint64 `json:"epoch,omitempty"`
}

// link is this node's connection to another: requests go out with an id, answers come back in any order.
type link struct {
	*framed
	node string
	wire int // version that is spoken on this link

	mu      sync.Mutex
	pending map[uint64]chan frame
	nextID  uint64
	broken  error

	last atomic.Pointer[beatAt]
	wg   sync.WaitGroup
}

type beatAt struct {
	beat
	at time.Time
}

// openLink reads the greeting, which tells the peer's epoch even where it refuses, and starts to listen.
// position is asked each second for what to tell.
func openLink(conn *tls.Conn, node string, wire int, silence time.Duration, position func() beat) (l *link, epoch uint64, err error) {
	l = &link{framed: newFramed(conn, silence), node: node, pending: make(map[uint64]chan frame)}
	conn.SetReadDeadline(time.Now().Add(handshakeTimeout))
	f, err := readFrame(l.in)
	switch {
	case err != nil:
		err = fmt.Errorf("greeting of node %s: %w", node, err)
	case f.kind == frameRefused:
		d := decoder{buf: f.payload}
		epoch = d.uvarint()
		err = refuse("node %s refuses this node: %s", node, d.buf)
	case f.kind != frameHello:
		err = fmt.Errorf("greeting of node %s: %w", node, errShort)
	default:
		var h hello
		if err = json.Unmarshal(f.payload, &h); err == nil {
			l.node, l.wire, epoch = h.Node, min(wire, h.Wire), h.Epoch
			if l.wire < minWire {
				err = unsupported("node %s speaks version %d of the cluster port and this node %d to %d: upgrade it by one release at a time", h.Node, h.Wire, minWire, wire)
			}
		}
	}
	if err != nil {
		l.framed.close(err)
		l.writer.Wait()
		return nil, epoch, err
	}
	l.wg.Go(l.readLoop)
	l.wg.Go(func() { l.positionLoop(position) })
	return l, epoch, nil
}

func (l *link) readLoop() {
	for {
		f, err := l.receive()
		if err != nil {
			l.fail(err)
			return
		}
		if f.kind == frameBeat {
			b, err := decodeBeat(f.payload)
			if err != nil {
				l.fail(err)
				return
			}
			l.last.Store(&beatAt{b, time.Now()})
			continue
		}
		l.mu.Lock()
		c := l.pending[f.id]
		delete(l.pending, f.id)
		l.mu.Unlock()
		if c != nil {
			c <- f
		}
	}
}

func (l *link) positionLoop(position func() beat) {
	t := time.NewTicker(beatInterval)
	defer t.Stop()
	for {
		l.send(framePosition, 0, position().append)
		select {
		case <-t.C:
		case <-l.done:
			return
		}
	}
}

// fail ends the link; requests that wait learn that their outcome is unknown.
func (l *link) fail(err error) {
	l.framed.close(err)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken != nil {
		return
	}
	l.broken = err
	for _, c := range l.pending {
		close(c)
	}
	l.pending = nil
}

func (l *link) close() {
	l.fail(errors.New("link closed"))
	l.wg.Wait()
	l.writer.Wait()
}

func (l *link) alive() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.broken == nil
}

// roundTrip sends a request and waits for its answer. A failure carries its class.
func (l *link) roundTrip(ctx context.Context, kind byte, body func([]byte) []byte) (frame, error) {
	if since := frameSince[kind]; since > l.wire {
		return frame{}, unsupported("node %s speaks version %d of the cluster port, and this needs %d: upgrade it first", l.node, l.wire, since)
	}
	c := make(chan frame, 1)
	l.mu.Lock()
	if l.broken != nil {
		l.mu.Unlock()
		return frame{}, notProposed("link to node %s: %v", l.node, l.broken)
	}
	l.nextID++
	id := l.nextID
	l.pending[id] = c
	l.mu.Unlock()
	if err := l.send(kind, id, body); err != nil {
		l.forget(id)
		return frame{}, notProposed("link to node %s: %v", l.node, err)
	}
	select {
	case f, ok := <-c:
		switch {
		case !ok:
			return frame{}, unknownOutcome("link to node %s broke: %v", l.node, l.broken)
		case f.kind == frameFailed:
			d := decoder{buf: f.payload}
			class := d.byte()
			return frame{}, &failure{class, string(d.buf)}
		}
		return f, nil
	case <-ctx.Done():
		l.forget(id)
		return frame{}, unknownOutcome("waiting for node %s: %v", l.node, ctx.Err())
	}
}

func (l *link) forget(id uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.pending, id)
}

// call asks another node something in JSON.
func (l *link) call(ctx context.Context, method string, in, out any) error {
	data, err := json.Marshal(in)
	if err != nil {
		return err
	}
	f, err := l.roundTrip(ctx, frameCall, func(dst []byte) []byte {
		return append(appendString(dst, method), data...)
	})
	if err != nil {
		return err
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(f.payload, out); err != nil {
		return fmt.Errorf("answer of node %s to %s: %w", l.node, method, err)
	}
	return nil
}

// linkSet holds at most one link to each node, opened when it is first needed.
type linkSet struct {
	open func(ctx context.Context, node, addr string) (*link, error)

	mu     sync.Mutex
	links  map[string]*link
	dials  map[string]chan struct{} // closed when a dial under way has ended
	closed bool
}

func newLinkSet(open func(context.Context, string, string) (*link, error)) *linkSet {
	return &linkSet{open: open, links: make(map[string]*link), dials: make(map[string]chan struct{})}
}

func (s *linkSet) get(ctx context.Context, node, addr string) (*link, error) {
	for {
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			return nil, notProposed("this node is stopping")
		}
		if l := s.links[node]; l != nil {
			if l.alive() {
				s.mu.Unlock()
				return l, nil
			}
			delete(s.links, node)
		}
		dialling := s.dials[node]
		if dialling == nil {
			dialling = make(chan struct{})
			s.dials[node] = dialling
			s.mu.Unlock()
			return s.dial(ctx, node, addr, dialling)
		}
		s.mu.Unlock()
		select {
		case <-dialling:
		case <-ctx.Done():
			return nil, notProposed("connecting to node %s: %v", node, ctx.Err())
		}
	}
}

func (s *linkSet) dial(ctx context.Context, node, addr string, dialling chan struct{}) (*link, error) {
	l, err := s.open(ctx, node, addr)
	s.mu.Lock()
	delete(s.dials, node)
	close(dialling)
	if err == nil && s.closed {
		s.mu.Unlock()
		l.close()
		return nil, notProposed("this node is stopping")
	}
	if err == nil {
		s.links[node] = l
	}
	s.mu.Unlock()
	var f *failure
	if err != nil && !errors.As(err, &f) {
		err = notProposed("%v", err)
	}
	return l, err
}

// drop closes the link to a node, if there is one: its pending requests are to be tried elsewhere.
func (s *linkSet) drop(node string) {
	s.mu.Lock()
	l := s.links[node]
	delete(s.links, node)
	s.mu.Unlock()
	if l != nil {
		l.close()
	}
}

// peek returns the link to a node if it is open.
func (s *linkSet) peek(node string) *link {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.links[node]
}

func (s *linkSet) close() {
	s.mu.Lock()
	s.closed = true
	links := s.links
	s.links = make(map[string]*link)
	s.mu.Unlock()
	for _, l := range links {
		l.close()
	}
}
