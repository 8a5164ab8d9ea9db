package imap

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"murder/internal/imapwire"
	"murder/internal/mbox"
)

// stub is a small backend that really speaks IMAP: enough of it for the stories, with faults to
// order. It registers what it creates in the map, as a Cyrus backend does.
type stub struct {
	tls      *tls.Config // from the first octet, unless nil
	startTLS *tls.Config // at STARTTLS, unless nil
	t        testing.TB
	net      *memoryNet // nil: TCP
	name     mbox.Server
	addr     string
	dir      *memory
	ns       mbox.Namespace
	caps     string

	mu sync.Mutex
	ln net.Listener
	// stopped is closed by stop.
	stopped chan struct{}
	conns   map[net.Conn]struct{}
	boxes   map[mbox.Name]*box
	subs    map[string][]string // by user
	faults  map[string][]string // by verb: what to do instead, first come first served
	seen    []string            // commands, with their users
	tags    []string
	gushed  int
	free    string // of its partitions, "free;total"
	greets  string // capabilities of the greeting
	terse   bool   // they are told only to those who ask
	hello   string // its first word: OK
	// passwords are those of users, who may log in without us.
	passwords map[string]string
	wg        sync.WaitGroup

	below func(net.Conn) net.Conn // put between sockets and TLS, unless nil
}

type box struct {
	validity uint32
	next     uint32
	list     []stubMessage
}

type stubMessage struct {
	uid   uint32
	flags []string
	date  string
	body  []byte
}

const stubCaps = "IMAP4rev1 LITERAL+ ID ENABLE NAMESPACE UIDPLUS MULTIAPPEND UNSELECT IDLE MOVE CONDSTORE QRESYNC ESEARCH SPECIAL-USE LIST-STATUS METADATA CATENATE APPENDLIMIT=1000000"

const gushSize = 200 << 20

func newStub(t testing.TB, n *memoryNet, name mbox.Server, dir *memory, ns mbox.Namespace) *stub {
	b := &stub{t: t, net: n, name: name, dir: dir, ns: ns, caps: stubCaps, boxes: map[mbox.Name]*box{}, subs: map[string][]string{},
		faults: map[string][]string{}, conns: map[net.Conn]struct{}{}, greets: "IMAP4rev1 LITERAL+ ID AUTH=PLAIN SASL-IR", hello: "OK"}
	t.Cleanup(b.stop)
	return b
}

func (b *stub) start() {
	ln := listenOn(b.t, b.net, b.addr)
	b.addr = ln.Addr().String()
	b.mu.Lock()
	b.ln, b.stopped = ln, make(chan struct{})
	b.mu.Unlock()
	b.wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			if b.below != nil {
				conn = b.below(conn)
			}
			if b.tls != nil {
				conn = tls.Server(conn, b.tls)
			}
			b.mu.Lock()
			b.conns[conn] = struct{}{}
			b.mu.Unlock()
			b.wg.Go(func() {
				b.serve(conn)
				conn.Close()
				b.mu.Lock()
				delete(b.conns, conn)
				b.mu.Unlock()
			})
		}
	})
}

// stop cuts everything, as a crash would.
func (b *stub) stop() {
	b.mu.Lock()
	if b.ln != nil {
		b.ln.Close()
		close(b.stopped)
		b.ln = nil
	}
	for conn := range b.conns {
		if tcp, ok := conn.(*net.TCPConn); ok {
			tcp.SetLinger(0)
		}
		conn.Close()
	}
	b.mu.Unlock()
	b.wg.Wait()
}

// tell makes a stub say something to all who are connected.
func (b *stub) tell(line string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for conn := range b.conns {
		fmt.Fprintf(conn, "%s\r\n", line)
	}
}

// hangUp closes the stub's connections.
func (b *stub) hangUp() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for conn := range b.conns {
		conn.Close()
	}
}

// add makes a mailbox and registers it.
func (b *stub) add(name mbox.Name, acl mbox.ACL, bodies ...string) {
	b.mu.Lock()
	bx := &box{validity: 1000 + uint32(len(b.boxes)), next: 1}
	for _, body := range bodies {
		bx.add(stubMessage{body: []byte(body), date: "01-Feb-2026 10:00:00 +0000"})
	}
	b.boxes[name] = bx
	b.mu.Unlock()
	b.dir.set(name, mbox.At(b.name, "default"), acl)
}

func (x *box) add(m stubMessage) uint32 {
	m.uid = x.next
	x.next++
	x.list = append(x.list, m)
	return m.uid
}

func (b *stub) count(name mbox.Name) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if bx := b.boxes[name]; bx != nil {
		return len(bx.list)
	}
	return -1
}

// fail orders a fault for the next use of a verb: "close", "bye", "hang", "gush", or text to say instead,
// with TAG for the tag, \n for a line end, LATER for nine minutes, and THEN-CLOSE or THEN-HANG at the end.
func (b *stub) fail(verb, what string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.faults[verb] = append(b.faults[verb], what)
}

func (b *stub) fault(verb string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := b.faults[verb]
	if len(list) == 0 {
		return ""
	}
	b.faults[verb] = list[1:]
	return list[0]
}

func (b *stub) saw(part string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.ContainsFunc(b.seen, func(s string) bool { return strings.Contains(s, part) })
}

// change gives a stub another character, for connections to come.
func (b *stub) change(how func(*stub)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	how(b)
}

// commands returns what has come, each after the user and a colon.
func (b *stub) commands() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.seen)
}

// forget makes saw begin anew.
func (b *stub) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seen = nil
}

// stubConn is one connection to a stub.
type stubConn struct {
	b      *stub
	conn   net.Conn
	r      *bufio.Reader
	user   string
	view   mbox.Viewer
	sel    mbox.Name
	caps   string // of a user
	before string // of those who have not logged in
	told   int    // how many messages the client knows of
	in     bool   // logged in
	mute   bool
}

func (c *stubConn) say(format string, args ...any) {
	if !c.mute {
		fmt.Fprintf(c.conn, format+"\r\n", args...)
	}
}

func (b *stub) serve(conn net.Conn) {
	b.mu.Lock()
	c := &stubConn{b: b, conn: conn, r: bufio.NewReader(conn), caps: b.caps}
	c.before = b.greets
	if b.startTLS != nil {
		c.before += " STARTTLS"
	}
	hello := b.hello
	if !b.terse {
		hello += " [CAPABILITY " + c.before + "]"
	}
	b.mu.Unlock()
	c.say("* %s %s ready", hello, b.name)
	for c.one() {
	}
}

// read reads one command, with its literals in place. before is asked at each announcement.
func (c *stubConn) read(refuse func(line []byte, lit imapwire.Literal) bool) ([]byte, bool) {
	var raw []byte
	for n := 1; ; n++ {
		start := len(raw)
		var err error
		if raw, err = imapwire.ReadLine(c.r, raw, 1<<20); err != nil {
			return raw, false
		}
		lit, more, _ := imapwire.TrailingLiteral(raw[start:])
		if !more {
			return raw, true
		}
		if !lit.NonSync {
			if refuse(raw, lit) {
				return nil, true
			}
			c.say("+ send it")
		}
		raw = append(raw, "\r\n"...)
		if verb := strings.Fields(string(raw[:min(len(raw), 100)])); lit.NonSync && len(verb) > 1 {
			// A fault at the n-th literal of a command is ordered as "VERB{n".
			switch c.b.fault(fmt.Sprintf("%s{%d", verb[1], n)) {
			case "":
			case "stop":
				go c.b.stop()
				io.Copy(io.Discard, c.r)
				return nil, false
			case "stall": // takes nothing more
				c.b.mu.Lock()
				stopped := c.b.stopped
				c.b.mu.Unlock()
				<-stopped
				return nil, false
			default:
				return nil, false
			}
		}
		data := make([]byte, lit.Size)
		if _, err := io.ReadFull(c.r, data); err != nil {
			return raw, false
		}
		raw = append(raw, data...)
	}
}

func (c *stubConn) one() bool {
	raw, ok := c.read(func(line []byte, lit imapwire.Literal) bool {
		tag, rest, _ := strings.Cut(string(line), " ")
		verb, _, _ := strings.Cut(rest, " ")
		switch f := c.b.fault(strings.ToUpper(verb) + "{"); f {
		case "":
			return false
		case "close":
			c.conn.Close()
			return true
		case "hang":
			io.Copy(io.Discard, c.r)
			return true
		case "sink": // takes any size and keeps nothing
			c.say("+ send it")
			io.CopyN(io.Discard, c.r, lit.Size)
			imapwire.ReadLine(c.r, nil, 10)
			c.say("%s OK sunk", tag)
			return true
		default:
			f, gone := strings.CutSuffix(f, "THEN-CLOSE")
			c.say("%s", strings.ReplaceAll(f, "TAG", tag))
			if gone {
				c.conn.Close()
				return true
			}
			return !strings.HasPrefix(f, "*")
		}
	})
	if !ok {
		return false
	}
	if raw == nil {
		return true
	}
	cmd, err := parseCommand(raw[:max(bytes.IndexByte(append(slices.Clone(raw), '\n'), '\n'), 0)])
	if err != nil {
		c.say("* BAD %v", err)
		return true
	}
	cmd.parser = parser{b: raw, pos: cmd.args}
	c.b.mu.Lock()
	c.b.tags = append(c.b.tags, cmd.tag)
	c.b.seen = append(c.b.seen, c.user+": "+string(raw[len(cmd.tag)+1:]))
	c.b.mu.Unlock()
	switch f := c.b.fault(strings.ReplaceAll(cmd.name, " ", "_")); f {
	case "":
	case "close":
		return false
	case "bye":
		c.say("* BYE stub is leaving")
		return false
	case "lose": // another session has removed message 2
		c.each("2", func(m *stubMessage) { m.flags = append(m.flags, `\Deleted`) })
		c.expunge("2")
		return c.run(cmd)
	case "done-close": // does it, and says nothing
		c.mute = true
		c.run(cmd)
		return false
	case "stop": // the whole server ends
		go c.b.stop()
		io.Copy(io.Discard, c.r)
		return false
	case "gush": // a message of any size, out of nothing
		// By then the session waits for its client. Else it may wait for its writer, a mutex, and virtual time stands still.
		time.Sleep(time.Millisecond)
		block := make([]byte, 1<<16)
		c.say("* 1 FETCH (BODY[] {%d}", gushSize)
		for n := 0; n < gushSize; n += len(block) {
			if _, err := c.conn.Write(block); err != nil {
				return false
			}
			c.b.mu.Lock()
			c.b.gushed = n
			c.b.mu.Unlock()
		}
		c.say(")")
		c.say("%s OK done", cmd.tag)
		return true
	case "hang":
		io.Copy(io.Discard, c.r)
		return false
	default:
		text, hang := strings.CutSuffix(f, "THEN-HANG")
		text, gone := strings.CutSuffix(text, "THEN-CLOSE")
		text = strings.NewReplacer("TAG", cmd.tag, `\n`, "\r\n", `\xff`, "\xff", `\xfe`, "\xfe", `\x01`, "\x01").Replace(text)
		for i, part := range strings.Split(text, "LATER") {
			if i > 0 {
				time.Sleep(9 * time.Minute)
			}
			io.WriteString(c.conn, part)
		}
		if hang {
			io.Copy(io.Discard, c.r)
		}
		if hang || gone {
			return false
		}
		c.say("")
		return true
	}
	return c.run(cmd)
}

func (c *stubConn) run(cmd *command) bool {
	tag := cmd.tag
	if !c.in && !slices.Contains([]string{"CAPABILITY", "AUTHENTICATE", "LOGIN", "LOGOUT", "NOOP", "ID", "STARTTLS"}, cmd.name) {
		c.say("%s BAD Please login first", tag)
		return true
	}
	switch cmd.name {
	case "CAPABILITY":
		if c.in {
			c.say("* CAPABILITY %s", c.caps)
		} else {
			c.say("* CAPABILITY %s", c.before)
		}
	case "STARTTLS":
		c.say("%s OK go on", tag)
		c.conn = tls.Server(c.conn, c.b.startTLS)
		c.before = strings.TrimSuffix(c.before, " STARTTLS")
		c.r = bufio.NewReader(c.conn)
		return true
	case "LOGOUT":
		c.say("* BYE bye")
		c.say("%s OK done", tag)
		return false
	case "AUTHENTICATE":
		cmd.arg()
		response := cmd.rest()
		if !cmd.eat(' ') {
			c.say("+ ")
			response, _ = imapwire.ReadLine(c.r, nil, 1000)
		}
		plain, _ := base64.StdEncoding.DecodeString(strings.TrimSpace(string(response)))
		parts := strings.Split(string(plain), "\x00")
		if len(parts) == 3 && parts[0] == "" && c.own(tag, parts[1], parts[2]) {
			return true
		}
		if len(parts) != 3 || parts[1] != "murder" || parts[2] != "secret" {
			c.say("%s NO [AUTHENTICATIONFAILED] no", tag)
			return true
		}
		if parts[0] == "denied" {
			c.say("%s NO authorization failure", tag)
			return true
		}
		c.user, c.in = parts[0], true
		c.view = c.b.ns.View(mbox.UserID(c.user), c.user == "cyrus" || c.user == "", false)
		c.say("%s OK [CAPABILITY %s] you are %s", tag, c.caps, c.user)
		return true
	case "LOGIN":
		user, _ := cmd.arg()
		password, _ := cmd.arg()
		if !c.own(tag, user, password) {
			c.say("%s NO Login incorrect", tag)
		}
		return true
	case "NOOP":
		if n := c.b.count(c.sel); c.sel != "" && n != c.told {
			c.told = n
			c.say("* %d EXISTS", n)
		}
	case "ID", "CHECK":
	case "NAMESPACE":
		c.say("%s", (&session{view: c.view}).namespaces())
	case "ENABLE":
		c.say("* ENABLED%s", cmd.rest())
		if strings.Contains(string(cmd.rest()), "UTF8=ACCEPT") {
			c.view = c.b.ns.View(mbox.UserID(c.user), c.user == "cyrus", true)
		}
	case "IDLE":
		return c.idle(tag)
	case "SELECT", "EXAMINE":
		c.open(cmd)
		return true
	case "CLOSE", "UNSELECT":
		c.sel = ""
	case "GETMETADATA":
		c.b.mu.Lock()
		free := c.b.free
		c.b.mu.Unlock()
		if free != "" && strings.Contains(string(cmd.rest()), spaceEntry) {
			c.say(`* METADATA "" (%s "%s")`, spaceEntry, free)
			break
		}
		c.withBox(cmd, func(ext string, _ mbox.Name, _ *box) {
			c.say(`* METADATA %s ("/shared/comment" "of %s")`, quote(ext), c.b.name)
		})
		return true
	case "STATUS":
		c.withBox(cmd, func(ext string, name mbox.Name, _ *box) {
			c.say("* STATUS %s (MESSAGES %d)", quote(ext), c.b.count(name))
		})
		return true
	case "APPEND":
		c.append(cmd)
		return true
	case "FETCH", "UID FETCH":
		c.fetch(cmd)
	case "UID STORE":
		set := cmd.set()
		c.each(set, func(m *stubMessage) {
			if strings.Contains(string(cmd.rest()), "+FLAGS") {
				m.flags = append(m.flags, `\Deleted`)
			}
		})
	case "UID EXPUNGE":
		set := cmd.set()
		c.expunge(set)
	case "SEARCH", "UID SEARCH":
		c.say(`* ESEARCH (TAG "%s") ALL 1`, tag)
	case "LSUB":
		for _, name := range c.b.subs[c.user] {
			c.say(`* LSUB () "/" %s`, quote(name))
		}
	case "SUBSCRIBE":
		name, _ := cmd.arg()
		c.b.mu.Lock()
		c.b.subs[c.user] = append(c.b.subs[c.user], name)
		c.b.mu.Unlock()
	case "LIST":
		if c.user == "" {
			cmd.arg()
			ext, _ := cmd.arg()
			name, _ := c.view.Internal(mbox.Extern(ext))
			if c.b.count(name) >= 0 {
				c.say(`* LIST () "/" %s`, quote(ext))
			}
			break
		}
		c.say(`* LIST (\HasNoChildren \Sent) "/" Sent`)
	case "CREATE":
		ext, _ := cmd.arg()
		name, _ := c.view.Internal(mbox.Extern(ext))
		owner, ok := c.b.ns.Owner(name)
		if !ok {
			owner = mbox.UserID(c.user)
		}
		c.b.add(name, mbox.ACL(owner+"\tlrswipkxtecda\t"))
		c.say("%s OK [MAILBOXID (x1)] created", tag)
		return true
	case "DELETE":
		c.withBox(cmd, func(_ string, name mbox.Name, _ *box) {
			c.b.drop(name)
		})
		return true
	case "RENAME":
		from, _ := cmd.arg()
		to, _ := cmd.arg()
		a, _ := c.view.Internal(mbox.Extern(from))
		z, _ := c.view.Internal(mbox.Extern(to))
		c.b.drop(a)
		c.b.add(z, mbox.ACL(c.user+"\tlrswipkxtecda\t"))
	case "XFER":
		c.withBox(cmd, func(ext string, name mbox.Name, _ *box) {
			target, _ := cmd.arg()
			mbox.Subtree(c.b.dir.View(), name, func(e mbox.Entry) bool {
				c.b.dir.set(e.Name, mbox.At(mbox.Server(target), "default"), e.ACL)
				return true
			})
			c.say("* OK USER %s", ext)
		})
		return true
	case "SETACL":
		c.withBox(cmd, func(_ string, name mbox.Name, _ *box) {
			who, _ := cmd.arg()
			rights, _ := cmd.arg()
			e, _ := c.b.dir.View().Get(name)
			c.b.dir.set(name, e.Location, e.ACL+mbox.ACL(who+"\t"+rights+"\t"))
		})
		return true
	default: // whatever else the frontend knows succeeds
		if verbs[cmd.name] == nil {
			c.say("%s BAD unknown %s", tag, cmd.name)
			return true
		}
	}
	c.say("%s OK done", tag)
	return true
}

// own logs a user in by his own password.
func (c *stubConn) own(tag, user, password string) bool {
	if want, ok := c.b.passwords[user]; !ok || want != password {
		return false
	}
	c.user, c.in = user, true
	c.view = c.b.ns.View(mbox.UserID(user), false, false)
	c.say("%s OK [CAPABILITY %s] you are %s", tag, c.caps, c.user)
	return true
}

func (b *stub) drop(name mbox.Name) {
	b.mu.Lock()
	delete(b.boxes, name)
	b.mu.Unlock()
	b.dir.mu.Lock()
	b.dir.put(mbox.Entry{Name: name})
	b.dir.mu.Unlock()
}

func (c *stubConn) withBox(cmd *command, do func(string, mbox.Name, *box)) {
	ext, _ := cmd.arg()
	name, err := c.view.Internal(mbox.Extern(ext))
	c.b.mu.Lock()
	bx := c.b.boxes[name]
	c.b.mu.Unlock()
	if err != nil || bx == nil {
		c.say("%s NO Mailbox does not exist", cmd.tag)
		return
	}
	do(ext, name, bx)
	c.say("%s OK done", cmd.tag)
}

func (c *stubConn) open(cmd *command) {
	if c.sel != "" {
		c.say("* OK [CLOSED] closed")
		c.sel = ""
	}
	ext, _ := cmd.arg()
	name, _ := c.view.Internal(mbox.Extern(ext))
	c.b.mu.Lock()
	bx := c.b.boxes[name]
	c.b.mu.Unlock()
	if bx == nil {
		c.say("%s NO Mailbox does not exist", cmd.tag)
		return
	}
	c.sel, c.told = name, c.b.count(name)
	c.say("* %d EXISTS", c.told)
	c.say("* OK [UIDVALIDITY %d] here: %s", bx.validity, c.b.name)
	c.say("%s OK [READ-WRITE] opened", cmd.tag)
}

// stubIdle is how long a stub lets a client idle. Cyrus: imapidletimeout, 32 minutes or so.
const stubIdle = 31 * time.Minute

func (c *stubConn) idle(tag string) bool {
	c.say("+ idling")
	c.say("* 7 EXISTS")
	c.conn.SetReadDeadline(time.Now().Add(stubIdle))
	defer c.conn.SetReadDeadline(time.Time{})
	for {
		line, err := imapwire.ReadLine(c.r, nil, 1000)
		if err != nil {
			c.say("* BYE idle for too long")
			return false
		}
		if strings.EqualFold(string(line), "DONE") {
			c.say("%s OK idled", tag)
			return true
		}
	}
}

func (c *stubConn) append(cmd *command) {
	ext, _ := cmd.arg()
	name, _ := c.view.Internal(mbox.Extern(ext))
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	bx := c.b.boxes[name]
	if bx == nil {
		c.say("%s NO [TRYCREATE] no such mailbox", cmd.tag)
		return
	}
	var added []stubMessage
	if at, ok := catenateAt(cmd.b, cmd.args); ok {
		body, bad := "", ""
		for cmd.pos = at; !cmd.eat(')'); cmd.eat(' ') {
			kind, _ := cmd.astring(false)
			value, err := cmd.arg()
			if err != nil {
				c.say("%s BAD %v", cmd.tag, err)
				return
			}
			if kind == "URL" && !strings.HasPrefix(value, "/local") {
				bad = value
			}
			body += value
		}
		if bad != "" {
			c.say("%s NO [BADURL %q] no such part", cmd.tag, bad)
			return
		}
		added = append(added, stubMessage{body: []byte(body)})
	}
	for cmd.eat(' ') {
		var m stubMessage
		if cmd.next() == '(' {
			m.flags, _ = cmd.list()
			cmd.eat(' ')
		}
		if cmd.next() == '"' {
			m.date, _ = cmd.quoted()
			cmd.eat(' ')
		}
		body, err := cmd.literal()
		if err != nil {
			c.say("%s BAD %v", cmd.tag, err)
			return
		}
		m.body = []byte(body)
		added = append(added, m)
	}
	first := bx.next
	for _, m := range added {
		bx.add(m)
	}
	set := strconv.Itoa(int(first))
	if len(added) > 1 {
		set += ":" + strconv.Itoa(int(bx.next)-1)
	}
	c.say("%s OK [APPENDUID %d %s] appended", cmd.tag, bx.validity, set)
}

// set takes a set of messages.
func (c *command) set() string {
	c.eat(' ')
	set, _ := c.astring(true)
	return set
}

// each calls do for the messages of a set of UIDs, or of all with "1:*".
func (c *stubConn) each(set string, do func(*stubMessage)) {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	bx := c.b.boxes[c.sel]
	for i := range bx.list {
		if m := &bx.list[i]; inSet(set, m.uid) {
			do(m)
		}
	}
}

func inSet(set string, uid uint32) bool {
	for part := range strings.SplitSeq(set, ",") {
		from, to, ranged := strings.Cut(part, ":")
		a, _ := strconv.Atoi(from)
		z := a
		if ranged {
			z, _ = strconv.Atoi(strings.ReplaceAll(to, "*", "99999999"))
		}
		if int(uid) >= a && int(uid) <= z {
			return true
		}
	}
	return false
}

func (c *stubConn) fetch(cmd *command) {
	set := cmd.set()
	items := strings.ToUpper(string(cmd.rest()))
	var out bytes.Buffer
	c.b.mu.Lock()
	for i, m := range c.b.boxes[c.sel].list {
		number := m.uid
		if cmd.name == "FETCH" {
			number = uint32(i + 1)
		}
		if !inSet(set, number) {
			continue
		}
		fmt.Fprintf(&out, "* %d FETCH (UID %d", i+1, m.uid)
		if strings.Contains(items, "FLAGS") {
			fmt.Fprintf(&out, " FLAGS (%s)", strings.Join(m.flags, " "))
		}
		if strings.Contains(items, "INTERNALDATE") {
			fmt.Fprintf(&out, " INTERNALDATE %q", m.date)
		}
		if strings.Contains(items, "BODY") {
			fmt.Fprintf(&out, " BODY[] {%d}\r\n%s", len(m.body), m.body)
		}
		out.WriteString(")\r\n")
	}
	c.b.mu.Unlock()
	if f := c.b.fault("BODY"); f == "cut" {
		// In the middle of the last literal.
		c.conn.Write(out.Bytes()[:bytes.LastIndexByte(out.Bytes(), '}')+4])
		c.conn.Close()
		return
	}
	c.conn.Write(out.Bytes())
}

func (c *stubConn) expunge(set string) {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	bx := c.b.boxes[c.sel]
	for i := 0; i < len(bx.list); {
		if m := bx.list[i]; inSet(set, m.uid) && slices.Contains(m.flags, `\Deleted`) {
			bx.list = slices.Delete(bx.list, i, i+1)
			c.say("* %d EXPUNGE", i+1)
			continue
		}
		i++
	}
}

// eventually waits for a condition that another goroutine brings about.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if cond() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}
