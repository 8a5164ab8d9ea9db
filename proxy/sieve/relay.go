package sieve

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
	"sync"

	"murder/internal/imapwire"
	"murder/proxy/login"
)

// maxPending bounds the commands that a client may send ahead of the answers.
const maxPending = 256

// kind is what the relay does about the answer to a command.
type kind uint8

const (
	ordinary   kind = iota
	capability      // the backend's list, without what is ours
	refused         // not sent to the backend: the answer is ours
	logout
)

// relay carries commands and answers after login. Commands that we answer ourselves are answered in
// their turn.
type relay struct {
	s *login.Session
	b *login.Backend

	mu      sync.Mutex // also held while a line is written to the client
	changed sync.Cond
	pending []kind // commands without a complete answer, oldest first
	within  bool   // part of an answer has been written
	over    bool   // the client has logged out or is gone, or down has ended
	out     *bufio.Writer
}

func newRelay(s *login.Session, b *login.Backend) *relay {
	r := &relay{s: s, b: b, out: bufio.NewWriter(s)}
	r.changed.L = &r.mu
	return r
}

// up carries commands.
func (r *relay) up() error {
	err := r.commands()
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case errors.Is(err, imapwire.ErrLineTooLong), errors.Is(err, imapwire.ErrBadLiteral):
		if len(r.pending) == 0 && !r.within {
			r.s.Say("BYE \"Too long\"\r\n")
		}
	}
	r.over = true
	return err
}

func (r *relay) commands() error {
	w := bufio.NewWriter(r.b)
	for {
		line, err := imapwire.ReadLine(&r.s.Reader, nil, maxLine)
		if err != nil {
			return err
		}
		if len(bytes.TrimSpace(line)) == 0 {
			continue // Cyrus: empty lines go unanswered
		}
		k, args := classify(string(line))
		if !r.expect(k) {
			return errors.New("backend is gone")
		}
		for {
			lit, has, err := imapwire.TrailingLiteral(line)
			if err != nil {
				return err
			}
			var dst io.Writer = w
			if k == refused {
				dst = io.Discard
			}
			dst.Write(append(line, '\r', '\n'))
			if !has || !lit.NonSync {
				break
			}
			if _, err := io.CopyN(dst, &r.s.Reader, lit.Size); err != nil {
				w.Flush()
				return err
			}
			if line, err = imapwire.ReadLine(&r.s.Reader, nil, maxLine); err != nil {
				w.Flush()
				return err
			}
			if k != refused {
				if err := args.line(string(line)); err != nil {
					return err
				}
			}
		}
		if r.s.Reader.Buffered() == 0 || k == refused {
			if err := w.Flush(); err != nil {
				return err
			}
		}
		if k == refused {
			if err := r.answer(); err != nil {
				return err
			}
		}
	}
}

// classify looks at the first line of a command. Its arguments go on in the next lines.
func classify(line string) (kind, arguments) {
	verb, _, _ := strings.Cut(strings.TrimLeft(line, " "), " ")
	verb = strings.ToUpper(verb)
	args := arguments{takes[verb]}
	switch err := args.line(line); {
	case err != nil, verb == "UNAUTHENTICATE", verb == "STARTTLS":
		return refused, args
	case verb == "CAPABILITY":
		return capability, args
	case verb == "LOGOUT":
		return logout, args
	}
	return ordinary, args
}

// expect notes a command; it waits while too many are unanswered, and returns false when no answer
// will come.
func (r *relay) expect(k kind) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.pending) >= maxPending && !r.over {
		r.changed.Wait()
	}
	if r.over {
		return false
	}
	r.pending = append(r.pending, k)
	return true
}

// answer writes the answers of ours whose turn it is.
func (r *relay) answer() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.answerLocked()
}

func (r *relay) answerLocked() error {
	for len(r.pending) > 0 && r.pending[0] == refused && !r.within {
		r.pending = r.pending[1:]
		r.out.WriteString(no("", "Not possible on this connection"))
	}
	return r.out.Flush()
}

// down carries answers.
func (r *relay) down() error {
	err := r.answers()
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != errClient && !r.over && !r.within {
		r.out.WriteString("BYE (TRYLATER) \"Backend connection lost\"\r\n")
	}
	r.over = true
	r.changed.Broadcast()
	if r.out.Flush() != nil {
		return errClient
	}
	return io.EOF // whatever it was: the client hears the end in good order
}

var errClient = errors.New("client does not read")

func (r *relay) answers() error {
	for {
		line, err := imapwire.ReadLine(&r.b.Reader, nil, maxLine)
		if err != nil {
			return err
		}
		if err := r.line(line); err != nil {
			return err
		}
	}
}

// line carries one line of an answer, with its literals.
func (r *relay) line(line []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	status, _, ends := final(string(line))
	dst := r.out
	if len(r.pending) > 0 && r.pending[0] == capability && ours(string(line)) {
		dst = bufio.NewWriter(io.Discard)
	}
	r.within = true
	for {
		lit, has, err := imapwire.TrailingLiteral(line)
		if err != nil {
			return err
		}
		if _, err := dst.Write(append(line, '\r', '\n')); err != nil {
			return errClient
		}
		if !has {
			break
		}
		if _, err := io.CopyN(dst, &r.b.Reader, lit.Size); err != nil {
			return err
		}
		if line, err = imapwire.ReadLine(&r.b.Reader, nil, maxLine); err != nil {
			return err
		}
	}
	if !ends {
		if r.b.Reader.Buffered() == 0 && r.out.Flush() != nil {
			return errClient
		}
		return nil
	}
	r.within = false
	if status == "BYE" || len(r.pending) > 0 && r.pending[0] == logout {
		r.over = true
	}
	if len(r.pending) > 0 {
		r.pending = r.pending[1:]
		r.changed.Broadcast()
	}
	if r.answerLocked() != nil {
		return errClient
	}
	return nil
}

// ours reports whether a line of capabilities is about the connection to us.
func ours(line string) bool {
	words, err := split(line)
	return err == nil && len(words) > 0 && words[0].isString &&
		(strings.EqualFold(words[0].text, "UNAUTHENTICATE") || strings.EqualFold(words[0].text, "STARTTLS"))
}

// farewell says BYE to a client who waits for nothing.
func (r *relay) farewell(reason string) bool {
	if !r.mu.TryLock() {
		return false // an answer is on its way
	}
	defer r.mu.Unlock()
	if len(r.pending) > 0 || r.within || r.over {
		return false
	}
	r.over = true
	r.out.WriteString("BYE (TRYLATER) " + quote(reason) + "\r\n")
	return r.out.Flush() == nil
}
