package imap

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"murder/internal/imapwire"
	"murder/internal/mbox"
)

// maxCopy bounds the messages of one COPY or MOVE between servers.
const maxCopy = 10_000

// message is one to be copied.
type message struct {
	uid   uint32
	flags string // without \Recent, with parentheses
	date  string // quoted
}

// transfer is one COPY or MOVE between servers: one APPEND of all messages at the destination,
// which makes it all or nothing (RFC 3502), fed from a FETCH at the source.
type transfer struct {
	s        *session
	src, dst *conn
	to       string // destination, as the client named it
	list     []message
	pending  map[uint32]message // not copied yet
	copied   []uint32           // in the order of the APPEND
	x        *exchange          // the APPEND
	err      error
}

// copyAcross executes a COPY or MOVE whose destination is on another server. Order matters: nothing
// is removed here before the destination has said that it holds the copies. A duplicate is
// acceptable, a loss is not.
func (s *session) copyAcross(c *command, set, ext string, to mbox.Entry) error {
	byUID := strings.HasPrefix(c.name, "UID ")
	move := strings.HasSuffix(c.name, "MOVE")
	if err := s.mayCopy(to, move); err != nil {
		return err
	}
	t := &transfer{s: s, src: s.sel, to: ext, pending: make(map[uint32]message)}
	verb := "FETCH "
	if byUID {
		verb = "UID FETCH "
	}
	if err := t.survey(verb + set + " (UID FLAGS INTERNALDATE)"); err != nil {
		return err
	}
	if len(t.list) == 0 {
		if byUID {
			return ok("Nothing to copy")
		}
		return no("", "No matching messages")
	}
	var err error
	if t.dst, err = s.to(to.Location.Server()); err != nil {
		return err
	}
	if !t.dst.caps.has("LITERAL+") || len(t.list) > 1 && !t.dst.caps.has("MULTIAPPEND") {
		return no("CANNOT", "The destination's server cannot take these at once")
	}
	uids, err := t.copy()
	if err != nil {
		return err
	}
	if len(t.copied) == 0 {
		return ok("Nothing to copy") // all of them have vanished meanwhile
	}
	code := ""
	if uids != "" && s.rights(to).Has(mbox.Read) {
		validity, dest, _ := strings.Cut(uids, " ")
		code = "COPYUID " + validity + " " + formatSet(t.copied) + " " + dest
	}
	if !move {
		return okCode(code, "Completed")
	}
	if code != "" {
		s.writeRaw([]byte("* OK [" + code + "] Copied\r\n"))
	}
	return t.removeSource()
}

// survey asks the source which messages there are, with what has to be kept of each.
func (t *transfer) survey(cmd string) error {
	tooMany := false
	x := &exchange{all: true, take: func(line []byte) bool {
		m, ok := parseSurvey(line)
		if !ok {
			return false
		}
		if tooMany = tooMany || len(t.list) == maxCopy; !tooMany {
			t.list = append(t.list, m)
			t.pending[m.uid] = m
		}
		return true
	}}
	if err := t.src.do(x, func(tag string) []byte { return []byte(tag + " " + cmd + "\r\n") }); err != nil {
		return err
	}
	if st, _, _ := condition(x.tagged); st != statusOK {
		return refusalOf(x.tagged)
	}
	if tooMany {
		return no("LIMIT", fmt.Sprintf("At most %d messages at a time go to another server", maxCopy))
	}
	return nil
}

// parseSurvey reads "* n FETCH (UID n FLAGS (...) INTERNALDATE "...")", in any order. A line that lacks
// one of them is news about another message, and for the client.
func parseSurvey(line []byte) (m message, ok bool) {
	i := bytes.Index(line, []byte(" FETCH ("))
	if i < 0 {
		return m, false
	}
	p := parser{b: bytes.TrimRight(line[i+len(" FETCH "):], "\r\n")}
	items, err := p.list()
	if err != nil {
		return m, false
	}
	for j := 0; j+1 < len(items); j += 2 {
		value := items[j+1]
		switch strings.ToUpper(items[j]) {
		case "UID":
			n, err := strconv.ParseUint(value, 10, 32)
			if err != nil {
				return m, false
			}
			m.uid = uint32(n)
		case "FLAGS":
			flags := slices.DeleteFunc(strings.Fields(strings.Trim(value, "()")), func(f string) bool { return strings.EqualFold(f, `\Recent`) })
			m.flags = "(" + strings.Join(flags, " ") + ")"
		case "INTERNALDATE":
			m.date = quote(value)
		}
	}
	return m, m.uid != 0 && m.flags != "" && m.date != ""
}

// copy streams the messages over and returns "uidvalidity uids" of the copies, "" if unknown.
func (t *transfer) copy() (string, error) {
	uids := make([]uint32, len(t.list))
	for i, m := range t.list {
		uids[i] = m.uid
	}
	t.x = &exchange{hold: true}
	if err := t.dst.begin(t.x); err != nil {
		return "", err
	}
	fetch := &exchange{all: true, stream: t.body}
	err := t.src.do(fetch, func(tag string) []byte {
		return []byte(tag + " UID FETCH " + formatSet(uids) + " (UID BODY.PEEK[])\r\n")
	})
	if err == nil {
		err = t.err
	}
	if st, _, _ := condition(fetch.tagged); err == nil && st != statusOK {
		err = refusalOf(fetch.tagged)
	}
	if err != nil || len(t.copied) == 0 {
		// Without its last line the APPEND does not exist.
		refused := t.refusal()
		t.s.drop(t.dst)
		if refused != nil {
			err = refused
		}
		return "", err
	}
	t.dst.write([]byte("\r\n"))
	<-t.x.done
	if t.x.err != nil {
		return "", t.x.err // the outcome is unknown
	}
	st, code, _ := condition(t.x.tagged)
	t.s.srv.metrics.atBackend(t.dst.server, st)
	if st != statusOK {
		return "", refusalOf(t.x.tagged)
	}
	if rest, ok := strings.CutPrefix(code, "APPENDUID "); ok {
		if _, set, ok := strings.Cut(rest, " "); ok && countSet(set) == len(t.copied) {
			return rest, nil
		}
	}
	return "", nil
}

// refusal returns the destination's answer if it has come before its time.
func (t *transfer) refusal() error {
	if !t.x.ended() {
		return nil
	}
	if t.x.err != nil {
		return errBackendDown
	}
	return refusalOf(t.x.tagged)
}

// body passes one message from the source to the destination. It runs on the source's pump.
func (t *transfer) body(head []byte) (bool, error) {
	if !bytes.Contains(head, []byte(" FETCH (")) {
		return false, nil
	}
	line, err := t.src.in.appendLine(nil, maxTagged)
	if err != nil {
		return true, err
	}
	lit, more, err := imapwire.TrailingLiteral(line)
	if err != nil {
		return true, err
	}
	m, wanted := t.wanted(line)
	if !more {
		if wanted {
			t.fail(fmt.Errorf("message %d has no body as a literal", m.uid))
		} else {
			t.s.writeRaw(append(line, "\r\n"...)) // news about a message
		}
		return true, nil
	}
	if !wanted {
		t.fail(errors.New("a message came that was not asked for, or without its UID"))
	}
	put := func([]byte) error { return nil }
	if t.err == nil {
		delete(t.pending, m.uid)
		t.open(m, lit.Size)
	}
	if t.err == nil {
		put = t.dst.out.put
	}
	// A destination that is lost is noticed at the end; the source's answer is read in any case.
	wait := t.src.in.wait
	t.src.in.wait = func() { t.dst.out.flush(); t.src.anew() }
	err = t.src.in.copyN(lit.Size, func(p []byte) error {
		put(p)
		t.src.extend()
		t.dst.extend() // it cannot answer yet
		return nil
	})
	t.src.in.wait = wait
	if err != nil {
		return true, err
	}
	if t.dst.out.err != nil {
		t.fail(errBackendDown)
	}
	return true, t.src.in.copyResponse(func([]byte) error { return nil })
}

// wanted finds the message a FETCH line is about.
func (t *transfer) wanted(line []byte) (message, bool) {
	upper := bytes.ToUpper(line)
	if !bytes.Contains(upper, []byte("BODY[]")) {
		return message{}, false
	}
	i := bytes.Index(upper, []byte("UID "))
	if i < 0 {
		return message{}, false
	}
	digits, _ := cutWord(upper[i+4:])
	n, err := strconv.ParseUint(string(bytes.Trim(digits, "()")), 10, 32)
	m, ok := t.pending[uint32(n)]
	return m, err == nil && ok
}

// open announces one message at the destination.
func (t *transfer) open(m message, size int64) {
	if t.x.ended() {
		t.fail(errLost) // refused already; what it said is told at the end
		return
	}
	var b []byte
	if len(t.copied) == 0 {
		b = appendName([]byte(t.x.tag+" APPEND"), t.to)
	}
	b = fmt.Appendf(b, " %s %s {%d+}\r\n", m.flags, m.date, size)
	t.dst.out.put(b)
	t.copied = append(t.copied, m.uid)
}

func (t *transfer) fail(err error) {
	if t.err == nil {
		t.err = err
	}
}

// removeSource ends a MOVE: what has been copied is expunged here, and nothing else.
func (t *transfer) removeSource() error {
	set := formatSet(t.copied)
	for _, cmd := range []string{"UID STORE " + set + ` +FLAGS.SILENT (\Deleted)`, "UID EXPUNGE " + set} {
		x := &exchange{all: true}
		err := t.src.do(x, func(tag string) []byte { return []byte(tag + " " + cmd + "\r\n") })
		if err != nil {
			return no("UNAVAILABLE", "The messages were copied, but the server of this mailbox was lost before they were removed here")
		}
		if st, _, text := condition(x.tagged); st != statusOK {
			undo := &exchange{all: true}
			t.src.do(undo, func(tag string) []byte {
				return []byte(tag + " UID STORE " + set + ` -FLAGS.SILENT (\Deleted)` + "\r\n")
			})
			return no("CANNOT", "The messages were copied but not removed here: "+text)
		}
	}
	return ok("Completed")
}

// formatSet writes UIDs, in their order, as a sequence set.
func formatSet(uids []uint32) string {
	var b strings.Builder
	for i := 0; i < len(uids); {
		j := i
		for j+1 < len(uids) && uids[j+1] == uids[j]+1 {
			j++
		}
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.FormatUint(uint64(uids[i]), 10))
		if j > i {
			b.WriteByte(':')
			b.WriteString(strconv.FormatUint(uint64(uids[j]), 10))
		}
		i = j + 1
	}
	return b.String()
}

// countSet returns how many numbers a set of ascending ranges without "*" holds.
func countSet(set string) int {
	n := 0
	for part := range strings.SplitSeq(set, ",") {
		from, to, isRange := strings.Cut(part, ":")
		a, err := strconv.ParseUint(from, 10, 32)
		if err != nil {
			return -1
		}
		b := a
		if isRange {
			if b, err = strconv.ParseUint(to, 10, 32); err != nil || b < a {
				return -1
			}
		}
		n += int(b-a) + 1
	}
	return n
}
