package sieve

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"murder/internal/backend"
	"murder/internal/mbox"
	"murder/proxy/login"
)

const (
	probeEvery = time.Minute
	probeLimit = 5 * time.Second
	firstWait  = 2 * time.Second
)

// capTable remembers what each backend can do. Clients keep the list they are greeted with, so it
// shows only what all backends can.
type capTable struct {
	first chan struct{} // closed after the first round

	mu    sync.Mutex
	known map[mbox.Server]map[string]string
}

// wait returns when the first round is over, or soon.
func (t *capTable) wait(ctx context.Context) {
	select {
	case <-t.first:
		return
	default:
	}
	timer := time.NewTimer(firstWait)
	defer timer.Stop()
	select {
	case <-t.first:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// learn keeps what a backend has said; nil forgets it.
func (t *capTable) learn(server mbox.Server, caps map[string]string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if caps == nil {
		delete(t.known, server)
		return
	}
	if t.known == nil {
		t.known = make(map[mbox.Server]map[string]string)
	}
	t.known[server] = caps
}

// common returns the words that every backend has in the value of a capability, sorted.
func (t *capTable) common(name string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var words []string
	begun := false
	for _, caps := range t.known {
		have := strings.Fields(caps[name])
		if !begun {
			words, begun = have, true
			continue
		}
		words = slices.DeleteFunc(words, func(w string) bool { return !slices.Contains(have, w) })
	}
	slices.Sort(words)
	return strings.Join(words, " ")
}

// probe asks the configured backends what they can do, now and every minute. One that does not
// answer does not count.
func (s *Server) probe(ctx context.Context) {
	for round := 0; ; round++ {
		var work sync.WaitGroup
		for _, server := range s.Config().Backends.Servers() {
			work.Go(func() {
				ctx, cancel := context.WithTimeout(ctx, probeLimit)
				defer cancel()
				var caps map[string]string
				b, err := s.Open(ctx, server, "", func(_ context.Context, b *login.Backend, _ string) (err error) {
					caps, err = readCaps(b)
					return err
				})
				if err != nil {
					s.caps.learn(server, nil)
					return
				}
				s.caps.learn(server, caps)
				b.Say("LOGOUT\r\n")
				b.Close()
			})
		}
		work.Wait()
		if round == 0 {
			close(s.caps.first)
		}
		select {
		case <-time.After(probeEvery):
		case <-ctx.Done():
			return
		}
	}
}

// readCaps reads a block of capabilities up to its OK.
func readCaps(b *login.Backend) (map[string]string, error) {
	caps := make(map[string]string)
	for range 100 {
		words, err := readReply(b)
		if err != nil {
			return nil, err
		}
		switch status := strings.ToUpper(words[0].text); {
		case words[0].isString && len(words) > 1:
			caps[status] = words[1].text
		case words[0].isString:
			caps[status] = ""
		case status == "OK":
			return caps, nil
		default:
			return nil, fmt.Errorf("%w: greeted with %s", login.ErrProtocol, status)
		}
	}
	return nil, fmt.Errorf("%w: endless capabilities", login.ErrProtocol)
}

// readReply reads one line of a response, which is never empty.
func readReply(b *login.Backend) ([]word, error) {
	words, err := readWords(&b.Reader)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", login.ErrProtocol, err)
	}
	if len(words) == 0 {
		return nil, fmt.Errorf("%w: empty line", login.ErrProtocol)
	}
	return words, nil
}

// signOn is the dialogue with a backend from its greeting until it has accepted authz.
//
// Cyrus: after the OK to AUTHENTICATE some versions send their capabilities again, but only when a
// SASL layer was agreed on, and we agree on none.
func (s *Server) signOn(ctx context.Context, b *login.Backend, authz string) error {
	caps, err := readCaps(b)
	if err != nil {
		return err
	}
	if b.NeedStartTLS() {
		if _, ok := caps["STARTTLS"]; !ok {
			return fmt.Errorf("%w: STARTTLS is not offered", backend.ErrTLS)
		}
		if err := b.Say("STARTTLS\r\n"); err != nil {
			return err
		}
		words, err := readReply(b)
		if err != nil {
			return err
		}
		if !strings.EqualFold(words[0].text, "OK") {
			return fmt.Errorf("%w: %s", backend.ErrTLS, words[len(words)-1].text)
		}
		if err := b.StartTLS(ctx); err != nil {
			return err
		}
		if caps, err = readCaps(b); err != nil {
			return err
		}
	}
	s.caps.learn(b.Server(), caps)
	start := func(mech string, initial []byte) ([]byte, bool, error) {
		line := "AUTHENTICATE " + quote(mech)
		if initial != nil {
			line += " " + response(initial)
		}
		return exchange(b, line)
	}
	more := func(p []byte) ([]byte, bool, error) { return exchange(b, response(p)) }
	return b.SignOn(strings.Fields(caps["SASL"]), authz, start, more)
}

// response writes a response as the shortest string that may hold it.
func response(p []byte) string {
	text := base64.StdEncoding.EncodeToString(p)
	if len(text) <= 1024 {
		return quote(text)
	}
	return fmt.Sprintf("{%d+}\r\n%s", len(text), text)
}

// exchange sends a line of an authentication and reads the answer: a challenge, or the end with or
// without a final message (RFC 5804 section 2.1).
func exchange(b *login.Backend, line string) (challenge []byte, done bool, err error) {
	if err := b.Say(line + "\r\n"); err != nil {
		return nil, false, err
	}
	words, err := readReply(b)
	if err != nil {
		return nil, false, err
	}
	return outcome(words)
}

func outcome(words []word) (challenge []byte, done bool, err error) {
	text := ""
	for _, w := range words {
		if w.isString {
			text = w.text // the human text comes last
		}
	}
	code := ""
	if len(words) > 1 && !words[1].isString {
		code = strings.ToUpper(strings.Trim(words[1].text, "()"))
	}
	switch status := strings.ToUpper(words[0].text); {
	case words[0].isString:
		challenge, err = decode(words[0].text)
	case status == "OK" && code == "SASL" && len(words) > 2:
		done = true
		challenge, err = decode(words[2].text)
	case status == "OK":
		return nil, true, nil
	case status == "BYE" || code == "TRYLATER":
		return nil, false, fmt.Errorf("%s: %w", text, backend.ErrDown)
	default:
		// Cyrus: one text for a wrong password of ours, a mailbox that is not there, and one that is
		// being moved. The user himself has been verified here.
		return nil, false, fmt.Errorf("%w: %s", login.ErrOurIdentity, text)
	}
	if err != nil {
		return nil, false, fmt.Errorf("%w: %w", login.ErrProtocol, err)
	}
	return challenge, done, nil
}
