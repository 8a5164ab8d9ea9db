package imap

import (
	"bytes"
	"strings"
	"time"

	"murder/internal/mbox"
)

// batch is how many lines of a listing are prepared at a time: the bound on its memory.
const batch = 100

// lister completes the lines of one LIST answer with what backends know, and sends them in order.
type lister struct {
	s    *session
	l    *listing
	subs map[mbox.Extern]bool
	wait []listed
	buf  []byte
	down map[mbox.Server]bool // could not be asked
	err  error
}

func (o *lister) add(item listed) bool {
	o.wait = append(o.wait, item)
	if len(o.wait) == batch {
		o.send()
	}
	return o.err == nil
}

// failed notes that a backend's part of the answer is missing.
func (o *lister) failed(server mbox.Server) {
	if o.down == nil {
		o.down = make(map[mbox.Server]bool)
	}
	o.down[server] = true
}

// send completes and sends what has been gathered.
func (o *lister) send() {
	asked := make([][]*question, len(o.wait))
	for i := range o.wait {
		item := &o.wait[i]
		server := item.entry.Location.Server()
		if item.entry.State != mbox.Active || o.down[server] {
			continue
		}
		if o.l.use {
			use, err := o.s.special.of(o.s, server)
			if err != nil {
				o.failed(server)
				continue
			}
			item.use = use[item.ext]
		}
		if o.l.onlyUse && item.use == "" {
			continue
		}
		for _, want := range []struct{ verb, args, word string }{{"STATUS", o.l.status, "STATUS"}, {"GETMETADATA", o.l.metadata, "METADATA"}} {
			if want.args == "" {
				continue
			}
			q, err := o.s.question(server, want.verb, item.ext, want.args, want.word)
			if err != nil {
				o.failed(server)
				break
			}
			asked[i] = append(asked[i], q)
		}
	}
	o.s.flushAll()
	for i, item := range o.wait {
		if o.l.onlyUse && item.use == "" {
			continue
		}
		o.s.writeRaw(o.line(item))
		if o.l.rights && item.entry.State == mbox.Active {
			o.s.writeRaw([]byte("* MYRIGHTS " + o.s.nameString(string(item.ext)) + " " + astring(o.s.effective(item.entry).String()) + "\r\n"))
		}
		for _, q := range asked[i] {
			<-q.x.done
			if q.x.err != nil {
				o.failed(item.entry.Location.Server())
			}
			o.s.writeRaw(q.lines)
		}
	}
	o.wait = o.wait[:0]
	o.s.out.Lock()
	o.err = o.s.out.err
	o.s.out.Unlock()
}

// line writes one LIST line, over the one before.
func (o *lister) line(item listed) []byte {
	sep := string(o.s.view.Separator())
	b := append(o.buf[:0], "* "+o.l.word+" ("...)
	begin := len(b)
	flag := func(f string) {
		if len(b) > begin {
			b = append(b, ' ')
		}
		b = append(b, f...)
	}
	if item.entry.State == mbox.Absent {
		if o.l.extended && item.sub {
			flag(`\NonExistent`)
		} else {
			flag(`\Noselect`)
		}
	}
	if item.children {
		flag(`\HasChildren`)
	} else if item.entry.State != mbox.Absent {
		flag(`\HasNoChildren`)
	}
	if o.l.subs && (item.sub || o.subs[item.ext]) {
		flag(`\Subscribed`)
	}
	if item.use != "" {
		flag(item.use)
	}
	if o.l.word == "XLIST" && item.ext == "INBOX" {
		flag(`\Inbox`)
	}
	b = append(append(append(b, ") "...), quote(sep)...), ' ')
	b = append(b, o.s.nameString(string(item.ext))...)
	if item.childSub {
		b = append(b, ` ("CHILDINFO" ("SUBSCRIBED"))`...)
	}
	o.buf = append(b, "\r\n"...)
	return o.buf
}

// question is a command about one mailbox for which its backend's lines are kept.
type question struct {
	x     *exchange
	lines []byte
}

// question queues "VERB name arguments" at server; the connection is to be flushed before the answer is
// awaited. Lines of the answer begin with word.
func (s *session) question(server mbox.Server, verb string, ext mbox.Extern, args, word string) (*question, error) {
	b, err := s.to(server)
	if err != nil {
		return nil, err
	}
	q := &question{}
	q.x = &exchange{hold: true, all: b == s.sel, stall: s.cfg.Limits.BackendReply, take: func(line []byte) bool {
		if bytes.HasPrefix(line, []byte("* "+word+" ")) {
			q.lines = append(q.lines, line...)
			return true
		}
		return false
	}}
	if err := b.begin(q.x); err != nil {
		return nil, err
	}
	raw := appendName([]byte(q.x.tag+" "+verb), string(ext))
	raw = append(append(append(raw, ' '), args...), "\r\n"...)
	b.out.put(raw)
	return q, nil
}

// flushAll sends what has been queued for backends.
func (s *session) flushAll() {
	for _, c := range s.conns {
		c.push()
	}
}

// specialUse caches which mailboxes of each backend have special-use flags (RFC 6154).
type specialUse struct {
	servers map[mbox.Server]useAt
}

type useAt struct {
	at    time.Time
	flags map[mbox.Extern]string
}

// forget drops everything, after the user has changed something.
func (u *specialUse) forget() { u.servers = nil }

// of returns the flags at one backend, asked at most once a minute.
func (u *specialUse) of(s *session, server mbox.Server) (map[mbox.Extern]string, error) {
	if have, ok := u.servers[server]; ok && time.Since(have.at) < time.Minute {
		return have.flags, nil
	}
	flags := make(map[mbox.Extern]string)
	x := &exchange{stall: s.cfg.Limits.BackendReply, take: func(line []byte) bool {
		attrs, name, ok := parseListLine(line, "LIST")
		if !ok {
			return false
		}
		var uses []string
		for _, a := range attrs {
			switch strings.ToLower(a) {
			case `\all`, `\archive`, `\drafts`, `\flagged`, `\junk`, `\sent`, `\trash`, `\important`, `\snoozed`, `\scheduled`, `\memos`:
				uses = append(uses, a)
			}
		}
		if len(uses) > 0 && len(flags) < 10_000 {
			flags[name] = strings.Join(uses, " ")
		}
		return true
	}}
	err := s.ask(server, true, x, func(tag string) []byte { return []byte(tag + ` LIST (SPECIAL-USE) "" "*"` + "\r\n") })
	if err == nil {
		if st, _, _ := condition(x.tagged); st != statusOK {
			err = refusalOf(x.tagged) // nothing is known, which is not that there are none
		}
	}
	if err != nil {
		return nil, err
	}
	if u.servers == nil {
		u.servers = make(map[mbox.Server]useAt)
	}
	u.servers[server] = useAt{at: time.Now(), flags: flags}
	return flags, nil
}

// parseListLine reads "* WORD (attributes) separator name".
func parseListLine(line []byte, word string) (attrs []string, name mbox.Extern, ok bool) {
	rest, ok := bytes.CutPrefix(line, []byte("* "+word+" "))
	if !ok {
		return nil, "", false
	}
	p := parser{b: bytes.TrimRight(rest, "\r\n")}
	attrs, err := p.list()
	if err != nil || !p.eat(' ') {
		return nil, "", false
	}
	if _, err := p.astring(false); err != nil {
		return nil, "", false
	}
	s, err := p.arg()
	return attrs, mbox.Extern(s), err == nil
}
