package cluster

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/raft"

	"murder/fsm"
)

// network is what lies between the nodes of a rig, and what is wrong with it.
type network struct {
	noHandOver atomic.Bool // nobody hears that it shall lead

	mu   sync.Mutex
	addr map[string]string  // address to node
	cut  map[string]bool    // nodes that are alone
	way  map[[2]string]bool // from one node to another
	no   map[[2]string]bool // the same, where a firewall says no
	mood mood               // of all links but these
	odd  map[[2]string]mood
	rnd  *rand.Rand

	echoes sync.WaitGroup
}

// mood is what happens to messages, each by chance. A message is a request of raft's, or a proposal on its way to
// the leader.
type mood struct {
	lost       float64       // does not arrive
	unanswered float64       // arrives, and its answer is lost
	twice      float64       // arrives a second time, at once
	echo       float64       // arrives again, behind what has been sent since
	delay      time.Duration // all that is sent takes up to so long
}

// echoWithin is how late an echo comes: later than an election.
const echoWithin = 600 * time.Millisecond

// fate is what happens to one message.
type fate struct {
	lost, unanswered, twice, echo bool
	echoAfter                     time.Duration
}

func newNetwork() *network {
	return &network{addr: make(map[string]string), cut: make(map[string]bool), way: make(map[[2]string]bool),
		no: make(map[[2]string]bool), odd: make(map[[2]string]mood), rnd: rand.New(rand.NewPCG(1, 2))}
}

func (w *network) reseed(seed uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rnd = rand.New(rand.NewPCG(seed, 0))
}

func (w *network) fate(from, to string) fate {
	w.mu.Lock()
	defer w.mu.Unlock()
	m, ok := w.odd[[2]string{from, to}]
	if !ok {
		m = w.mood
	}
	by := func(p float64) bool { return p > 0 && w.rnd.Float64() < p }
	return fate{by(m.lost), by(m.unanswered), by(m.twice), by(m.echo), time.Duration(w.rnd.Int64N(int64(echoWithin)))}
}

// lateness is how long something takes at the moment.
func (w *network) lateness() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mood.delay == 0 {
		return 0
	}
	return time.Duration(w.rnd.Int64N(int64(w.mood.delay)))
}

func (w *network) setMood(m mood) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mood = m
}

// closed reports whether one node cannot reach another.
func (w *network) closed(from, to string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cut[from] || w.cut[to] || w.way[[2]string{from, to}]
}

// refused reports whether something between two nodes refuses connections.
func (w *network) refused(from, to string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.no[[2]string{from, to}]
}

func (w *network) alone(node string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cut[node]
}

func (w *network) nodeAt(addr string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.addr[addr]
}

func (w *network) heal() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.cut)
	clear(w.way)
	clear(w.no)
	clear(w.odd)
	w.mood = mood{}
}

func (w *network) dial(ctx context.Context, from, addr string) (net.Conn, error) {
	to := w.nodeAt(addr)
	switch {
	case w.closed(from, to):
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: fmt.Errorf("cut between %s and %s", from, to)}
	case w.refused(from, to):
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &wire{conn, w, from, to}, nil
}

// wire is a connection that ends when it is used after a cut: sever may come while it is being made.
type wire struct {
	net.Conn
	net      *network
	from, to string
}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if w.net.closed(w.from, w.to) {
		w.Close()
		return 0, net.ErrClosed
	}
	return n, err
}

func (w *wire) Write(p []byte) (int, error) {
	time.Sleep(w.net.lateness())
	if w.net.closed(w.from, w.to) {
		w.Close()
		return 0, net.ErrClosed
	}
	return w.Conn.Write(p)
}

// carry sends a message, as far as the network lets it. again sends it once more, whatever the answer.
func (w *network) carry(from, to string, lost error, send func() error, again func()) error {
	f := w.fate(from, to)
	if f.lost {
		return lost
	}
	err := send()
	if f.twice {
		again()
	}
	if f.echo {
		w.echoes.Go(func() {
			time.Sleep(f.echoAfter)
			again()
		})
	}
	if f.unanswered && err == nil {
		return lost
	}
	return err
}

// courier carries the messages of one node's raft.
type courier struct {
	transport
	net  *network
	from string
}

var errNoAnswer = &net.OpError{Op: "read", Net: "tcp", Err: os.ErrDeadlineExceeded}

func carry[Q, A any](c *courier, id raft.ServerID, addr raft.ServerAddress, req *Q, resp *A,
	send func(raft.ServerID, raft.ServerAddress, *Q, *A) error) error {
	return c.net.carry(c.from, string(id), errNoAnswer,
		func() error { return send(id, addr, req, resp) },
		func() { send(id, addr, req, new(A)) })
}

func (c *courier) AppendEntries(id raft.ServerID, addr raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	return carry(c, id, addr, req, resp, c.transport.AppendEntries)
}

func (c *courier) RequestVote(id raft.ServerID, addr raft.ServerAddress, req *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	return carry(c, id, addr, req, resp, c.transport.RequestVote)
}

func (c *courier) RequestPreVote(id raft.ServerID, addr raft.ServerAddress, req *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	return carry(c, id, addr, req, resp, c.transport.RequestPreVote)
}

func (c *courier) TimeoutNow(id raft.ServerID, addr raft.ServerAddress, req *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	if c.net.noHandOver.Load() {
		return errNoAnswer
	}
	return carry(c, id, addr, req, resp, c.transport.TimeoutNow)
}

// InstallSnapshot can be sent once only: it is a stream.
func (c *courier) InstallSnapshot(id raft.ServerID, addr raft.ServerAddress, req *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	return c.net.carry(c.from, string(id), errNoAnswer,
		func() error { return c.transport.InstallSnapshot(id, addr, req, resp, data) }, func() {})
}

// proposals carries what a node proposes.
func (w *network) proposals(from string, next submitter) submitter {
	return func(ctx context.Context, u *unit) (results []fsm.Result, index uint64, err error) {
		copied := *u
		err = w.carry(from, "", unknownOutcome("answer lost by a test"),
			func() (err error) { results, index, err = next(ctx, u); return err },
			func() {
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()
				again := copied
				next(ctx, &again)
			})
		return results, index, err
	}
}
