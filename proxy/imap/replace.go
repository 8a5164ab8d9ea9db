package imap

import "strings"

// replace executes REPLACE (RFC 8508). The backend does it if it can and has both mailboxes; else the new
// message is appended first, and the old one removed when the other is safe.
func (s *session) replace(c *command) error {
	p := parser{b: c.line, pos: c.args}
	set, err := p.arg()
	if err != nil {
		return s.refuseLiteral(c, err)
	}
	seq := c.args
	c.args = p.pos
	ext, head, err := s.firstArg(c)
	if err != nil {
		return err
	}
	to, err := s.look(ext)
	if err != nil {
		return s.refuseLiteral(c, s.tryCreate(err))
	}
	if to.Location.Server() == s.sel.server && s.sel.caps.has("REPLACE") {
		x, err := s.streamTo(s.sel.server, c, head)
		if err != nil {
			return err
		}
		return s.tagged(c, x)
	}
	if strings.Trim(set, "0123456789*") != "" {
		return s.refuseLiteral(c, bad("One message is replaced at a time"))
	}
	if err := s.mayCopy(to, true); err != nil {
		return s.refuseLiteral(c, err)
	}
	uid, err := s.uidOf(strings.TrimSuffix(c.name, "REPLACE") + "FETCH" + string(head[seq:c.args]) + " (UID)")
	if err != nil {
		return s.refuseLiteral(c, err)
	}
	x, err := s.streamTo(to.Location.Server(), c, append([]byte(c.tag+" APPEND"), head[c.args:]...))
	if err != nil {
		return err
	}
	st, code, _ := condition(x.tagged)
	if st != statusOK {
		return s.tagged(c, x)
	}
	if code != "" {
		s.writeRaw([]byte("* OK [" + code + "] Replacement is there\r\n"))
	}
	return (&transfer{s: s, src: s.sel, copied: []uint32{uid}}).removeSource()
}

// uidOf runs a FETCH of the UID of one message of the selected mailbox.
func (s *session) uidOf(fetch string) (uid uint32, err error) {
	x := &exchange{all: true, take: func(line []byte) bool {
		m, _ := parseSurvey(line)
		if uid == 0 {
			uid = m.uid
		}
		return m.uid != 0 && m.flags == "" // with flags it is news
	}}
	if err := s.sel.do(x, func(tag string) []byte { return []byte(tag + " " + fetch + "\r\n") }); err != nil {
		return 0, err
	}
	if st, _, _ := condition(x.tagged); st != statusOK {
		return 0, refusalOf(x.tagged)
	}
	if uid == 0 {
		return 0, no("", "No such message")
	}
	return uid, nil
}
