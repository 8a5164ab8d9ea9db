package conformance

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"murder/fsm"
	"murder/internal/mbox"
	"murder/mupdate"
)

// A dialogue of testdata/*.txt begins with
//
//	site 1|3 [OPTION...]      a node of its own, or the three voters and the learner that all such share
//
// and goes on with
//
//	on CONN USER [NODE]       go on with a connection, opened and logged in when it is new
//	C: TEXT                   send a line
//	S: TEXT                   the next line is exactly this; "S~ REGEXP" matches a whole line
//	closed                    the server has closed
//	drop                      close from our side; the name may be used again
//	is STATE NAME [LOCATION [ACL]]     the record on every node once it has caught up; STATE may be absent
//	history NAME KIND...      what is remembered of a mailbox, soon
//	cut NAME | conflict NAME | orphan NAME | ended NAME   what an operator sees, soon; "not" in front
//	                          says that it is not so now. ended: the name's lease is
//
// In texts \t stands for TAB and _ for an empty word.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	three := sync.OnceValue(func() *site { return newSite(t, 3) }) // ends with the whole test
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			p := player{T: t, addrs: map[string]string{}, conns: map[string]*talk{}, three: three}
			for i, line := range strings.Split(string(text), "\n") {
				verb, rest, _ := strings.Cut(line, " ")
				if verb == "" || strings.HasPrefix(verb, "#") {
					continue
				}
				if err := p.step(verb, rest); err != nil {
					t.Fatalf("%s:%d: %s\n%v", file, i+1, line, err)
				}
			}
		})
	}
}

type player struct {
	*testing.T
	three func() *site
	site  *site
	addrs map[string]string
	conns map[string]*talk
	name  string // of the connection at hand
}

func (p *player) begin(size string, options []string) error {
	if size == "3" {
		p.site = p.three()
	} else {
		p.site = newSite(p.T, 1)
	}
	var bad error
	for id := range p.site.nodes {
		p.addrs[id] = p.site.serve(p.T, id, func(cfg *mupdate.Config) {
			for _, o := range options {
				bad = errors.Join(bad, option(cfg, o))
			}
		})
	}
	return bad
}

func option(cfg *mupdate.Config, o string) error {
	each := func(f func(*mupdate.Identity)) {
		for name, id := range cfg.Identities {
			f(&id)
			cfg.Identities[name] = id
		}
	}
	switch key, value, _ := strings.Cut(o, "="); key {
	case "delete-unknown":
		cfg.DenyUnknownDelete = value == "no"
	case "unbound-delete":
		cfg.DenyUnboundDelete = value == "deny"
	case "complete-transfer":
		cfg.CompleteTransfer = true
	case "read-only":
		cfg.ReadOnly = true
	case "permissive":
		each(func(id *mupdate.Identity) { id.Permissive = true })
	case "order":
		order, err := mbox.ParseOrder(value)
		each(func(id *mupdate.Identity) { id.Order = order })
		return err
	default:
		return fmt.Errorf("unknown option %q", o)
	}
	return nil
}

func (p *player) step(verb, rest string) error {
	words := strings.Fields(rest)
	switch verb {
	case "site":
		return p.begin(words[0], words[1:])
	case "on":
		return p.on(words)
	case "is":
		return p.is(rest)
	case "history", "cut", "conflict", "orphan", "ended":
		return p.soon(verb, words)
	case "not":
		if p.holds(words[0], words[1:]) == nil {
			return errors.New("it is so")
		}
		return nil
	}
	c := p.conns[p.name]
	c.SetDeadline(time.Now().Add(patience))
	text := strings.ReplaceAll(rest, `\t`, "\t")
	switch verb {
	case "C:":
		return c.send(text + "\r\n")
	case "S:":
		if got, err := c.line(); err != nil || got != text {
			return fmt.Errorf("got %q, %v", got, err)
		}
		return nil
	case "S~":
		if got, err := c.line(); err != nil || !regexp.MustCompile(`^(?:`+text+`)$`).MatchString(got) {
			return fmt.Errorf("got %q, %v", got, err)
		}
		return nil
	case "closed":
		var ne net.Error
		if got, err := c.line(); err == nil || errors.As(err, &ne) && ne.Timeout() {
			return fmt.Errorf("still open, got %q", got)
		}
		return nil
	case "drop":
		delete(p.conns, p.name)
		return c.Close()
	}
	return fmt.Errorf("unknown verb %q", verb)
}

func (p *player) on(words []string) error {
	if p.name = words[0]; p.conns[p.name] != nil {
		return nil
	}
	node := "c1"
	if len(words) > 2 {
		node = words[2]
	}
	c := connect(p.T, p.addrs[node])
	p.conns[p.name] = c
	return c.login(words[1])
}

func (c *talk) login(user string) error {
	c.SetDeadline(time.Now().Add(patience))
	response := base64.StdEncoding.EncodeToString([]byte("\x00" + user + "\x00" + password))
	if err := c.send(`A01 AUTHENTICATE "PLAIN" "` + response + "\"\r\n"); err != nil {
		return err
	}
	for {
		got, err := c.line()
		if err != nil || strings.HasPrefix(got, "A01 OK") {
			return err
		}
		if !strings.HasPrefix(got, "* ") {
			return fmt.Errorf("logging in: %q", got)
		}
	}
}

var states = map[string]mbox.State{"absent": mbox.Absent, "reserved": mbox.Reserved, "transfer": mbox.Reserved, "active": mbox.Active}

func (p *player) is(rest string) error {
	words := append(strings.SplitN(rest, " ", 4), "", "")
	for i := range words {
		words[i] = strings.ReplaceAll(words[i], `\t`, "\t")
		if words[i] == "_" {
			words[i] = ""
		}
	}
	state, ok := states[words[0]]
	if !ok {
		return fmt.Errorf("unknown state %q", words[0])
	}
	want := mbox.Entry{Name: mbox.Name(words[1]), State: state, Transfer: words[0] == "transfer",
		Location: mbox.Location(words[2]), ACL: mbox.ACL(words[3])}
	ctx, cancel := context.WithTimeout(p.Context(), patience)
	defer cancel()
	for id, n := range p.site.nodes {
		if _, err := n.Barrier(ctx); err != nil {
			return err
		}
		got, _ := n.View().Get(want.Name)
		got.Name, got.Index = want.Name, 0
		if got != want {
			return fmt.Errorf("on %s it is %+v", id, got)
		}
	}
	return nil
}

// soon waits for what the end of a session brings about.
func (p *player) soon(what string, words []string) error {
	ctx, cancel := context.WithTimeout(p.Context(), patience)
	defer cancel()
	n := p.site.nodes["c1"]
	for {
		at := n.View().Index()
		err := p.holds(what, words)
		if err == nil {
			return nil
		}
		if _, _, timeout := n.Changes(ctx, at); timeout != nil {
			return err
		}
	}
}

func (p *player) holds(what string, words []string) error {
	v := p.site.nodes["c1"].State()
	name := mbox.Name(words[0])
	is := false
	switch what {
	case "history":
		got := []string{}
		v.History(name, func(e fsm.Event) bool { got = append(got, e.Kind.String()); return true })
		if strings.Join(got, " ") != strings.Join(words[1:], " ") {
			return fmt.Errorf("it is %q", got)
		}
		is = true
	case "cut":
		v.CutRenames(func(c fsm.CutRename) bool { is = c.Name == name; return !is })
	case "conflict":
		is = v.InConflict(name)
	case "orphan":
		is = v.TransferOrphaned(name)
	case "ended":
		h, _ := v.Hold(name)
		l, known := v.Lease(h.Session)
		is = known && l.Ended
	}
	if !is {
		return errors.New("it is not so")
	}
	return nil
}
