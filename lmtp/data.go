package lmtp

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"murder/internal/backend"
)

// message is what DATA brought, as backends get it but for the final dot.
type message struct {
	spool *spool
	head  []byte // fields added in front
	size  int64  // octets without stuffed dots, with head
	// refusal is why the message goes nowhere; its code is 0 if it does.
	refusal reply
}

// receive reads DATA to its end whatever becomes of it, at the speed of the disk and never of a
// backend. An error means that the client is gone: there is no message.
func (ss *session) receive() (*message, error) {
	m := &message{spool: &spool{store: ss.srv.store}}
	limits := &ss.cfg.Limits
	began := time.Now()
	n := normaliser{maxLine: limits.Line, fold: ss.cfg.Fold}
	var hash hash.Hash
	if ss.cfg.SyntheticMessageID {
		hash = sha256.New()
	}
	for done := false; !done; {
		if ss.in.Buffered() == 0 {
			if err := ss.moreOf(); err != nil {
				m.spool.close()
				return nil, err
			}
		}
		done = ss.piece(m, &n, hash)
	}
	m.head = ss.fields(&n, hash)
	m.size = n.size + int64(len(m.head))
	ss.swift = time.Since(began) < min(swiftMessage, limits.Ahead)
	return m, nil
}

// piece adds what has been read to the message, and reports whether it is complete. hash may be nil.
func (ss *session) piece(m *message, n *normaliser, hash hash.Hash) (done bool) {
	buf := pieces.Get().(*[pieceSize]byte)
	defer pieces.Put(buf)
	src, _ := ss.in.Peek(ss.in.Buffered())
	out, used, done := n.feed(buf[:0], src)
	ss.in.Discard(used)
	if m.refusal.code == 0 {
		m.refusal = ss.judge(n)
	}
	if m.refusal.code != 0 {
		return done
	}
	if hash != nil {
		hash.Write(out)
	}
	if _, err := m.spool.Write(out); err != nil {
		ss.log.Error("cannot spool a message", "err", err)
		m.refusal = replySpoolError
		if errors.Is(err, errNoSpace) {
			m.refusal = replySpoolFull
		}
	}
	return done
}

// moreOf waits for more of a message whose beginning it knows. Backends that have been told of it ahead
// wait for a while only.
func (ss *session) moreOf() error {
	if ss.told() {
		err := ss.more(min(ss.ahead(), ss.cfg.Limits.Data))
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		ss.tx.release()
	}
	return ss.more(ss.cfg.Limits.Data)
}

// more waits for octets of a message.
func (ss *session) more(patience time.Duration) error {
	if err := ss.flush(); err != nil {
		return err
	}
	if err := ss.arm(patience); err != nil {
		return err
	}
	_, err := ss.in.Peek(1)
	return err
}

// judge says why a message, as far as it has been read, cannot be delivered.
func (ss *session) judge(n *normaliser) reply {
	switch {
	case n.nul:
		return replyBadContent
	case n.long:
		return replyLongLines
	case ss.cfg.MaxMessage > 0 && n.size > ss.cfg.MaxMessage:
		return replyTooBig
	case ss.cfg.Limits.Received > 0 && n.received > ss.cfg.Limits.Received:
		return replyHops
	}
	return reply{}
}

// fields are the trace (RFC 5321 section 4.4, RFC 3848) and whatever else is added. Return-Path is
// the backend's to add.
func (ss *session) fields(n *normaliser, hash hash.Hash) []byte {
	var b strings.Builder
	if !ss.cfg.NoTrace {
		with := "LMTP"
		if ss.tls != nil {
			with += "S"
		}
		if ss.authc != "" {
			with += "A"
		}
		from := "unix socket"
		if ss.peer.IsValid() {
			from = "[" + ss.peer.Addr().String() + "]"
			if ss.peer.Addr().Is6() {
				from = "[IPv6:" + from[1:] // RFC 5321 section 4.1.3
			}
		}
		fmt.Fprintf(&b, "Received: from %s (%s)\r\n\tby %s with %s id %s;\r\n\t%s\r\n",
			ss.lhlo, from, ss.cfg.Hostname, with, ss.id, time.Now().Format(time.RFC1123Z))
	}
	if hash != nil && !n.messageID {
		// The same whichever frontend the MTA tries: backends recognise by it what they have.
		fmt.Fprintf(&b, "Message-ID: <%s@content.invalid>\r\n", hex.EncodeToString(hash.Sum(nil)[:16]))
	}
	return []byte(b.String())
}

const pieceSize = 64 << 10

var pieces = sync.Pool{New: func() any { return new([pieceSize]byte) }}

// sendTo writes the message and the final dot in pieces of 64 KiB, gathered so that a small message
// is one write. stall bounds each write. whole is false if the final dot is certain not to have left.
func (m *message) sendTo(conn *backend.Conn, deadline func() time.Time) (whole bool, err error) {
	buf := pieces.Get().(*[pieceSize]byte)
	defer pieces.Put(buf)
	content := io.MultiReader(
		strings.NewReader(string(m.head)),
		io.NewSectionReader(m.spool.reader(), 0, m.spool.size),
		strings.NewReader(".\r\n"),
	)
	for {
		n, err := fill(content, buf[:])
		if err != nil && !errors.Is(err, io.EOF) {
			return false, fmt.Errorf("reading the spool: %w", err)
		}
		if n > 0 {
			conn.SetWriteDeadline(deadline())
			if _, err := conn.Write(buf[:n]); err != nil {
				return false, err
			}
		}
		if err != nil {
			return true, nil
		}
	}
}

// fill reads until buf is full or r ends.
func fill(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var k int
		k, err = r.Read(buf[n:])
		n += k
	}
	return n, err
}
