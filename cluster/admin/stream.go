package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"murder/internal/mbox"
)

// Answers that are streams: JSON lines, until the client goes or, for a list, until it is complete.
// A stream that breaks off ends with an error at the client, never as if it were complete.

// MailboxChange is one line of a watch.
type MailboxChange struct {
	// Kind is "change"; "resync" when changes before Index were missed and a fresh list is needed; or
	// "alive", now and then, so that a silent stream can be told from a dead one.
	Kind  string `json:"kind"`
	Index uint64 `json:"index"`
	Mailbox
	// State also says "absent" for a record that is gone; Old is the location before.
	Old string `json:"old,omitempty"`
}

// WatchQuery selects changes.
type WatchQuery struct {
	Pattern string // as in LIST
	From    uint64 // changes after this index; 0 for those from now on
}

// Follower is what the handler needs of a node for streams.
type Follower interface {
	Changes(ctx context.Context, after uint64) ([]mbox.Change, uint64, error)
}

const (
	streamStall = 30 * time.Second // a client that does not read
	aliveEvery  = 10 * time.Second
)

// stream writes JSON lines to a client that may be slow.
type stream struct {
	w    http.ResponseWriter
	ctrl *http.ResponseController
	enc  *json.Encoder
	buf  bytes.Buffer
	// flushes is how often the client was written to.
	flushes int
}

func newStream(w http.ResponseWriter) *stream {
	w.Header().Set("Content-Type", "application/x-ndjson")
	s := &stream{w: w, ctrl: http.NewResponseController(w)}
	s.enc = json.NewEncoder(&s.buf)
	return s
}

const streamChunk = 32 << 10

func (s *stream) put(v any) error {
	if err := s.enc.Encode(v); err != nil || s.buf.Len() < streamChunk {
		return err
	}
	return s.flush()
}

func (s *stream) flush() error {
	s.ctrl.SetWriteDeadline(time.Now().Add(streamStall))
	if _, err := s.w.Write(s.buf.Bytes()); err != nil {
		return err
	}
	s.buf.Reset()
	s.flushes++
	return s.ctrl.Flush()
}

// What has been overwritten since a copy of the map was taken stays in memory as long as the copy is held.
const (
	maxLists = 16 // at the same time
	listAge  = time.Minute
)

// mailboxStream lists a whole selection from one copy of the map. To a client that is slow it goes on from a fresh
// copy now and then.
func (h handler) mailboxStream(w http.ResponseWriter, r *http.Request) {
	q, err := parseMailboxQuery(r.URL.Query())
	if err == nil && q.Consistent {
		_, err = h.node.Barrier(r.Context())
	}
	if err == nil {
		select {
		case h.lists <- struct{}{}:
			defer func() { <-h.lists }()
		default:
			err = &Error{Code: http.StatusServiceUnavailable, Message: fmt.Sprintf("%d lists are being sent already", maxLists),
				Hint: "try again when one has ended, or ask another node"}
		}
	}
	if err != nil {
		writeError(w, err)
		return
	}
	s := newStream(w)
	match := q.matcher()
	from, sent, more := mbox.Name(q.Prefix), mbox.Name(""), true
	for more && err == nil {
		begun := time.Now()
		more = false
		h.node.View().Ascend(from, func(e mbox.Entry) bool {
			switch {
			case !strings.HasPrefix(string(e.Name), q.Prefix):
				return false
			case e.Name == sent:
				return true
			case !match(e):
				return true
			}
			before := s.flushes
			if err = s.put(MailboxOf(e)); err != nil {
				return false
			}
			sent = e.Name
			if s.flushes > before && time.Since(begun) > h.listAge {
				from, more = sent, true
			}
			return !more
		})
	}
	if err == nil {
		err = s.flush()
	}
	if err != nil {
		panic(http.ErrAbortHandler) // the client must not take a part for the whole
	}
}

func (h handler) watch(w http.ResponseWriter, r *http.Request) {
	q := WatchQuery{Pattern: r.URL.Query().Get("pattern")}
	match := MailboxQuery{Pattern: q.Pattern}.matcher()
	after := h.node.View().Index()
	if text := r.URL.Query().Get("from"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			writeError(w, badQuery("from", text, "a log index"))
			return
		}
		after = n
	}
	s := newStream(w)
	err := s.put(MailboxChange{Kind: "alive", Index: after})
	for err == nil {
		if err = s.flush(); err != nil {
			break
		}
		ctx, cancel := context.WithTimeout(r.Context(), aliveEvery)
		changes, index, failed := h.node.Changes(ctx, after)
		cancel()
		switch {
		case r.Context().Err() != nil:
			return
		case errors.Is(failed, mbox.ErrLagged):
			after = h.node.View().Index()
			err = s.put(MailboxChange{Kind: "resync", Index: after})
			continue
		case errors.Is(failed, context.DeadlineExceeded):
			err = s.put(MailboxChange{Kind: "alive", Index: after})
			continue
		case failed != nil:
			err = failed
			continue
		}
		after = index
		for _, c := range changes {
			if match(c.Entry) && err == nil {
				err = s.put(MailboxChange{Kind: "change", Index: c.Index, Mailbox: MailboxOf(c.Entry), Old: string(c.Old)})
			}
		}
	}
	panic(http.ErrAbortHandler)
}

// EachMailbox calls f for every record of a selection, in the order of the map and of one moment, or of several if
// f takes more than a minute. Limit and After of the query do not count.
func (c *Client) EachMailbox(ctx context.Context, q MailboxQuery, f func(Mailbox) error) error {
	q.Limit, q.After = 0, ""
	return lines(ctx, c, "/v1/list?"+q.values().Encode(), f)
}

// Watch calls f for every line of a watch until ctx ends or the node does.
func (c *Client) Watch(ctx context.Context, q WatchQuery, f func(MailboxChange) error) error {
	path := "/v1/changes?" + MailboxQuery{Pattern: q.Pattern}.values().Encode()
	if q.From > 0 {
		path += "&from=" + strconv.FormatUint(q.From, 10)
	}
	return lines(ctx, c, path, f)
}

func lines[T any](ctx context.Context, c *Client, path string, f func(T) error) error {
	resp, err := c.send(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(resp.Body)
	for {
		var v T
		switch err := dec.Decode(&v); {
		case err == io.EOF:
			return nil
		case err != nil:
			return fmt.Errorf("the answer broke off: %w", err)
		}
		if err := f(v); err != nil {
			return err
		}
	}
}
