package lmtp

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"murder/internal/auth"
)

// session is one client. Everything but Drain and Cut belongs to the goroutine of run.
type session struct {
	srv  *Server
	cfg  *Config
	id   string
	log  *slog.Logger
	sock net.Conn // what was accepted
	conn net.Conn // sock, or TLS on it
	in   *bufio.Reader
	out  []byte // replies not written yet
	line []byte

	peer    netip.AddrPort // invalid on a unix socket
	local   netip.AddrPort
	tls     *tls.ConnectionState
	trusted bool
	authc   string // who has authenticated
	lhlo    string // what the client calls itself; "" before LHLO
	tx      *transaction
	swift   bool // the last message came at once
	bad     int  // wrong commands in a row
	over    bool

	mu       sync.Mutex
	busy     bool // in a transaction
	draining bool
}

// greeting follows the host name. Frontends know one another by it.
const greeting = " LMTP murder ready"

// Reasons for the end of a session that the client is told.
var (
	errDraining = errors.New("shutting down")
	errLongLine = errors.New("line too long")
)

func newSession(s *Server, conn net.Conn, peer, local netip.AddrPort, opt ListenOptions) *session {
	ss := &session{
		srv: s, cfg: &s.cfg, id: rand.Text()[:16], sock: conn, conn: conn,
		in: bufio.NewReaderSize(conn, 16<<10), peer: peer, local: local, trusted: s.trusts(conn, peer, opt),
	}
	ss.log = s.cfg.Logger.With("conn", ss.id, "peer", ss.origin())
	return ss
}

func (ss *session) origin() string {
	if ss.peer.IsValid() {
		return ss.peer.String()
	}
	return "unix"
}

// Drain asks the session to end as soon as it is between transactions.
func (ss *session) Drain() {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	ss.draining = true
	if !ss.busy {
		ss.sock.SetReadDeadline(time.Unix(1, 0))
	}
}

// Cut ends the session now.
func (ss *session) Cut() { ss.sock.Close() }

// setBusy marks the bounds of a transaction.
func (ss *session) setBusy(busy bool) {
	ss.mu.Lock()
	ss.busy = busy
	ss.mu.Unlock()
}

// arm sets the deadline of the next read, unless the session should end here.
func (ss *session) arm(d time.Duration) error {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if ss.draining && !ss.busy {
		return errDraining
	}
	return ss.sock.SetReadDeadline(time.Now().Add(d))
}

// run serves the client until it leaves.
func (ss *session) run(implicit *tls.Config) {
	defer func() { ss.conn.Close() }()
	defer func() {
		if p := recover(); p != nil {
			ss.srv.metrics.alerts.WithLabelValues("panic").Inc()
			ss.log.Error("session panicked", "panic", p, "stack", string(debug.Stack()))
			ss.say(replyPanic)
			ss.flush()
		}
		ss.reset()
	}()
	if implicit != nil {
		if err := ss.startTLS(implicit); err != nil {
			ss.log.Debug("tls handshake failed", "err", err)
			return
		}
	}
	ss.say(answer(220, ss.cfg.Hostname+greeting))
	for !ss.over {
		line, err := ss.readLine(maxCommand, ss.cfg.Limits.Idle)
		switch {
		case err == nil:
			ss.command(line)
			if ss.bad >= ss.cfg.Limits.BadCommands {
				ss.say(replyTooManyErrors)
				ss.over = true
			}
		case errors.Is(err, errLongLine):
			ss.wrong(replyLongLine)
		default:
			ss.farewell(err)
			ss.over = true
		}
	}
	ss.flush()
}

// farewell tells a client that did not leave by itself why the connection ends.
func (ss *session) farewell(err error) {
	ss.mu.Lock()
	draining := ss.draining
	ss.mu.Unlock()
	switch {
	case errors.Is(err, errDraining), draining && errors.Is(err, os.ErrDeadlineExceeded):
		ss.say(replyClosing)
	case errors.Is(err, os.ErrDeadlineExceeded):
		ss.say(replyIdle)
	case !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed):
		ss.log.Debug("client lost", "err", err)
	}
}

// readLine reads a line of at most limit octets, without its end. A longer one is consumed and
// reported as errLongLine. Replies are written before it blocks.
func (ss *session) readLine(limit int, patience time.Duration) (string, error) {
	ss.line = ss.line[:0]
	tooLong, told := false, ss.told()
	first := patience
	if told {
		first = min(first, ss.ahead())
	}
	if err := ss.arm(first); err != nil {
		return "", err
	}
	for {
		if ss.in.Buffered() == 0 {
			if err := ss.flush(); err != nil {
				return "", err
			}
		}
		part, err := ss.in.ReadSlice('\n')
		if tooLong = tooLong || len(ss.line)+len(part) > limit+2; !tooLong {
			ss.line = append(ss.line, part...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
		case told && errors.Is(err, os.ErrDeadlineExceeded): // not as swift as it was
			ss.tx.release()
			if told, err = false, ss.arm(patience); err != nil {
				return "", err
			}
		case err != nil:
			return "", err
		case tooLong:
			return "", errLongLine
		default:
			n := len(ss.line) - 1
			if n > 0 && ss.line[n-1] == '\r' {
				n--
			}
			if n > limit {
				return "", errLongLine
			}
			return string(ss.line[:n]), nil
		}
	}
}

// say queues a reply. What is queued is written in one piece when the session waits for the client.
func (ss *session) say(rep reply) { ss.out = rep.appendTo(ss.out) }

// wrong queues the answer to a command that makes no sense.
func (ss *session) wrong(rep reply) {
	ss.bad++
	ss.say(rep)
}

func (ss *session) flush() error {
	if len(ss.out) == 0 {
		return nil
	}
	err := ss.write(ss.out)
	ss.out = ss.out[:0]
	return err
}

func (ss *session) write(p []byte) error {
	ss.sock.SetWriteDeadline(time.Now().Add(ss.cfg.Limits.Write))
	_, err := ss.conn.Write(p)
	return err
}

// startTLS drops what the client sent ahead and begins anew (RFC 3207 section 4.2).
func (ss *session) startTLS(cfg *tls.Config) error {
	ctx, cancel := context.WithTimeout(ss.srv.ctx, 30*time.Second)
	defer cancel()
	conn := tls.Server(ss.sock, cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		return err
	}
	state := conn.ConnectionState()
	ss.conn, ss.tls = conn, &state
	ss.in.Reset(conn)
	ss.lhlo, ss.authc = "", ""
	ss.reset()
	return nil
}

// reset ends a transaction.
func (ss *session) reset() {
	if ss.tx == nil {
		return
	}
	ss.tx.release()
	ss.tx = nil
	ss.setBusy(false)
}

// allowed reports whether the client may deliver mail.
func (ss *session) allowed() bool { return ss.trusted || ss.authc != "" }

func (ss *session) authConn() auth.Conn {
	return auth.Conn{Protocol: "lmtp", Peer: ss.peer, Local: ss.local, TLS: ss.tls, SessionID: ss.id}
}
