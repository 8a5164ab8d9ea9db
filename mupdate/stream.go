package mupdate

import (
	"context"
	"errors"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"murder/internal/mbox"
)

// stream is the part of a session after UPDATE. Its goroutine owns the connection's output; the
// session's goroutine goes on reading and posts its answers here, because a NOOP may be answered only
// after the rows before it.
type stream struct {
	c     *conn
	tag   string
	scope scope
	after uint64    // rows up to this index are out, but for held ones
	at    time.Time // when they were
	held  []mbox.Change
	until time.Time // when held rows go out
	ctx   context.Context
	stop  context.CancelFunc

	posts   chan post
	waiting []post
	done    chan struct{}

	mu   sync.Mutex
	wake context.CancelFunc // interrupts the wait for changes
}

// post is an answer to be sent once rows up to after are out. The zero word is a go-ahead.
type post struct {
	tag, word, text string
	after           uint64
	last            bool // end the stream behind it
}

func newStream(c *conn, tag string, scope scope, after uint64) *stream {
	s := &stream{c: c, tag: tag, scope: scope, after: after, at: time.Now(), posts: make(chan post, 16), done: make(chan struct{})}
	s.ctx, s.stop = context.WithCancel(c.srv.ctx)
	c.srv.metrics.streams.Inc()
	c.srv.streams.Add(1)
	return s
}

func (s *stream) ended() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// post hands an answer over. It waits when many are outstanding.
func (s *stream) post(p post) {
	select {
	case s.posts <- p:
	case <-s.done:
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wake != nil {
		s.wake()
	}
}

// finish is called by the session's goroutine at its end: it lets the stream say what err demands,
// and waits for it.
func (s *stream) finish(err error) {
	var b bye
	switch {
	case errors.Is(err, errLogout): // its answer has been posted
		s.post(post{word: "none", last: true})
	case errors.As(err, &b):
		s.post(post{tag: "*", word: "BYE", text: string(b), last: true})
	default:
		s.stop()
		s.c.base.Close()
	}
	<-s.done
}

func (s *stream) run() {
	reason := "error"
	defer func() {
		if r := recover(); r != nil {
			s.c.log.Error("panic in a stream", "err", r, "stack", string(debug.Stack()))
		}
		s.stop()
		s.c.srv.metrics.streams.Dec()
		s.c.srv.streams.Add(-1)
		s.c.srv.metrics.streamsEnded.WithLabelValues(reason).Inc()
		close(s.done)
		s.c.interrupt()
	}()
	err := s.follow()
	var timeout interface{ Timeout() bool }
	switch {
	case err == nil || s.ctx.Err() != nil:
		reason = "closed"
	case errors.Is(err, mbox.ErrLagged):
		reason = "lagged"
		s.c.out.status("*", "BYE", "stream fell behind, start again")
		s.c.flush()
	case errors.As(err, &timeout) && timeout.Timeout():
		reason = "slow"
	}
	if err != nil && reason != "closed" {
		s.c.log.Warn("stream ended", "user", s.c.session.Identity, "reason", reason, "err", err)
	}
}

// window is for how long a busy stream gathers changes. It grows with the number of streams, so that all
// of them together write no more often than a processor bears.
func (s *stream) window() time.Duration {
	return min(s.c.srv.cfg.Coalesce, time.Duration(s.c.srv.streams.Load())*windowPerStream)
}

const windowPerStream = 20 * time.Microsecond

// follow sends changes in log order until the session ends. A change after a quiet time goes out at
// once; under load they are gathered for at most the coalescing window, in which several changes of
// one name become the last of them.
func (s *stream) follow() error {
	dir := s.c.srv.cfg.Directory
	var sent time.Time // when rows last went out
	for {
		wait, cancel := context.WithCancel(s.ctx)
		s.mu.Lock()
		s.wake = cancel
		s.mu.Unlock()
		end := s.answer()
		if err := s.c.flush(); err != nil || end {
			cancel()
			return err
		}
		if len(s.waiting) == 0 {
			s.c.out.quiet()
			pause(wait, s.window()-time.Since(sent))
		}
		changes, index, err := s.next(wait)
		woken := wait.Err() != nil
		cancel()
		switch {
		case s.ctx.Err() != nil:
			return nil
		case errors.Is(err, context.DeadlineExceeded):
			if err := s.release(); err != nil {
				return err
			}
			sent = time.Now()
			continue
		case err != nil && woken:
			continue
		case errors.Is(err, mbox.ErrLagged):
			if err := s.resync(); err != nil {
				return err
			}
			continue
		case err != nil:
			return err
		}
		n, err := s.rows(changes)
		if err != nil {
			return err
		}
		s.after, s.at = index, time.Now()
		if s.at.After(s.until) { // changes may come so fast that nothing ever waits
			if err := s.release(); err != nil {
				return err
			}
		}
		if n > 0 {
			sent = s.at
			s.c.srv.guard.set(dir.View().Len())
		}
	}
}

// next waits for changes, but not beyond the time when held rows go out.
func (s *stream) next(ctx context.Context) ([]mbox.Change, uint64, error) {
	if len(s.held) > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, s.until)
		defer cancel()
	}
	return s.c.srv.cfg.Directory.Changes(ctx, s.after)
}

// holdReserved is for how long the row of a name that is being created waits for the row that makes
// it a mailbox. A Cyrus slave that knows a reserved name takes it for a local mailbox and does not ask
// again (Cyrus 3.6.1: "Invalid mailbox name"), while it does ask for a name that it has never seen.
const holdReserved = 100 * time.Millisecond

// forget drops a held row that has been overtaken, and reports whether there was one.
func (s *stream) forget(name mbox.Name) bool {
	before := len(s.held)
	s.held = slices.DeleteFunc(s.held, func(h mbox.Change) bool { return h.Name == name })
	return len(s.held) < before
}

// hold keeps the row of a create reservation back.
func (s *stream) hold(ch *mbox.Change) bool {
	if ch.State != mbox.Reserved || ch.Transfer || len(s.held) >= maxHeld {
		return false
	}
	if len(s.held) == 0 {
		s.until = time.Now().Add(holdReserved)
	}
	s.held = append(s.held, *ch)
	return true
}

const maxHeld = 64 // rows; what is beyond is sent at once

// release sends the rows that were held.
func (s *stream) release() error {
	if len(s.held) == 0 {
		return nil
	}
	for i := range s.held {
		s.c.out.row(s.tag, &s.held[i].Entry)
	}
	s.c.srv.metrics.rows.Add(float64(len(s.held)))
	s.held = nil
	return s.c.flush()
}

func pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// answer writes the posted answers whose rows are out. It leaves none unread behind, unless changes
// are due anyway: nobody would wake the stream for it again.
func (s *stream) answer() (end bool) {
	for {
		for len(s.waiting) > 0 && s.waiting[0].after <= s.after {
			p := s.waiting[0]
			s.waiting = slices.Delete(s.waiting, 0, 1)
			s.release() // an answer comes after every row that is due; a failed write fails the next flush too
			switch p.word {
			case "":
				s.c.out.line(goAheadLine)
			case "none":
			default:
				s.c.out.status(p.tag, p.word, p.text)
			}
			if p.last {
				return true
			}
		}
		if len(s.waiting) == cap(s.posts) {
			return false
		}
		select {
		case p := <-s.posts:
			s.waiting = append(s.waiting, p)
		default:
			return false
		}
	}
}

// rows writes a batch of changes, each name once, as it is after the last of them: a mailbox that has come to a
// server which does not want to hear of its own is not shown where it was before.
func (s *stream) rows(changes []mbox.Change) (n int, err error) {
	last := make(map[mbox.Name]int, len(changes)) // change of a name that is wanted, or was, or is still to be shown
	for i := range changes {
		ch := &changes[i]
		if _, was := last[ch.Name]; s.forget(ch.Name) || was || s.scope.wants(ch) {
			last[ch.Name] = i
		}
	}
	for i := range changes {
		ch := &changes[i]
		if at, wanted := last[ch.Name]; !wanted || at != i || s.scope.hides(ch) || s.hold(ch) {
			continue
		}
		s.c.out.row(s.tag, &ch.Entry)
		n++
		if len(s.c.out.buf) >= flushAt {
			if err := s.c.flush(); err != nil {
				return n, err
			}
		}
	}
	s.c.srv.metrics.rows.Add(float64(n))
	return n, s.c.flush()
}

// resyncWithin is well below the time for which deleted names are remembered.
const resyncWithin = 24 * time.Hour

// resync makes up for changes that are no longer kept, without a new dump: it sends the present state
// of every record that has changed since, and DELETE for every name that was deleted lately, known to
// the client or not. It returns mbox.ErrLagged when that would not be all.
func (s *stream) resync() error {
	view := s.c.srv.cfg.Directory.View()
	deleted, ok := view.(DeletedView)
	if !ok || !s.scope.whole() || time.Since(s.at) > resyncWithin {
		return mbox.ErrLagged
	}
	after := s.after
	for i := range s.held { // the view knows better, but what was held is not out
		after = min(after, s.held[i].Index-1)
	}
	s.held = nil
	s.c.srv.metrics.resyncs.Inc()
	n := 0
	var err error
	row := func(e *mbox.Entry) bool {
		n++
		if s.c.out.row(s.tag, e); len(s.c.out.buf) >= flushAt {
			err = s.c.flush()
		}
		return err == nil
	}
	all := deleted.DeletedNames(func(name mbox.Name) bool {
		if _, exists := view.Get(name); exists {
			return true
		}
		return row(&mbox.Entry{Name: name})
	})
	switch {
	case err != nil:
		return err
	case !all:
		return mbox.ErrLagged
	}
	view.Ascend("", func(e mbox.Entry) bool { return e.Index <= after || row(&e) })
	s.c.srv.metrics.rows.Add(float64(n))
	s.after, s.at = view.Index(), time.Now()
	return err
}
