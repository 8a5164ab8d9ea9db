package imap

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"murder/internal/imapwire"
	"murder/internal/mbox"
)

// maxURL bounds a URL given as a literal.
const maxURL = 4 << 10

// catenate is an APPEND whose message is put together of texts and of parts of other messages
// (RFC 4469). A part that lies at another server than the destination is fetched here and sent as text;
// nothing is kept. What cannot be fetched goes on as the URL it was, for the destination to refuse: it
// knows how to say BADURL.
type catenate struct {
	s    *session
	c    *command
	dst  *conn
	x    *exchange
	open map[mbox.Server]*signOn // where parts come from
	part bool                    // there has been one already
	size int64                   // of those that are not URLs at the destination
}

// catenateAt returns where the parts begin, if the first message of an APPEND is to be put together.
func catenateAt(head []byte, pos int) (int, bool) {
	p := parser{b: head, pos: pos}
	if _, err := p.arg(); err != nil {
		return 0, false
	}
	p.eat(' ')
	if p.next() == '(' {
		if _, err := p.list(); err != nil {
			return 0, false
		}
		p.eat(' ')
	}
	if p.next() == '"' {
		if _, err := p.quoted(); err != nil {
			return 0, false
		}
		p.eat(' ')
	}
	const word = "CATENATE ("
	return p.pos + len(word), hasPrefixFold(p.rest(), word)
}

// catenateTo streams the command to server; head is what has been read of it, with the parts from at on.
func (s *session) catenateTo(server mbox.Server, c *command, head []byte, at int) (*exchange, error) {
	b, err := s.to(server)
	if err != nil {
		return nil, s.refuseLiteral(c, err)
	}
	x := &exchange{tag: c.tag, hold: true, relayMore: true, more: make(chan struct{}, 1), all: b == s.sel}
	k := &catenate{s: s, c: c, dst: b, x: x, open: make(map[mbox.Server]*signOn)}
	defer func() {
		for _, so := range k.open {
			so.close()
		}
	}()
	if err := b.begin(x); err != nil {
		return nil, s.refuseLiteral(c, err)
	}
	b.out.put(head[:at])
	err = k.parts(head[at:])
	if err == nil {
		err = b.out.flush()
	}
	if errors.Is(err, errSyntax) || err == error(errTooBig) {
		if err = s.giveUp(c, b, x, err); !errors.Is(err, errClient) {
			return nil, err
		}
	}
	if err != nil {
		// An incomplete command must not stay open at a backend.
		b.hangUp(err)
		return nil, err
	}
	<-x.done
	return x, x.err
}

// parts passes everything from the first part on.
func (k *catenate) parts(text []byte) error {
	p := parser{b: bytes.Clone(text)}
	for {
		for p.eat(' ') {
		}
		if p.eat(')') {
			k.dst.out.put([]byte(")"))
			return k.s.streamOn(k.c, k.dst, k.x, p.rest())
		}
		word, err := p.astring(false)
		if err != nil || !p.eat(' ') {
			return fmt.Errorf("%w: a part of the message is missing", errSyntax)
		}
		if k.part {
			k.dst.out.put([]byte(" "))
		}
		k.part = true
		literal := k.c.open && literalIsFirst(append([]byte(" "), p.rest()...))
		switch strings.ToUpper(word) {
		case "TEXT":
			if !literal {
				return fmt.Errorf("%w: TEXT needs a literal", errSyntax)
			}
			if err = k.text(k.c.lit.Size); err == nil {
				err = k.grant()
			}
			if err == nil {
				err = k.s.copyLiteral(k.c, k.dst)
			}
			if err == nil {
				p = parser{b: bytes.Clone(k.s.buf)}
			}
		case "URL":
			var link string
			if literal {
				link, err = k.literalURL()
				p = parser{b: bytes.Clone(k.s.buf)}
			} else {
				link, err = p.astring(false)
			}
			if err == nil {
				err = k.url(link)
			}
		default:
			err = fmt.Errorf("%w: unknown part of a message", errSyntax)
		}
		if err != nil {
			return err
		}
	}
}

// text announces a part of the message, if there is room for it.
func (k *catenate) text(size int64) error {
	if limit := k.s.cfg.Limits.Append; limit > 0 && k.size+size > limit {
		return errTooBig
	}
	k.size += size
	_, err := fmt.Fprintf(&k.dst.out, "TEXT {%d+}\r\n", size)
	return err
}

// grant lets the client send its next literal.
func (k *catenate) grant() error {
	if k.c.lit.NonSync {
		return nil
	}
	return k.s.say("+ Go ahead\r\n")
}

func (k *catenate) literalURL() (string, error) {
	if k.c.lit.Size > maxURL {
		return "", fmt.Errorf("%w: URL too long", errClient)
	}
	if err := k.grant(); err != nil {
		return "", err
	}
	var link []byte
	err := k.s.in.copyN(k.c.lit.Size, func(b []byte) error { link = append(link, b...); return nil })
	if err != nil {
		return "", fmt.Errorf("%w: %w", errClient, err)
	}
	k.s.buf, err = k.s.nextLine(k.s.buf[:0], k.c)
	return string(link), err
}

// url sends one part given by URL.
func (k *catenate) url(link string) error {
	part, ok := parsePart(link)
	if ok {
		e, err := k.s.resolve(part.mailbox)
		if err == nil && e.Location.Server() != k.dst.server {
			if sent, err := k.fetch(e.Location.Server(), part); sent || err != nil {
				return err
			}
		}
	}
	k.dst.out.put(imapwire.AppendString([]byte("URL "), link))
	return nil
}

// fetch sends a part that lies at another server; sent is false if there is none, and an error means that
// the destination has been sent something incomplete.
func (k *catenate) fetch(server mbox.Server, part urlPart) (sent bool, err error) {
	so := k.open[server]
	if so == nil {
		if so, err = k.s.aside(server); err != nil {
			k.s.log().Warn("part of a message cannot be fetched", "backend", server, "err", err)
			return false, nil
		}
		k.open[server] = so
	}
	validity, err := so.examine(part.mailbox)
	if err != nil || part.validity != "" && validity != part.validity {
		return false, nil
	}
	so.nc.SetDeadline(time.Now().Add(k.s.cfg.Limits.BackendStall))
	tag, err := so.send("UID FETCH " + part.uid + " BODY.PEEK[" + part.section + "]" + part.partial)
	if err != nil {
		return false, nil
	}
	for {
		line, err := so.in.appendLine(nil, maxTagged)
		if err != nil {
			return sent, lostIf(sent, err)
		}
		if strings.HasPrefix(string(line), tag+" ") {
			return sent, nil
		}
		lit, more, err := imapwire.TrailingLiteral(line)
		if err != nil {
			return sent, lostIf(sent, err)
		}
		if !more {
			continue
		}
		put := func([]byte) error { return nil }
		if !sent && bytes.Contains(line, []byte(" FETCH (")) && bytes.Contains(line, []byte("BODY[")) {
			if err := k.text(lit.Size); err == error(errTooBig) {
				return false, err
			}
			sent = true
			put = func(b []byte) error {
				k.dst.out.put(b)
				k.dst.extend()
				so.nc.SetDeadline(time.Now().Add(k.s.cfg.Limits.BackendStall))
				return nil
			}
		}
		if err := so.in.copyN(lit.Size, put); err != nil {
			return sent, lostIf(sent, err)
		}
	}
}

func lostIf(sent bool, err error) error {
	if !sent {
		return nil
	}
	return errors.Join(errBackendDown, err)
}

// urlPart is what a URL of a part of a message names (RFC 5092).
type urlPart struct{ mailbox, validity, uid, section, partial string }

// parsePart reads "/mailbox;UIDVALIDITY=v/;UID=n/;SECTION=s/;PARTIAL=from.count". URLs that name a
// server are not ours to follow.
func parsePart(link string) (part urlPart, ok bool) {
	path, ok := strings.CutPrefix(link, "/")
	if !ok || strings.HasPrefix(path, "/") {
		return part, false
	}
	pieces := strings.Split(path, "/;")
	name := pieces[0]
	if i := strings.Index(strings.ToUpper(name), ";UIDVALIDITY="); i >= 0 {
		name, part.validity = name[:i], name[i+len(";UIDVALIDITY="):]
	}
	var err error
	if part.mailbox, err = url.PathUnescape(name); err != nil || part.mailbox == "" {
		return part, false
	}
	for _, piece := range pieces[1:] {
		key, value, _ := strings.Cut(piece, "=")
		if value, err = url.PathUnescape(value); err != nil || strings.ContainsAny(value, "]\r\n\x00") {
			return part, false
		}
		switch strings.ToUpper(key) {
		case "UID":
			part.uid = value
		case "SECTION":
			part.section = value
		case "PARTIAL":
			if strings.Trim(value, "0123456789.") != "" {
				return part, false
			}
			part.partial = "<" + value + ">"
		}
	}
	return part, part.uid != "" && strings.Trim(part.uid, "0123456789") == ""
}
