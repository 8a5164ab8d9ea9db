// Package dialogue writes down what two programs say to each other: a TCP relay that keeps the
// lines of both directions.
package dialogue

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
)

// maxKept bounds the octets that a Relay keeps; later ones still pass.
const maxKept = 64 << 20

// Line is one line of one side, without its end.
type Line struct {
	Conn   int  // connections count from 1
	Client bool // said by the one that connected
	Text   string
}

func (l Line) String() string {
	who := "S"
	if l.Client {
		who = "C"
	}
	return fmt.Sprintf("#%d %s: %q", l.Conn, who, l.Text)
}

// Fate is what becomes of a line, and with it of its connection.
type Fate uint8

const (
	Pass Fate = iota
	// CutBefore ends the connection, and the line is lost.
	CutBefore
	// CutAfter lets the line through and ends the connection: nothing that is said in reply arrives.
	CutAfter
)

// Relay leads connections to a server and keeps the lines. It is safe for concurrent use.
type Relay struct {
	listener net.Listener

	mu     sync.Mutex
	target string
	fate   func(Line) Fate
	lines  []Line
	kept   int
	conns  map[net.Conn]bool
	cut    map[int]bool // connections that end
	count  int
	wg     sync.WaitGroup
}

// Listen starts a relay on addr ("127.0.0.1:0") that leads to target.
func Listen(addr, target string) (*Relay, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	r := &Relay{listener: l, target: target, conns: map[net.Conn]bool{}, cut: map[int]bool{}}
	r.wg.Add(1)
	go r.accept()
	return r, nil
}

// Addr is where the relay listens.
func (r *Relay) Addr() string { return r.listener.Addr().String() }

// Lead leads later connections to another server.
func (r *Relay) Lead(target string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.target = target
}

// Decide asks fate about every line before it passes; nil lets all pass again. A line waits for the
// answer, and with it all that follows in its direction, so fate can make something happen at just
// this moment. Lines of several directions are asked about at once.
func (r *Relay) Decide(fate func(Line) Fate) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fate = fate
}

// Take returns what has been said since the last Take, in the order of its arrival.
func (r *Relay) Take() []Line {
	r.mu.Lock()
	defer r.mu.Unlock()
	lines := r.lines
	r.lines, r.kept = nil, 0
	return lines
}

// Close ends the relay and its connections.
func (r *Relay) Close() {
	r.listener.Close()
	r.mu.Lock()
	for c := range r.conns {
		c.Close()
	}
	r.conns = nil
	r.mu.Unlock()
	r.wg.Wait()
}

func (r *Relay) accept() {
	defer r.wg.Done()
	for {
		client, err := r.listener.Accept()
		if err != nil {
			return
		}
		r.mu.Lock()
		target := r.target
		r.mu.Unlock()
		server, err := net.Dial("tcp", target)
		if err != nil {
			client.Close()
			continue
		}
		r.mu.Lock()
		if r.conns == nil {
			r.mu.Unlock()
			client.Close()
			server.Close()
			return
		}
		r.count++
		n := r.count
		r.conns[client], r.conns[server] = true, true
		r.mu.Unlock()
		r.wg.Add(2)
		go r.pump(n, true, server, client)
		go r.pump(n, false, client, server)
	}
}

func (r *Relay) pump(conn int, fromClient bool, dst, src net.Conn) {
	defer r.wg.Done()
	io.Copy(dst, io.TeeReader(src, &splitter{relay: r, conn: conn, client: fromClient}))
	dst.Close()
	src.Close()
	r.mu.Lock()
	delete(r.conns, dst)
	delete(r.conns, src)
	r.mu.Unlock()
}

// splitter cuts one direction into lines.
type splitter struct {
	relay  *Relay
	conn   int
	client bool
	rest   []byte
}

// errCut ends the copying of a direction.
var errCut = errors.New("cut")

// Write takes what has come before it goes on. With an error only the first n octets go on.
func (s *splitter) Write(p []byte) (n int, err error) {
	before := len(s.rest)
	s.rest = append(s.rest, p...)
	for {
		line, rest, ok := bytes.Cut(s.rest, []byte("\n"))
		if !ok {
			break
		}
		switch s.relay.keep(Line{s.conn, s.client, strings.TrimSuffix(string(line), "\r")}) {
		case CutBefore:
			return n, errCut
		case CutAfter:
			return n + len(line) + 1 - before, errCut
		}
		n += len(line) + 1 - before
		before = 0
		s.rest = rest
	}
	if len(s.rest) > 1<<20 { // no line protocol
		s.rest = nil
	}
	return len(p), nil
}

func (r *Relay) keep(l Line) Fate {
	fate := r.decide(l)
	if fate != Pass {
		r.mu.Lock()
		r.cut[l.Conn] = true
		r.mu.Unlock()
	}
	return fate
}

func (r *Relay) decide(l Line) Fate {
	r.mu.Lock()
	if r.cut[l.Conn] {
		r.mu.Unlock()
		return CutBefore
	}
	if r.kept < maxKept {
		r.lines = append(r.lines, l)
		r.kept += len(l.Text)
	}
	fate := r.fate
	r.mu.Unlock()
	if fate == nil {
		return Pass
	}
	return fate(l)
}
