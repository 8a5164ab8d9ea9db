package lmtp

import (
	"time"

	"murder/internal/mbox"
)

const (
	// swiftMessage is how long a message may take to count as one that came at once.
	swiftMessage = 100 * time.Millisecond
	// aheadBackends is how many are told of a message at most.
	aheadBackends = 4
)

// tellAhead sends the envelope to the backends while the client still sends its message, which saves the
// time of an exchange with them. That is done only for clients whose last message came at once, and
// over connections that are there unused: slow clients hold no backend.
func (ss *session) tellAhead() {
	if !ss.swift || ss.cfg.CheckAtBackend || len(ss.tx.rcpts) > flight-3 || ss.flush() != nil {
		return
	}
	groups := make(map[mbox.Server][]*recipient, 1)
	for _, rc := range ss.tx.rcpts {
		groups[rc.route.Server] = append(groups[rc.route.Server], rc)
	}
	if len(groups) > aheadBackends {
		return
	}
	for server, rcpts := range groups {
		p := ss.srv.pools.of(server)
		c := p.spare()
		if c == nil {
			continue
		}
		if !c.pipelining {
			p.put(c)
			continue
		}
		h := &hold{pool: p, c: c, ahead: true}
		for _, rc := range rcpts {
			h.add(rc)
		}
		if c.send(append(c.envelope(&ss.tx.envelope, c.announced(ss.tx.size), rcpts), "DATA"), ss.cfg.Limits.Envelope) != nil {
			p.drop(c)
			continue
		}
		ss.tx.hold(server, h)
	}
}
