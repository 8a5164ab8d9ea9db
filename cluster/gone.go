package cluster

import (
	"context"
	"strings"
	"time"

	"murder/fsm"
	"murder/internal/mbox"
)

const (
	goneAfter    = 30 * time.Second // of leadership
	maxGoneAtime = 256              // sessions ended at one tick
)

// endGone ends the sessions of nodes that nobody has heard of for a while, as the node itself would have
// done had it lived: their reservations need not wait for the whole lease. The time without a leader does
// not count, since nobody was there to hear.
func (r *reign) endGone(ctx context.Context) {
	v := r.node.State()
	for _, session := range r.goneSessions(v) {
		w := mbox.Write{Kind: mbox.EndSession, By: mbox.Session{ID: session}}
		if _, err := r.do(ctx, fsm.MailboxWrite{Write: w, At: time.Now().Unix()}); err != nil {
			r.node.log.Warn("ending a session of a lost node failed", "session", session, "err", err)
			return
		}
		r.node.log.Info("session of a lost node ended", "session", session)
	}
}

func (r *reign) goneSessions(v *fsm.View) []string {
	var sessions []string
	seen := make(map[string]bool)
	note := func(session string) bool {
		if !seen[session] && r.gone(nodeOf(session)) {
			sessions = append(sessions, session)
		}
		seen[session] = true
		return len(sessions) < maxGoneAtime
	}
	v.AllLeases(func(l fsm.Lease) bool { return l.Ended || note(l.Session) })
	v.Holds(func(h fsm.Hold) bool { return !h.Transfer || h.SessionGone || note(h.Session) })
	return sessions
}

// nodeOf is the node that a session is at, "" if its id does not say: NODE-PROCESS-NUMBER.
func nodeOf(session string) string {
	at := strings.LastIndexByte(session, '-')
	if at < 0 {
		return ""
	}
	at = strings.LastIndexByte(session[:at], '-')
	return session[:max(at, 0)]
}

func (r *reign) gone(node string) bool {
	if node == "" || node == r.node.cfg.NodeID {
		return false
	}
	return r.silence(node) >= goneAfter
}

// heardLately reports whether a node has given a sign of life in the last seconds.
func (r *reign) heardLately(node string) bool {
	if node == r.node.cfg.NodeID {
		return true
	}
	p, _ := r.position(node)
	return time.Since(p.at) < 3*beatInterval
}
