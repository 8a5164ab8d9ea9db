package cluster

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"murder/fsm"
)

const maxCalls = 32 // at the same time on one connection

// serve answers what other nodes ask on the cluster port, but for raft.
func (n *Node) serve(ctx context.Context, conn *tls.Conn, peer member, refused error) {
	switch conn.ConnectionState().NegotiatedProtocol {
	case alpnJoin:
		n.serveJoin(ctx, conn)
		return
	case alpnBoot:
		n.serveBoot(ctx, conn)
		return
	}
	if refused != nil {
		conn.SetWriteDeadline(time.Now().Add(handshakeTimeout))
		conn.Write(appendFrame(nil, frameRefused, 0, func(dst []byte) []byte {
			return append(binary.AppendUvarint(dst, n.port.epoch.Load()), refused.Error()...)
		}))
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &server{node: n, peer: peer, framed: newFramed(conn, n.timing.silence), calls: make(chan struct{}, maxCalls)}
	defer s.wg.Wait()
	defer cancel()
	defer s.writer.Wait()
	s.wg.Go(s.beatLoop)
	err := s.readLoop(ctx)
	s.close(err)
	n.log.Debug("link ended", "node", peer.Node, "err", err)
}

// server is the serving end of a link.
type server struct {
	*framed
	node  *Node
	peer  member
	calls chan struct{}
	wg    sync.WaitGroup
}

func (s *server) beatLoop() {
	data, _ := json.Marshal(hello{Node: s.node.cfg.NodeID, Wire: s.node.cfg.hooks.wire, Epoch: s.node.port.epoch.Load()})
	s.send(frameHello, 0, func(dst []byte) []byte { return append(dst, data...) })
	t := time.NewTicker(beatInterval)
	defer t.Stop()
	for {
		s.send(frameBeat, 0, s.node.beat().append)
		select {
		case <-t.C:
		case <-s.done:
			return
		}
	}
}

func (s *server) readLoop(ctx context.Context) error {
	for {
		f, err := s.receive()
		if err != nil {
			return err
		}
		switch f.kind {
		case framePosition:
			b, err := decodeBeat(f.payload)
			if err != nil {
				return err
			}
			if r := s.node.reign.Load(); r != nil {
				r.heard(s.peer.Node, b)
			}
		case framePropose:
			s.propose(f)
		case frameReadIndex:
			s.readIndex(f)
		case frameConfirm:
			s.confirm(f)
		case frameCall:
			s.calls <- struct{}{}
			s.wg.Go(func() {
				s.answer(ctx, f)
				<-s.calls
			})
		default:
			if f.id != 0 { // nobody waits for an answer otherwise
				s.failed(f.id, unsupported("node %s runs version %s, which does not know requests of kind %d: upgrade it first", s.node.cfg.NodeID, s.node.cfg.BinaryVersion, f.kind))
			}
		}
	}
}

func (s *server) failed(id uint64, err error) {
	class := classOf(err)
	s.send(frameFailed, id, func(dst []byte) []byte {
		return append(append(dst, class), err.Error()...)
	})
}

// propose puts what another node forwards into this leader's queue. A node that does not lead says
// so; it never forwards what was forwarded.
func (s *server) propose(f frame) {
	r := s.node.reign.Load()
	if r == nil {
		s.failed(f.id, s.node.notLeading())
		return
	}
	u, err := decodeUnit(f.payload, s.peer)
	if err == nil {
		err = s.node.admit(s.peer) // it may have been removed since it connected
	}
	if err == nil {
		u.done = func(results []fsm.Result, index uint64, err error) {
			if err != nil {
				s.failed(f.id, err)
				return
			}
			s.send(frameResults, f.id, func(dst []byte) []byte { return appendResults(dst, index, results) })
		}
		err = r.batcher.submit(u)
	}
	if err != nil {
		s.failed(f.id, err)
	}
}

func (s *server) readIndex(f frame) {
	r := s.node.reign.Load()
	if r == nil {
		s.failed(f.id, s.node.notLeading())
		return
	}
	err := r.reader.read(pendingRead{from: s.peer.Node, done: func(index uint64, err error) {
		if err != nil {
			s.failed(f.id, err)
			return
		}
		s.send(frameIndex, f.id, func(dst []byte) []byte { return binary.AppendUvarint(dst, index) })
	}})
	if err != nil {
		s.failed(f.id, err)
	}
}

func (s *server) answer(ctx context.Context, f frame) {
	d := decoder{buf: f.payload}
	method := string(d.bytes())
	if d.err != nil {
		s.failed(f.id, refuse("%v", d.err))
		return
	}
	out, err := s.node.handleCall(ctx, s.peer, method, d.buf)
	var data []byte
	if err == nil {
		data, err = json.Marshal(out)
	}
	if err != nil {
		var f2 *failure
		if !errors.As(err, &f2) {
			err = refuse("%v", err)
		}
		s.failed(f.id, err)
		return
	}
	s.send(frameAnswer, f.id, func(dst []byte) []byte { return append(dst, data...) })
}

// appendUnit is the payload of a propose frame.
func appendUnit(dst []byte, u *unit) []byte {
	dst = appendString(dst, u.flow)
	for _, c := range u.cmds {
		dst = append(dst, c...)
	}
	return dst
}

// decodeUnit reads a forwarded unit and checks that the peer may ask for what is in it. An entry that
// does not decode would stop every node, so nothing unchecked enters the log.
func decodeUnit(payload []byte, peer member) (*unit, error) {
	d := decoder{buf: payload}
	u := &unit{flow: peer.Node + "/" + string(d.bytes()), from: peer.Node}
	if d.err != nil {
		return nil, refuse("%v", d.err)
	}
	for rest := d.buf; len(rest) > 0; {
		e, after, err := fsm.DecodeEnvelope(rest)
		if err != nil {
			return nil, refuse("forwarded command: %v", err)
		}
		if err := mayPropose(peer, e.Command); err != nil {
			return nil, err
		}
		c := rest[:len(rest)-len(after)]
		u.cmds = append(u.cmds, c)
		u.size += len(c)
		rest = after
	}
	if len(u.cmds) == 0 || len(u.cmds) > maxUnit || u.size > fsm.MaxEntrySize/2 {
		return nil, refuse("unit of %d commands in %d octets", len(u.cmds), u.size)
	}
	return u, nil
}

// mayPropose keeps learners to what they need: writes of mail, and their own registration.
func mayPropose(peer member, c fsm.Command) error {
	switch c := c.(type) {
	case fsm.MailboxWrite, fsm.Empty:
		return nil
	case fsm.RegisterProposer:
		if c.NodeID == peer.Node {
			return nil
		}
	case fsm.RegisterNode:
		if c.Node.ID == peer.Node && roleOf(c.Node.Role) == peer.Role {
			return nil
		}
	case fsm.SetNodeState:
		if c.ID == peer.Node || peer.Role == Coordinator {
			return nil
		}
	case fsm.Resolve, fsm.PutToken, fsm.RevokeToken, fsm.RemoveNode, fsm.SetNodeAttribute, fsm.SetSetting, fsm.SetClusterVersion:
		if peer.Role == Coordinator {
			return nil
		}
	}
	return refuse("node %s is a %s and may not ask for this: run the command on a coordinator", peer.Node, peer.Role)
}

func roleOf(r fsm.Role) Role { return Role(r.String()) }

func fsmRole(r Role) fsm.Role {
	switch r.member() {
	case Coordinator:
		return fsm.RoleCoordinator
	case Frontend:
		return fsm.RoleFrontend
	}
	return fsm.RoleAgent
}
