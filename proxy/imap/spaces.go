package imap

import (
	"bytes"
	"strings"
	"sync"
	"time"

	"murder/internal/mbox"
)

// errNamespace is an operator's matter: names would reach the wrong mailboxes.
var errNamespace = no("SERVERBUG", "The server of this mailbox names mailboxes in another way; tell the administrator")

// namespaces remembers which backends agree with us about names.
type namespaces struct {
	mu     sync.Mutex
	agreed map[spaceKey]time.Time
}

type spaceKey struct {
	server mbox.Server
	admin  bool
}

// spaceEvery is how long agreement is believed.
const spaceEvery = 10 * time.Minute

func (n *namespaces) known(key spaceKey) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return time.Since(n.agreed[key]) < spaceEvery
}

func (n *namespaces) agree(key spaceKey) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.agreed == nil {
		n.agreed = make(map[spaceKey]time.Time)
	}
	n.agreed[key] = time.Now()
}

// checkNamespace refuses a backend whose NAMESPACE (RFC 2342) differs from what we tell clients: names
// travel to it as the client wrote them. A server that hides the names of others, or does not say,
// is believed.
func (s *session) checkNamespace(so *signOn) error {
	key := spaceKey{so.server, s.admin}
	if !so.caps.has("NAMESPACE") || s.srv.spaces.known(key) {
		return nil
	}
	untagged, err := so.ask("NAMESPACE")
	if err != nil {
		return err
	}
	ours := parseNamespace([]byte(s.namespaces()))
	for _, line := range untagged {
		theirs := parseNamespace([]byte(line))
		for i := range min(len(theirs), len(ours)) {
			if theirs[i] != "" && theirs[i] != ours[i] {
				s.log().Error("backend and frontend disagree on the namespace", "backend", so.server, "ours", s.namespaces(), "theirs", line)
				return errNamespace
			}
		}
	}
	s.srv.spaces.agree(key)
	return nil
}

// parseNamespace returns the first prefix and separator of each of the three kinds, "" for NIL.
func parseNamespace(line []byte) []string {
	rest, ok := bytes.CutPrefix(line, []byte("* NAMESPACE"))
	if !ok {
		return nil
	}
	p := parser{b: rest}
	var kinds []string
	for p.eat(' ') {
		if p.next() != '(' {
			if _, err := p.astring(false); err != nil {
				return nil
			}
			kinds = append(kinds, "")
			continue
		}
		spaces, err := p.list()
		if err != nil || len(spaces) == 0 {
			return nil
		}
		first := parser{b: []byte(spaces[0])}
		words, err := first.list()
		if err != nil || len(words) < 2 {
			return nil
		}
		kinds = append(kinds, strings.Join(words[:2], "\x00"))
	}
	return kinds
}

// namespaces returns the NAMESPACE answer for the user.
func (s *session) namespaces() string {
	sep := string(s.view.Separator())
	entry := func(prefix string) string {
		if prefix != "" {
			prefix += sep
		}
		return "((" + quote(prefix) + " " + quote(sep) + "))"
	}
	personal := "NIL"
	if prefix, ok := s.view.Personal(); ok {
		personal = entry(strings.TrimSuffix(prefix, sep))
	}
	other, shared := s.view.Prefixes()
	return "* NAMESPACE " + personal + " " + entry(other) + " " + entry(shared)
}

func (s *session) namespace(c *command) error {
	if err := s.say(s.namespaces() + "\r\n"); err != nil {
		return err
	}
	return ok("Completed")
}
